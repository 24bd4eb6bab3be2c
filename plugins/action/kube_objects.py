"""Apply and prune a set of objects on all clusters in one call, from the controller."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action, difference
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client, clusters, objects


class ActionModule(Action, ActionBase):
    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        total = objects.ApplyOutcome()
        for cluster in clusters.from_hostvars(args["nodes"], variables["hostvars"]):
            if self.check and not cluster.kubeconfig.exists():
                # The first run in check mode: the cluster does not exist yet.
                total.changed += [str(objects.ref_of(item)) for item in args["objects"]]
                continue
            with client.Api(client.read_access(cluster.kubeconfig)) as api:
                members = objects.ApplySet(api, args["name"], 0 if self.check else args["timeout"])
                outcome = members.converge(args["objects"], check=self.check)
            total.changed += outcome.changed
            total.removed += outcome.removed
            total.differences += outcome.differences
        result: dict[str, Any] = {
            "changed": bool(total.changed or total.removed),
            "applied": total.changed,
            "removed": total.removed,
        }
        if self._task.diff:
            result["diff"] = [difference(*row) for row in total.differences]
        return result
