# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Apply and prune a set of objects on clusters: see plugins/modules/kube_objects.py for its documentation."""

from __future__ import annotations

from typing import Any, ClassVar

import yaml
from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action, Spec
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client, clusters, objects


class ActionModule(Action, ActionBase):
    """All objects of all clusters in one call, from the controller."""

    SPEC: ClassVar[Spec] = {
        "nodes": {"type": "list", "elements": "str", "required": True},
        "name": {"type": "str", "required": True},
        "objects": {"type": "list", "elements": "dict", "required": True},
        "timeout": {"type": "float", "default": 60},
    }

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        total = objects.ApplyOutcome()
        for cluster in clusters.from_hostvars(args["nodes"], variables["hostvars"]):
            if self.check and not cluster.kubeconfig.exists():
                # A first run in check mode: there is no cluster yet that could be asked.
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
            result["diff"] = [_difference(*row) for row in total.differences]
        return result


def _difference(name: str, before: Any, after: Any) -> dict[str, str]:
    texts = {key: yaml.safe_dump(item) if item else "" for key, item in (("before", before), ("after", after))}
    return {"before_header": name, "after_header": name, **texts}
