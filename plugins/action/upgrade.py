"""Plan, prepare and record an upgrade: the steps on the controller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import store as bundles
from ansible_collections.devenv.lab.plugins.plugin_utils.core import errors
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory, upgrade_record
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import remote
from ansible_collections.devenv.lab.plugins.plugin_utils.upgrades import delivery as upgrade_delivery
from ansible_collections.devenv.lab.plugins.plugin_utils.upgrades import plan as upgrade


class ActionModule(Action, ActionBase):
    SELECT = "action"

    def _plan(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        folder, resolved = _place(variables)
        engines.require_operation(str(resolved["kubernetes"]["engine"]), "upgrade")
        name, begun = str(variables["devenv_name"]), upgrade_record.pending(folder)
        new = upgrade.check(name, str(resolved["kubernetes"]["version"]), args["version"], begun)
        if args["version"] != new.kubernetes:
            # Roles would write the other form into files on nodes.
            raise errors.DevenvError("bundle_version_unknown", f"{args['version']}: write it as {new.kubernetes}")
        stopped = [
            node["name"] for node in resolved["nodes"] if node["cluster"] and node["name"] not in args["running"]
        ]
        if stopped:
            raise errors.DevenvError("upgrade_not_ready", f"not running: {', '.join(stopped)}")
        nodes = upgrade.node_versions(folder, list(resolved["clusters"]), begun is not None)
        upgrade.require_ready(resolved, nodes, begun is not None)
        plan = upgrade.plan(name, resolved, new, nodes, begun, bundles.find(new.kubernetes) is not None)
        for line in upgrade.lines(plan):
            self.progress(line)
        return {
            "changed": False,
            "plan": plan,
            "outdated": upgrade_delivery.outdated(plan["from"], plan["to"]),
            "first": [row["node"] for row in plan["nodes"] if " apply " in row["command"]],
        }

    def _deliver(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        folder, resolved = _place(variables)
        write = not self.check
        if not write and bundles.find(args["version"]) is None:
            return {"changed": True, "programs": {}, "delivered": {}}
        bundle = bundles.require(args["version"])
        nodes = [node for node in resolved["nodes"] if node["cluster"]]
        targets = [remote.target(node["name"], variables["hostvars"][node["name"]]) for node in nodes]
        masters = [node["name"] for node in nodes if node["group"] == "control_plane"]
        delivered = upgrade_delivery.deliver(bundle, targets, masters, self.progress, write=write)
        # The next steps change nodes.
        old = str(resolved["kubernetes"]["version"])
        noted = (
            write
            and upgrade_record.pending(folder) is None
            and upgrade_record.begin(folder, old, bundle.manifest.kubernetes)
        )
        return {
            "changed": bool(delivered) or noted,
            "programs": upgrade_delivery.programs(bundle),
            "delivered": delivered,
        }

    def _finish(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        folder, resolved = _place(variables)
        if self.check:
            return {"changed": str(resolved["kubernetes"]["version"]) != args["version"]}
        return {"changed": upgrade_record.finish(folder, args["version"])}


def _place(variables: dict[str, Any]) -> tuple[Path, Profile]:
    return inventory.state_folder(variables), inventory.required_profile(variables)
