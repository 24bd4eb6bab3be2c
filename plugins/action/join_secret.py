"""Create or remove the secret that nodes need to join, on the controller."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action
from ansible_collections.devenv.lab.plugins.plugin_utils.engines.kubeadm import join_secret


class ActionModule(Action, ActionBase):
    """Returns where the secret is, never the secret."""

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        path = Path(args["path"])
        if args["state"] == "absent":
            join_secret.remove(path, check=self.check)
        else:
            join_secret.ensure(path, time.time(), check=self.check)
        # The file exists only during a run, so it does not count as a change of the environment.
        return {"changed": False, "path": str(path)}
