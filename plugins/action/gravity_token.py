"""Copy the join token of a Gravity cluster from a master to a private file on the controller."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core import files
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import remote

REMOTE = "/run/devenv/gravity-join.json"


class ActionModule(Action, ActionBase):
    """Returns the healthy masters, never the token."""

    _requires_connection = True

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        if self.check:
            return {"changed": False, "path": args["path"], "masters": []}
        written: dict[str, Any] = self._execute_module(
            "devenv.lab.gravity", module_args={"action": "token", "path": REMOTE}, task_vars=variables
        )
        if written.get("failed"):
            return written
        self._fetch(Path(args["path"]), variables)
        # The file exists only during a run, so it does not count as a change of the environment.
        return {"changed": False, "path": args["path"], "masters": written["masters"]}

    def _fetch(self, path: Path, task_vars: dict[str, Any]) -> None:
        # By ssh, not by a module: that would return the token, and -vvv would print it.
        host = str(self._task.delegate_to or task_vars["inventory_hostname"])
        target = remote.target(host, task_vars["hostvars"][host])
        sudo = "sudo -n " if self._play_context.become else ""
        script = f"{sudo}cat -- {REMOTE} && {sudo}rm -f -- {REMOTE}"
        result = remote.execute(target, shlex.join(["sh", "-c", script]), check=False)
        if result.code != 0:
            raise DevenvError("gravity_status", f"{REMOTE}: {result.stderr.strip()}", where=host)
        files.write(path, result.stdout)
