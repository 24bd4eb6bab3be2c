# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Check that clusters are ready: see plugins/modules/validate.py for its documentation."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.devenv.lab.plugins.plugin_utils import clusters, validate
from ansible_collections.devenv.lab.plugins.plugin_utils.errors import DevenvError, as_result

display = Display()


class ActionModule(ActionBase):
    """Look at every cluster of the nodes given; fail with what is missing when the time is over."""

    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset(("nodes", "probes", "changed", "timeout", "domain"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        args = self.validate_argument_spec(
            argument_spec={
                "nodes": {"type": "list", "elements": "str", "required": True},
                "probes": {"type": "str", "choices": ["auto", "always", "never"], "default": "auto"},
                "changed": {"type": "bool", "default": False},
                "timeout": {"type": "float", "default": 300},
                "domain": {"type": "str", "default": "cluster.local"},
            }
        )[1]
        checks: list[dict[str, Any]] = []
        try:
            for cluster in clusters.from_hostvars(args["nodes"], (task_vars or {})["hostvars"]):
                report = validate.run(
                    cluster,
                    probes=args["probes"],
                    changed=args["changed"],
                    timeout=args["timeout"],
                    domain=args["domain"],
                    check=bool(self._task.check_mode),
                    progress=lambda text: display.display(f"progress: {text}"),
                )
                checks += [{"cluster": cluster.name, **check.as_dict()} for check in report.checks]
                if report.failure and not self._task.check_mode:
                    return as_result(report.failure) | {"checks": checks}
        except DevenvError as error:
            return as_result(error) | {"checks": checks}
        return {"changed": False, "checks": checks}
