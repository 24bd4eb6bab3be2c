# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bring what nodes need to join a Gravity cluster from a master to the controller, in a private file."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, program
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError, as_result
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import remote

REMOTE = "/run/devenv/gravity-join.json"
ARGUMENTS: dict[str, dict[str, Any]] = {"path": {"type": "path", "required": True}}


class ActionModule(ActionBase):
    """Says which masters are healthy, never the token."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        arguments = self.validate_argument_spec(argument_spec=ARGUMENTS)[1]
        if self._task.check_mode:
            return {"changed": False, "path": arguments["path"], "masters": []}
        written: dict[str, Any] = self._execute_module(
            "devenv.lab.gravity", module_args={"action": "token", "path": REMOTE}, task_vars=task_vars
        )
        if written.get("failed"):
            return written
        try:
            self._fetch(Path(arguments["path"]), task_vars or {})
        except DevenvError as error:
            return as_result(error)
        # A file for the time of a run is no change of the environment.
        return {"changed": False, "path": arguments["path"], "masters": written["masters"]}

    def _fetch(self, path: Path, task_vars: dict[str, Any]) -> None:
        # Over ssh itself: a module would return the token, and -vvv would print it.
        host = str(self._task.delegate_to or task_vars["inventory_hostname"])
        one = remote.target(host, task_vars["hostvars"][host])
        sudo = "sudo -n " if self._play_context.become else ""
        script = f"{sudo}cat -- {REMOTE} && {sudo}rm -f -- {REMOTE}"
        done = program.run([*one.ssh, shlex.join(["sh", "-c", script])], check=False)
        if done.code != 0:
            raise DevenvError("gravity_status", f"{REMOTE}: {done.stderr.strip()}", where=host)
        files.write(path, done.stdout)
