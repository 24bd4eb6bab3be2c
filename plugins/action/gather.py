# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Collect what an environment knows of itself: see plugins/modules/gather.py for its documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action, Spec
from ansible_collections.devenv.lab.plugins.plugin_utils.diagnostics import archive as gather


class ActionModule(Action, ActionBase):
    """Write one archive, whatever answers."""

    SPEC: ClassVar[Spec] = {
        "state": {"type": "path", "required": True},
        "output": {"type": "str", "default": ""},
        "timeout": {"type": "float", "default": gather.TIMEOUT},
    }

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        source = gather.source_of(Path(args["state"]))
        path = gather.archive_path(args["output"], source.name)
        if self.check:
            return {"changed": False, "path": str(path), "parts": [], "troubles": []}
        done = gather.collect(source, path, timeout=args["timeout"], progress=self.say)
        return {
            "changed": False,
            "path": str(done.path),
            "parts": [vars(part) for part in done.parts],
            "troubles": done.troubles,
        }
