"""Logs of hosts and clusters: one folder per test, with links by outcome."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ansible_collections.devenv.lab.plugins.plugin_utils.core.redact import redact

if TYPE_CHECKING:
    import pytest

    from devenv.testing.objects import BaseConfig, Cluster, Host

# Lines per container or host.
MOST = 5000
SECONDS = 60
# The outcome of a test is the worst of its phases. Other plugins have further outcomes, such as "rerun".
_OUTCOMES = {"passed": 0, "skipped": 1, "failed": 2}


def worst(*outcomes: str) -> str:
    """Return the outcome of a test from those of its phases."""
    return max(outcomes, key=lambda outcome: _OUTCOMES.get(outcome, 0))


def folder(top: Path, nodeid: str) -> Path:
    """Return the folder of a test."""
    return top / "tests" / re.sub(r"[^\w.\[\]=-]+", "_", nodeid)[:180]


def collect(base_config: BaseConfig, item: pytest.Item, top: Path, since: float) -> None:
    """Write the logs of hosts and clusters since ``since`` (seconds of the epoch) to the folder of the test.

    An error becomes a line in ``trouble.txt``: a test that passed does not fail for it.
    """
    target = folder(top, item.nodeid)
    hosts, clusters = base_config.hosts.values(), base_config.clusters.values()
    calls: dict[str, Callable[[], None]] = {
        **{f"host {host.name}": partial(_host, host, item, target / "hosts" / host.name, since) for host in hosts},
        **{f"cluster {cluster.name}": partial(_cluster, cluster, target, since) for cluster in clusters},
    }
    with ThreadPoolExecutor(8) as pool:
        errors = {name: future.exception() for name, future in [(name, pool.submit(calls[name])) for name in calls]}
    trouble = [f"{name}: {error}\n" for name, error in errors.items() if error]
    if trouble:
        _write(target / "trouble.txt", "".join(trouble))


def _host(host: Host, item: pytest.Item, target: Path, since: float) -> None:
    target.mkdir(parents=True, exist_ok=True)
    command = f"journalctl --no-pager --output=short-iso-precise --lines={MOST} --since=@{int(since)}"
    _write(target / "journal.txt", host.SshDirect.execute(command, timeout=SECONDS, sudo=True))
    item.config.hook.pytest_download_logs(host=host, dest_dir=target)


def _cluster(cluster: Cluster, top: Path, since: float) -> None:
    target, kubectl = top / "clusters" / cluster.name, cluster.Kubectl
    pods = kubectl.get_pods()
    rows = [
        f"{pod.metadata.namespace} {pod.metadata.name} {pod.status.phase} {pod.spec.node_name} "
        f"restarts={sum(status.restart_count for status in pod.status.container_statuses or [])}"
        for pod in pods
    ]
    _write(target / "pods.txt", "\n".join(rows) + "\n")
    events = [
        f"{event.last_timestamp or event.event_time} {event.type} {event.reason} "
        f"{event.involved_object.kind}/{event.involved_object.name} {event.message}"
        for event in kubectl.core.list_event_for_all_namespaces(_request_timeout=SECONDS).items
    ]
    _write(target / "events.txt", "\n".join(sorted(events)) + "\n")
    seconds = max(1, int(time.time() - since) + 1)
    for pod in pods:
        for container in pod.spec.containers:
            # A pod that was removed or has not started yet has no log.
            with contextlib.suppress(Exception):
                text = kubectl.core.read_namespaced_pod_log(
                    pod.metadata.name, pod.metadata.namespace, container=container.name, since_seconds=seconds,
                    tail_lines=MOST, _request_timeout=SECONDS,
                )  # fmt: skip
                if text:
                    name = f"{pod.metadata.namespace}_{pod.metadata.name}_{container.name}.log"
                    _write(target / name, text)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(redact(text))


def link(top: Path, nodeid: str, outcome: str) -> None:
    """Link ``<top>/<outcome>/<test>`` to the test's folder, and remove the link of an earlier run's outcome."""
    target = folder(top, nodeid)
    if not target.is_dir():
        return
    for other in ("passed", "failed", "skipped"):
        (top / other / target.name).unlink(missing_ok=True)
    place = top / outcome / target.name
    place.parent.mkdir(parents=True, exist_ok=True)
    os.symlink(os.path.relpath(target, place.parent), place)
