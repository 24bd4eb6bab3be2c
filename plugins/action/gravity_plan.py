"""Plan what a Gravity tarball installs on which node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action
from ansible_collections.devenv.lab.plugins.plugin_utils.engines.gravity import tarball
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import state
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import GravitySettings


class ActionModule(Action, ActionBase):
    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        hostvars = variables["hostvars"]
        nodes = [
            {
                "name": name,
                "group": hostvars[name]["devenv_group"],
                "node_type": hostvars[name].get("devenv_node_type", ""),
            }
            for name in args["nodes"]
        ]
        folder = tarball.unpacked(args["tarball"], args["sha256"], paths.cache())
        plan = tarball.plan(tarball.application(folder), nodes, args["flavor"])
        changed = bool(args["state"]) and self._record(Path(args["state"]), args)
        return {
            "changed": changed,
            "program": str(folder / tarball.PROGRAM),
            "version": plan.version,
            "flavor": plan.flavor,
            "node_types": dict(plan.types),
        }

    def _record(self, folder: Path, args: dict[str, Any]) -> bool:
        """Write the tarball into the environment's profile; return whether that changes anything."""
        resolved = state.stored_profile(folder)
        settings: GravitySettings = {
            **resolved["kubernetes"]["gravity"],
            "tarball": args["tarball"],
            "sha256": args["sha256"],
        }
        resolved["kubernetes"] = {**resolved["kubernetes"], "gravity": settings}
        if self.check:
            return bool(state.read_profile(folder) != resolved)
        changed = [state.write_profile(folder, resolved), state.write_inventory(folder)]
        return any(changed)
