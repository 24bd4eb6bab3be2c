"""Apply the profile's labels, taints and pod ranges to the Node objects, for all nodes in one call."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action, difference
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory, members
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client, clusters, labels


class ActionModule(Action, ActionBase):
    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        changed: list[str] = []
        absent: list[str] = []
        differences: list[dict[str, str]] = []
        for cluster in clusters.from_hostvars(args["nodes"], variables["hostvars"]):
            if self.check and not cluster.kubeconfig.exists():
                # The first run in check mode: the cluster does not exist yet, so all of its nodes would be labelled.
                absent += [node.name for node in cluster.nodes]
                continue
            with client.Api(client.read_access(cluster.kubeconfig)) as api:
                outcome = labels.apply(cluster, api, timeout=args["timeout"], check=self.check, progress=self.progress)
            if not self.check and variables.get("devenv_state"):
                # All nodes have registered. From now on, devenv reports one that is missing.
                masters = [node.name for node in cluster.nodes if node.group == "control_plane"]
                members.record(inventory.state_folder(variables), cluster.name, masters)
            changed += outcome.changed
            absent += outcome.absent
            changes = [change for change in outcome.changes if change.patch]
            differences += [difference(change.node, change.before, change.after) for change in changes]
        result: dict[str, Any] = {"changed": bool(changed or absent), "nodes": changed, "absent": absent}
        if self._task.diff:
            result["diff"] = differences
        return result
