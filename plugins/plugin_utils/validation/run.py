"""One validation of one cluster: which level, all levels at once, the record, what is left behind (nothing)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import versions
from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, junit
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.core.redact import redact
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.clusters import Cluster
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh.remote import Target
from ansible_collections.devenv.lab.plugins.plugin_utils.validation import checks, node_checks, profile_checks
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.metrics import Metrics
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.pod_probes import Probes
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.storage_probe import Storage

# How long what does not need the API is waited for when there is no way to it.
WITHOUT_API = 20.0
REPORT = "checks.json"


@dataclass
class Report:
    """Every check that ran, and the error that says what is missing (None: ready)."""

    checks: list[checks.Check] = field(default_factory=list)
    failure: DevenvError | None = None


def run(
    cluster: Cluster,
    *,
    probes: str,
    changed: bool,
    timeout: float,
    domain: str,
    environment: str = "",
    targets: Callable[[], Mapping[str, Target | None]] = dict,
    check: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> Report:
    """Validate ``cluster`` within ``timeout`` seconds; ``probes`` is ``auto``, ``always`` or ``never``.

    ``targets`` says how each node is reached, None for one without an address; asked for a full validation only. With
    ``check`` (check mode) one read-only look, and nothing at all where there is no cluster yet. Raises DevenvError
    ``bundle_version_unknown``.
    """
    if check and not cluster.kubeconfig.exists():
        return Report()
    record = record_of(cluster)
    access = _access(cluster.kubeconfig)
    levels: list[checks.Level] = [checks.ReadOnly(cluster, access)]
    if cluster.metrics:
        levels.append(Metrics(cluster))
    pods = None
    if not check and checks.needs_probes(probes, changed=changed, record=record):
        image = versions.wanted(cluster.version).probe_image
        pods = Probes(cluster, image, timeout, domain)
        levels += [level for level in (_api_servers(cluster, access), _nodes(cluster, targets())) if level]
        levels.append(pods)
        if cluster.storage_class:
            levels.append(Storage(pods, image, cluster.storage_class))
        levels += profile_checks.levels(cluster, environment)
        # A run that is killed from here on has not validated anything.
        checks.write_record(record, False, [])
    with _api(access) as api:
        if isinstance(api, client.NoApi):
            timeout = min(timeout, WITHOUT_API)
        try:
            found = checks.wait(api, levels, timeout=0 if check else timeout, progress=progress)
        finally:
            if pods is not None:
                with contextlib.suppress(client.ApiError, client.ApiUnreachable):
                    pods.remove(api)
    failure = checks.failure(cluster, found)
    if not check and (pods is not None or failure is not None):
        checks.write_record(record, failure is None, found)
    return Report(found, failure)


def record_of(cluster: Cluster) -> Path:
    """Where the last full validation is on record (`checks.needs_probes`)."""
    return cluster.kubeconfig.with_name("validated.json")


def _access(path: Path) -> client.Access | DevenvError:
    try:
        access = client.read_access(path)
        with client.Api(access):
            return access
    except DevenvError as error:
        return error


def _api(access: client.Access | DevenvError) -> client.Api:
    return client.NoApi(str(access)) if isinstance(access, DevenvError) else client.Api(access)


def _api_servers(cluster: Cluster, access: client.Access | DevenvError) -> checks.Level | None:
    return None if isinstance(access, DevenvError) else node_checks.api_servers(cluster, access)


def _nodes(cluster: Cluster, targets: Mapping[str, Target | None]) -> checks.Level | None:
    return node_checks.nodes(cluster, targets) if targets else None


# --- reports ---------------------------------------------------------------------------------------------------------


def rows(cluster: str, found: Sequence[checks.Check]) -> list[dict[str, Any]]:
    """Checks as data: ``{cluster, name, ok, seconds, seen, warnings}``; secrets are taken out of what was seen."""
    return [
        {
            "cluster": cluster,
            **check.as_dict(),
            "seen": redact(check.seen),
            "warnings": [redact(text) for text in check.warnings],
        }
        for check in found
    ]


def combined(reports: Mapping[str, Report]) -> DevenvError | None:
    """One error for all clusters that are not ready, None when all are."""
    failures = [report.failure for report in reports.values() if report.failure]
    if len(failures) < 2:
        return failures[0] if failures else None
    return DevenvError("validate_failed", "\n".join(str(failure) for failure in failures))


def write_rows(folder: Path, found: Sequence[Mapping[str, Any]]) -> None:
    """Write them into a run's folder, where the command reads them."""
    files.write(folder / REPORT, json.dumps(list(found), indent=1) + "\n")


def write_junit(path: Path, environment: str, found: Sequence[Mapping[str, Any]]) -> None:
    """A JUnit document with a case a check. Raises OSError."""
    cases = [
        junit.Case(
            row["name"],
            row["seconds"],
            "passed" if row["ok"] else "failed",
            "" if row["ok"] else "check_failed",
            "" if row["ok"] else row["seen"],
            "\n".join([row["seen"], *(f"warning: {text}" for text in row["warnings"])]) if not row["ok"] else "",
        )
        for row in found
    ]
    clusters = list(dict.fromkeys(row["cluster"] for row in found))
    began = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    name = f"devenv.{environment}.validate"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(junit.render(name, clusters[0] if len(clusters) == 1 else environment, began, _named(found, cases)))


def _named(found: Sequence[Mapping[str, Any]], cases: list[junit.Case]) -> list[junit.Case]:
    """With several clusters, each case says which one it is of."""
    if len({row["cluster"] for row in found}) < 2:
        return cases
    return [
        junit.Case(f"{row['cluster']}: {case.name}", case.seconds, case.result, case.kind, case.message, case.text)
        for row, case in zip(found, cases, strict=True)
    ]
