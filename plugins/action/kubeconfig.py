"""Fetch the admin kubeconfig of a cluster from a control plane node into the state directory."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import kubeconfig
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import remote


class ActionModule(Action, ActionBase):
    _requires_connection = True

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        state, cluster = Path(args["state"]), args["cluster"]
        name = kubeconfig.context_name(args["environment"], cluster)
        server = kubeconfig.server_url(args["address"], args["port"])
        path = kubeconfig.path_of(state, cluster)
        result: dict[str, Any] = {"path": str(path), "context": name, "server": server}
        if args["known"] and kubeconfig.is_made_of(state, cluster, args["known"], server):
            return {"changed": False, **result}
        # By the connection's file transfer: a module would return the keys, and -vvv would print them.
        with tempfile.TemporaryDirectory(prefix="devenv-") as folder:
            copy = Path(folder) / "fetched"
            try:
                if self._play_context.become or self._connection.transport == "ssh":
                    _fetch(args["src"], copy, variables)
                else:
                    self._connection.fetch_file(args["src"], str(copy))
            except AnsibleError as error:
                # In check mode, the cluster that creates the file may not exist yet.
                if self.check and not isinstance(error, AnsibleConnectionFailure):
                    return {"changed": True, **result}
                raise
            content = kubeconfig.rewrite(copy.read_text(errors="replace"), name=name, server=server, where=args["src"])
        if self.check:
            changed = not kubeconfig.is_current(state, cluster, content)
        else:
            changed = kubeconfig.write(state, cluster, content)
        result["changed"] = changed
        if self._task.diff and changed:
            result["diff"] = {"prepared": f"{path}: new credentials or server {server} (content not shown)"}
        return result


def _fetch(src: str, copy: Path, task_vars: dict[str, Any]) -> None:
    """Copy by ssh: the connection's file transfer runs as the login user, who may not read the file, and fails if the
    user's shell prints a greeting.
    """
    target = remote.target(str(task_vars["inventory_hostname"]), task_vars)
    done = remote.execute(target, shlex.join([*target.python[:-1], "cat", "--", src]), check=False)
    if done.code != 0:
        raise AnsibleError(f"{src}: {done.stderr.strip()}")
    copy.touch(mode=0o600)
    copy.write_text(done.stdout)
