# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Put the profile's labels, taints and pod ranges on the Node objects, for all nodes in one call."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import yaml
from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action, Spec
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import members
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client, clusters, labels


class ActionModule(Action, ActionBase):
    SPEC: ClassVar[Spec] = {
        "nodes": {"type": "list", "elements": "str", "required": True},
        "timeout": {"type": "float", "default": 120},
    }

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        changed: list[str] = []
        absent: list[str] = []
        differences: list[dict[str, Any]] = []
        for cluster in clusters.from_hostvars(args["nodes"], variables["hostvars"]):
            if self.check and not cluster.kubeconfig.exists():
                # A first run in check mode: the cluster is not there yet, so all of its nodes would be labelled.
                absent += [node.name for node in cluster.nodes]
                continue
            with client.Api(client.read_access(cluster.kubeconfig)) as api:
                outcome = labels.apply(
                    cluster,
                    api,
                    timeout=args["timeout"],
                    check=self.check,
                    progress=self.say,
                )
            if not self.check and variables.get("devenv_state"):
                # All have registered: from now on, one that is gone is missed.
                masters = [node.name for node in cluster.nodes if node.group == "control_plane"]
                members.record(Path(str(variables["devenv_state"])), cluster.name, masters)
            changed += outcome.changed
            absent += outcome.absent
            differences += [asdict(change) for change in outcome.changes if change.patch]
        result: dict[str, Any] = {"changed": bool(changed or absent), "nodes": changed, "absent": absent}
        if self._task.diff:
            result["diff"] = [_difference(change) for change in differences]
        return result


def _difference(change: dict[str, Any]) -> dict[str, str]:
    return {
        "before_header": change["node"],
        "after_header": change["node"],
        "before": yaml.safe_dump(change["before"]),
        "after": yaml.safe_dump(change["after"]),
    }
