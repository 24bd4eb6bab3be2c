# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Check that clusters are ready: see plugins/modules/validate.py for its documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core import deadline
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action, Spec
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError, as_result
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import clusters
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import remote
from ansible_collections.devenv.lab.plugins.plugin_utils.validation import report
from ansible_collections.devenv.lab.plugins.plugin_utils.validation import run as validate


class ActionModule(Action, ActionBase):
    """Look at every cluster of the nodes given; fail with what is missing when the time is over."""

    SPEC: ClassVar[Spec] = {
        "nodes": {"type": "list", "elements": "str", "required": True},
        "probes": {"type": "str", "choices": ["auto", "always", "never"], "default": "auto"},
        "changed": {"type": "bool", "default": False},
        "timeout": {"type": "float", "default": 300},
        "domain": {"type": "str", "default": "cluster.local"},
        "junit": {"type": "path"},
    }

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        reports: dict[str, report.Report] = {}
        failure: DevenvError | None = None
        try:
            for cluster in clusters.from_hostvars(args["nodes"], variables["hostvars"]):
                reports[cluster.name] = self._look(cluster, args, variables)
            failure = report.combined(reports)
        except DevenvError as error:
            failure = error
        rows = [row for name, one in reports.items() for row in report.rows(name, one.checks)]
        if not self.check:
            try:
                self._write(rows, args["junit"], variables)
            except OSError as error:
                failure = failure or DevenvError(
                    "state_unwritable", f"{error.strerror}", where=str(error.filename or args["junit"])
                )
            if failure:
                return as_result(failure) | {"checks": rows}
        return {"changed": False, "checks": rows}

    def _look(self, cluster: clusters.Cluster, args: dict[str, Any], variables: dict[str, Any]) -> report.Report:
        hostvars = variables["hostvars"]
        return validate.run(
            cluster,
            probes=args["probes"],
            changed=args["changed"],
            timeout=deadline.left(args["timeout"]),
            domain=args["domain"],
            environment=str(variables.get("devenv_name") or ""),
            targets=lambda: {node.name: _target(node.name, hostvars[node.name]) for node in cluster.nodes},
            check=self.check,
            progress=self.say,
        )

    def _write(self, rows: list[report.Row], junit: str | None, variables: dict[str, Any]) -> None:
        folder = str(variables.get("devenv_run_dir") or "")
        if folder:
            report.write_rows(Path(folder), rows)
        if junit:
            report.write_junit(Path(junit), str(variables.get("devenv_name") or ""), rows)


def _target(name: str, variables: Any) -> remote.Target | None:
    return remote.target(name, variables, patience=5) if variables.get("ansible_host") else None
