"""Validate every cluster of the given nodes; fail with what is missing when the time is over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core import deadline
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError, as_result
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import clusters
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import remote
from ansible_collections.devenv.lab.plugins.plugin_utils.validation import report
from ansible_collections.devenv.lab.plugins.plugin_utils.validation import run as validate


class ActionModule(Action, ActionBase):
    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        reports: dict[str, report.Report] = {}
        failure: DevenvError | None = None
        try:
            for cluster in clusters.from_hostvars(args["nodes"], variables["hostvars"], args["clusters"]):
                reports[cluster.name] = self._validate(cluster, args, variables)
            failure = report.combined(reports)
        except DevenvError as error:
            failure = error
        rows = [row for name, result in reports.items() for row in report.rows(name, result.checks)]
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

    def _validate(self, cluster: clusters.Cluster, args: dict[str, Any], variables: dict[str, Any]) -> report.Report:
        hostvars = variables["hostvars"]
        return validate.run(
            cluster,
            probes=args["probes"],
            changed=args["changed"],
            timeout=deadline.remaining(args["timeout"]),
            domain=args["domain"],
            environment=str(variables.get("devenv_name") or ""),
            targets=lambda: {node.name: _target(node.name, hostvars[node.name]) for node in cluster.nodes},
            check=self.check,
            progress=self.progress,
        )

    def _write(self, rows: list[report.Row], junit: str | None, variables: dict[str, Any]) -> None:
        folder = str(variables.get("devenv_run_dir") or "")
        if folder:
            report.write_rows(Path(folder), rows)
        if junit:
            report.write_junit(Path(junit), str(variables.get("devenv_name") or ""), rows)


def _target(name: str, variables: Any) -> remote.Target | None:
    return remote.target(name, variables, patience=5) if variables.get("ansible_host") else None
