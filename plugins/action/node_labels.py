# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Put the profile's labels, taints and pod ranges on the Node objects, for all nodes in one call."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core import progress
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError, as_result
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import members
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client, clusters, labels

ARGUMENTS: dict[str, dict[str, Any]] = {
    "nodes": {"type": "list", "elements": "str", "required": True},
    "timeout": {"type": "float", "default": 120},
}


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        arguments = self.validate_argument_spec(argument_spec=ARGUMENTS)[1]
        try:
            return self._apply(arguments, task_vars or {})
        except DevenvError as error:
            return as_result(error)

    def _apply(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        check = bool(self._task.check_mode)
        changed: list[str] = []
        absent: list[str] = []
        differences: list[dict[str, Any]] = []
        for cluster in clusters.from_hostvars(arguments["nodes"], task_vars["hostvars"]):
            if check and not cluster.kubeconfig.exists():
                # A first run in check mode: the cluster is not there yet, so all of its nodes would be labelled.
                absent += [node.name for node in cluster.nodes]
                continue
            with client.Api(client.read_access(cluster.kubeconfig)) as api:
                outcome = labels.apply(
                    cluster,
                    api,
                    timeout=arguments["timeout"],
                    check=check,
                    progress=progress.say,
                )
            if not check and task_vars.get("devenv_state"):
                # All have registered: from now on, one that is gone is missed.
                masters = [node.name for node in cluster.nodes if node.group == "control_plane"]
                members.record(Path(str(task_vars["devenv_state"])), cluster.name, masters)
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
