# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Report the programs and images of another version that a node lacks. Runs on the node as a program on stdin
(plugin_utils/ssh/remote.py).
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.node import files, program


def missing(programs: dict[str, str], folders: list[str]) -> list[str]:
    """Return those of ``programs`` (name to sha256) that none of ``folders`` contains."""
    return [
        name
        for name, checksum in programs.items()
        if checksum not in [files.digest(os.path.join(folder, name)) for folder in folders]
    ]


def look(arguments: dict[str, Any]) -> None:
    """Print what is missing.

    ``arguments``: ``programs`` (name to sha256), ``folders`` that may contain them, ``stage`` (the folder that receives
    them), ``write`` (whether to create that).
    """
    if arguments["write"]:
        os.makedirs(arguments["stage"], mode=0o700, exist_ok=True)
    lacking = missing(arguments["programs"], [*arguments["folders"], arguments["stage"]])
    images = program.run(["ctr", "-n", "k8s.io", "images", "check"], timeout=60).stdout
    for document in ({"time": time.time()}, {"missing": lacking, "images": images}):
        sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()
