# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Apply and prune a set of objects on clusters: see plugins/modules/kube_objects.py for its documentation."""

from __future__ import annotations

from typing import Any

import yaml
from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError, as_result
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client, clusters, objects

ARGUMENTS: dict[str, dict[str, Any]] = {
    "nodes": {"type": "list", "elements": "str", "required": True},
    "name": {"type": "str", "required": True},
    "objects": {"type": "list", "elements": "dict", "required": True},
    "timeout": {"type": "float", "default": 60},
}


class ActionModule(ActionBase):
    """All objects of all clusters in one call, from the controller."""

    _requires_connection = False
    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        arguments = self.validate_argument_spec(argument_spec=ARGUMENTS)[1]
        try:
            return self._converge(arguments, (task_vars or {})["hostvars"])
        except DevenvError as error:
            return as_result(error)

    def _converge(self, arguments: dict[str, Any], hostvars: Any) -> dict[str, Any]:
        check = bool(self._task.check_mode)
        total = objects.Outcome()
        for cluster in clusters.from_hostvars(arguments["nodes"], hostvars):
            if check and not cluster.kubeconfig.exists():
                # A first run in check mode: there is no cluster yet that could be asked.
                total.changed += [str(objects.ref_of(item)) for item in arguments["objects"]]
                continue
            with client.Api(client.read_access(cluster.kubeconfig)) as api:
                outcome = objects.converge(
                    api, arguments["name"], arguments["objects"], timeout=arguments["timeout"], check=check
                )
            total.changed += outcome.changed
            total.removed += outcome.removed
            total.differences += outcome.differences
        result: dict[str, Any] = {
            "changed": bool(total.changed or total.removed),
            "applied": total.changed,
            "removed": total.removed,
        }
        if self._task.diff:
            result["diff"] = [_difference(*row) for row in total.differences]
        return result


def _difference(name: str, before: Any, after: Any) -> dict[str, str]:
    texts = {key: yaml.safe_dump(item) if item else "" for key, item in (("before", before), ("after", after))}
    return {"before_header": name, "after_header": name, **texts}
