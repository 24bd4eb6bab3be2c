# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fetch the cluster's admin kubeconfig from a control plane node into the state folder."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path
from typing import Any, ClassVar

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core import program
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action, Spec
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import kubeconfig
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import remote


class ActionModule(Action, ActionBase):
    _requires_connection = True
    SPEC: ClassVar[Spec] = {
        "src": {"type": "path", "default": "/etc/kubernetes/admin.conf"},
        "known": {"type": "str", "default": ""},
        "state": {"type": "path", "required": True},
        "environment": {"type": "str", "required": True},
        "cluster": {"type": "str", "default": kubeconfig.DEFAULT_CLUSTER},
        "address": {"type": "str", "required": True},
        "port": {"type": "int", "default": 6443},
    }

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        state, cluster = Path(args["state"]), args["cluster"]
        name = kubeconfig.context_name(args["environment"], cluster)
        server = kubeconfig.server_url(args["address"], args["port"])
        path = kubeconfig.path_of(state, cluster)
        told: dict[str, Any] = {"path": str(path), "context": name, "server": server}
        if args["known"] and kubeconfig.is_made_of(state, cluster, args["known"], server):
            return {"changed": False, **told}
        # The connection's own file transfer: a module would return the keys, and -vvv would print them.
        with tempfile.TemporaryDirectory(prefix="devenv-") as folder:
            copy = Path(folder) / "fetched"
            try:
                if self._play_context.become:
                    _fetch_as_root(args["src"], copy, variables)
                else:
                    self._connection.fetch_file(args["src"], str(copy))
            except AnsibleError as error:
                # There is none yet on a node whose cluster this run would have made.
                if self.check and not isinstance(error, AnsibleConnectionFailure):
                    return {"changed": True, **told}
                raise
            content = kubeconfig.rewrite(copy.read_text(errors="replace"), name=name, server=server, where=args["src"])
        if self.check:
            changed = not kubeconfig.is_current(state, cluster, content)
        else:
            changed = kubeconfig.write(state, cluster, content)
        result: dict[str, Any] = {"changed": changed, **told}
        if self._task.diff and changed:
            result["diff"] = {"prepared": f"{path}: new credentials or server {server} (content not shown)"}
        return result


def _fetch_as_root(src: str, copy: Path, task_vars: dict[str, Any]) -> None:
    """By ssh and sudo: the connection's file transfer is the login user's, who may not read it."""
    one = remote.target(str(task_vars["inventory_hostname"]), task_vars)
    done = program.run([*one.ssh, shlex.join(["sudo", "-n", "cat", "--", src])], check=False)
    if done.code != 0:
        raise AnsibleError(f"{src}: {done.stderr.strip()}")
    copy.touch(mode=0o600)
    copy.write_text(done.stdout)
