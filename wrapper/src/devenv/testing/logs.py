"""Logs of hosts and clusters, a folder a test, with links by outcome."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ansible_collections.devenv.lab.plugins.plugin_utils.core.redact import redact

if TYPE_CHECKING:
    import pytest

    from devenv.testing.objects import BaseConfig, Cluster, Host

# Of one container or host, in lines.
MOST = 5000
SECONDS = 60


def folder(top: Path, nodeid: str) -> Path:
    """The folder of a test."""
    return top / "tests" / re.sub(r"[^\w.\[\]=-]+", "_", nodeid)[:180]


def collect(base_config: BaseConfig, item: pytest.Item, target: Path, since: float) -> None:
    """Write what hosts and clusters have said since ``since`` (seconds of the epoch). What cannot be had is a line in
    ``trouble.txt``: a test that passed does not fail for it.
    """
    trouble: list[str] = []
    hosts, clusters = base_config.hosts.values(), base_config.clusters.values()
    calls: list[tuple[str, Callable[[], None]]] = [
        *((f"host {one.name}", partial(_host, one, item, target / "hosts" / one.name, since)) for one in hosts),
        *((f"cluster {one.name}", partial(_cluster, one, target / "clusters" / one.name, since)) for one in clusters),
    ]
    with ThreadPoolExecutor(8) as pool:
        for name, future in [(name, pool.submit(call)) for name, call in calls]:
            if error := future.exception():
                trouble.append(f"{name}: {redact(str(error))}")
    if trouble:
        _write(target / "trouble.txt", "\n".join(trouble) + "\n")


def _host(host: Host, item: pytest.Item, target: Path, since: float) -> None:
    target.mkdir(parents=True, exist_ok=True)
    command = f"journalctl --no-pager --output=short-iso-precise --lines={MOST} --since=@{int(since)}"
    _write(target / "journal.txt", host.SshDirect.execute(command, timeout=SECONDS, sudo=True))
    item.config.hook.pytest_download_logs(host=host, dest_dir=target)


def _cluster(cluster: Cluster, target: Path, since: float) -> None:
    import time

    kubectl = cluster.Kubectl
    pods = kubectl.get_pods()
    rows = [
        f"{pod.metadata.namespace} {pod.metadata.name} {pod.status.phase} {pod.spec.node_name} "
        f"restarts={sum(one.restart_count for one in pod.status.container_statuses or [])}"
        for pod in pods
    ]
    _write(target / "pods.txt", "\n".join(rows) + "\n")
    events = kubectl.core.list_event_for_all_namespaces(_request_timeout=SECONDS).items
    told = [
        f"{event.last_timestamp or event.event_time} {event.type} {event.reason} "
        f"{event.involved_object.kind}/{event.involved_object.name} {event.message}"
        for event in events
    ]
    _write(target / "events.txt", "\n".join(sorted(told)) + "\n")
    seconds = max(1, int(time.time() - since) + 1)
    for pod in pods:
        for container in pod.spec.containers:
            # A pod that went, or has not started yet, has none.
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
    """``<top>/<outcome>/<test>`` leads to the test's folder; links of an earlier run's outcome go."""
    target = folder(top, nodeid)
    if not target.is_dir():
        return
    for other in ("passed", "failed", "skipped"):
        with contextlib.suppress(FileNotFoundError):
            (top / other / target.name).unlink()
    place = top / outcome / target.name
    place.parent.mkdir(parents=True, exist_ok=True)
    os.symlink(os.path.relpath(target, place.parent), place)
