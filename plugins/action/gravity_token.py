# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bring what nodes need to join a Gravity cluster from a master to the controller, in a private file."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, ClassVar

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, program
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action, Spec
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import remote

REMOTE = "/run/devenv/gravity-join.json"


class ActionModule(Action, ActionBase):
    """Says which masters are healthy, never the token."""

    _requires_connection = True
    SPEC: ClassVar[Spec] = {"path": {"type": "path", "required": True}}

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        if self.check:
            return {"changed": False, "path": args["path"], "masters": []}
        written: dict[str, Any] = self._execute_module(
            "devenv.lab.gravity", module_args={"action": "token", "path": REMOTE}, task_vars=variables
        )
        if written.get("failed"):
            return written
        self._fetch(Path(args["path"]), variables)
        # A file for the time of a run is no change of the environment.
        return {"changed": False, "path": args["path"], "masters": written["masters"]}

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
