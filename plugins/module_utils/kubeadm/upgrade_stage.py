# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Find what a node lacks of another version. Runs on it as a program on stdin (plugin_utils/ssh/remote.py)."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.node import files, program


def lacks(wanted: dict[str, str], folders: list[str]) -> list[str]:
    """Return those of ``wanted`` (name to sha256) that none of ``folders`` has."""
    return [
        name
        for name, checksum in wanted.items()
        if checksum not in [files.digest(os.path.join(folder, name)) for folder in folders]
    ]


def look(arguments: dict[str, Any]) -> None:
    """Print what is missing. ``arguments``: ``programs`` (name to sha256), ``folders`` where they may stand, ``stage``
    (the folder to bring them to, which is made), ``write`` (whether it may be).
    """
    if arguments["write"]:
        os.makedirs(arguments["stage"], mode=0o700, exist_ok=True)
    missing = lacks(arguments["programs"], [*arguments["folders"], arguments["stage"]])
    images = program.run(["ctr", "-n", "k8s.io", "images", "check"], timeout=60).stdout
    sys.stdout.write(json.dumps({"time": time.time()}) + "\n")
    sys.stdout.write(json.dumps({"missing": missing, "images": images}) + "\n")
    sys.stdout.flush()
