"""Merge the kubeconfigs of an environment into the user's own, or remove them from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import kubeconfig, kubeconfig_merge


class ActionModule(Action, ActionBase):
    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        folder = Path(args["folder"])
        if args["state"] == "absent":
            files = kubeconfig_merge.unmerge(folder, check=self.check)
        else:
            sources = kubeconfig.of_clusters(folder, args["clusters"])
            usual = kubeconfig.usual(list(sources)) if args["switch_context"] else ""
            switch_to = kubeconfig.context_name(folder.name, usual) if usual else ""
            files = kubeconfig_merge.merge(list(sources.values()), switch_to=switch_to, check=self.check)
        return {"changed": bool(files), "files": [str(path) for path in files]}
