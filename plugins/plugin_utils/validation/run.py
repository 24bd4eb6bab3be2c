"""Validate one cluster: run all check levels, record the result, clean up."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import versions
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.clusters import Cluster
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh.remote import Target
from ansible_collections.devenv.lab.plugins.plugin_utils.validation import node_checks, profile_checks, report, wait
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.checks import ReadOnly
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.levels import Level
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.metrics import Metrics
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.pod_probes import Probes
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.report import Report
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.storage_probe import Storage

# How long what does not need the API is waited for when there is no way to it.
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

    ``targets`` returns how each node is reached, None for one without an address; called for a full validation only.
    With ``check`` (check mode) it reads once, and not at all where there is no cluster yet. Raises DevenvError
    ``bundle_version_unknown``.
    """
    if check and not cluster.kubeconfig.exists():
        return Report()
    record = report.record_of(cluster)
    access = _access(cluster.kubeconfig)
    levels: list[Level] = [ReadOnly(cluster, access)]
    if cluster.metrics:
        levels.append(Metrics(cluster))
    pods = None
    if not check and report.needs_probes(probes, changed=changed, record=record):
        image = versions.resolve(cluster.version).probe_image
        pods = Probes(cluster, image, timeout, domain)
        servers = node_checks.api_servers(cluster, access) if isinstance(access, client.Access) else None
        nodes = node_checks.nodes(cluster, reached) if (reached := targets()) else None
        levels += [level for level in (servers, nodes, pods) if level]
        if cluster.storage_class:
            levels.append(Storage(pods, image, cluster.storage_class))
        levels += profile_checks.levels(cluster, environment)
        # A run that is killed from here on has not validated anything.
        report.write_record(record, False, [])
    if isinstance(access, DevenvError):
        timeout = min(timeout, WITHOUT_API)
    with client.NoApi(str(access)) if isinstance(access, DevenvError) else client.Api(access) as api:
        try:
            checks = wait.until_ready(api, levels, timeout=0 if check else timeout, progress=progress)
        finally:
            if pods is not None:
                with contextlib.suppress(client.ApiFailure):
                    pods.remove(api)
    failure = wait.failure(cluster.name, checks)
    if not check and (pods is not None or failure is not None):
        report.write_record(record, failure is None, checks)
    return Report(checks, failure)


def still_passes(cluster: Cluster) -> bool:
    """Return whether the last full validation passed and the API still shows a ready cluster. Starts no pods."""
    if report.needs_probes("auto", changed=False, record=report.record_of(cluster)):
        return False
    return run(cluster, probes="never", changed=False, timeout=0, domain="", check=True).failure is None


def _access(path: Path) -> client.Access | DevenvError:
    try:
        access = client.read_access(path)
        with client.Api(access):
            return access
    except DevenvError as error:
        return error
