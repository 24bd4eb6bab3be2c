"""Validate one cluster: run all levels of checks, record the result, remove the probe pods."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.clusters import Cluster
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh.remote import Target
from ansible_collections.devenv.lab.plugins.plugin_utils.validation import (
    host_checks,
    levels,
    node_checks,
    probe_pods,
    profile_checks,
    report,
)
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.checks import ReadOnly
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.levels import Level
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.pod_probes import Probes
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.report import Report
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.storage_probe import Storage

# Seconds for the checks that do not need the API, when there is no usable kubeconfig.
WITHOUT_API = 20.0


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

    ``targets`` returns each node's Target, None for a node without an address; called for a full validation only. With
    ``check`` (check mode) each check runs once, and none if the cluster does not exist yet. Raises DevenvError
    ``bundle_version_unknown``.
    """
    if check and not cluster.kubeconfig.exists():
        return Report()
    record = report.record_of(cluster)
    access = client.usable_access(cluster.kubeconfig)
    groups: list[Level] = [ReadOnly(cluster, access)]
    pods = None
    if not check and report.needs_probes(probes, changed=changed, record=record):
        image = probe_pods.image_of(cluster.engine, cluster.version)
        pods = Probes(cluster, image, timeout, domain)
        servers = node_checks.api_servers(cluster, access) if isinstance(access, client.Access) else None
        nodes = node_checks.nodes(cluster, reached) if (reached := targets()) else None
        groups += [level for level in (servers, nodes, pods) if level]
        if cluster.storage_class:
            groups.append(Storage(pods, image, cluster.storage_class))
        groups += [*host_checks.levels(cluster, environment), *profile_checks.levels(cluster, environment)]
        # A run that is killed from here on has validated nothing.
        report.write_record(record, False, [])
    if isinstance(access, DevenvError):
        timeout = min(timeout, WITHOUT_API)
    with client.NoApi(str(access)) if isinstance(access, DevenvError) else client.Api(access) as api:
        try:
            checks = levels.until_ready(api, groups, timeout=0 if check else timeout, progress=progress)
        finally:
            if pods is not None:
                with contextlib.suppress(client.ApiFailure):
                    pods.remove(api)
    failure = levels.failure(cluster.name, checks)
    if not check and (pods is not None or failure is not None):
        report.write_record(record, failure is None, checks)
    return Report(checks, failure)


def still_passes(cluster: Cluster) -> bool:
    """Return whether the last full validation passed and the read-only checks pass now. Starts no pods."""
    if report.needs_probes("auto", changed=False, record=report.record_of(cluster)):
        return False
    return run(cluster, probes="never", changed=False, timeout=0, domain="", check=True).failure is None
