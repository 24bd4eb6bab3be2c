# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Collect what an environment knows of itself: see plugins/modules/gather.py for its documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core import progress
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError, as_result
from ansible_collections.devenv.lab.plugins.plugin_utils.diagnostics import archive as gather


class ActionModule(ActionBase):
    """Write one archive, whatever answers."""

    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset(("state", "output", "timeout"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        args = self.validate_argument_spec(
            argument_spec={
                "state": {"type": "path", "required": True},
                "output": {"type": "str", "default": ""},
                "timeout": {"type": "float", "default": gather.TIMEOUT},
            }
        )[1]
        try:
            source = gather.source_of(Path(args["state"]))
            path = gather.archive_path(args["output"], source.name)
            if self._task.check_mode:
                return {"changed": False, "path": str(path), "parts": [], "troubles": []}
            done = gather.collect(
                source,
                path,
                timeout=args["timeout"],
                progress=progress.say,
            )
        except DevenvError as error:
            return as_result(error)
        return {
            "changed": False,
            "path": str(done.path),
            "parts": [vars(part) for part in done.parts],
            "troubles": done.troubles,
        }
