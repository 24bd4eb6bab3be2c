"""One validation of one cluster: which level, both levels at once, the record, what is left behind (nothing)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

from ansible_collections.devenv.lab.plugins.plugin_utils import checks, kube
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import versions
from ansible_collections.devenv.lab.plugins.plugin_utils.clusters import Cluster
from ansible_collections.devenv.lab.plugins.plugin_utils.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.probes import Probes


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
    check: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> Report:
    """Validate ``cluster`` within ``timeout`` seconds; ``probes`` is ``auto``, ``always`` or ``never``.

    With ``check`` (check mode) one read-only look, and nothing at all where there is no cluster yet. Raises DevenvError
    ``kubeconfig_invalid``, ``bundle_version_unknown``.
    """
    if check and not cluster.kubeconfig.exists():
        return Report()
    record = cluster.kubeconfig.with_name("validated.json")
    levels: list[checks.Level] = [checks.ReadOnly(cluster)]
    pods = None
    if not check and checks.needs_probes(probes, changed=changed, record=record):
        pods = _pods(cluster, timeout, domain)
        levels.append(pods)
        # A run that is killed from here on has not validated anything.
        checks.write_record(record, False, [])
    with kube.Api(kube.read_access(cluster.kubeconfig)) as api:
        try:
            found = checks.wait(api, levels, timeout=0 if check else timeout, progress=progress)
        finally:
            if pods is not None:
                with contextlib.suppress(kube.ApiError, kube.ApiUnreachable):
                    pods.remove(api)
    failure = checks.failure(cluster, found)
    if not check and (pods is not None or failure is not None):
        checks.write_record(record, failure is None, found)
    return Report(found, failure)


def _pods(cluster: Cluster, timeout: float, domain: str) -> Probes:
    return Probes(cluster, versions.wanted(cluster.version).probe_image, timeout, domain)
