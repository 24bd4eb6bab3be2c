"""Log in to a Gravity cluster with tsh."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action
from ansible_collections.devenv.lab.plugins.plugin_utils.engines.gravity import tsh


class ActionModule(Action, ActionBase):
    """The certificate comes from the master over ssh, which is what makes it trustworthy."""

    _requires_connection = True

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        folder = Path(args["folder"])
        if self.check:
            return {"changed": True, "kubeconfig": str(folder / "kubeconfig")}
        read: dict[str, Any] = self._execute_module(
            "devenv.lab.gravity",
            module_args={"action": "certificate", "address": args["address"]},
            task_vars=variables,
        )
        if read.get("failed"):
            return read
        kubeconfig = tsh.login(
            args["program"],
            args["proxy"],
            args["user"],
            args["password"],
            folder=folder,
            certificate=read["certificate"],
            arguments=args["arguments"],
            timeout=args["timeout"],
        )
        return {"changed": True, "kubeconfig": str(kubeconfig)}
