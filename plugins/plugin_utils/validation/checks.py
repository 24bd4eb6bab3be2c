"""Checks that the API answers without anything being made in the cluster."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import versions
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client, labels, pods
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.client import Json
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.clusters import Cluster, by_node
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.levels import Finding, Level, guarded, problems

SYSTEM = "kube-system"


def check_nodes(nodes: Iterable[Json], cluster: Cluster) -> Finding:
    """Check that every node of the profile is Ready and that no other node is NotReady."""
    registered = by_node(nodes, cluster)
    wanted = {node.name for node in cluster.nodes}
    missing = []
    for name in [*(node.name for node in cluster.nodes), *sorted(registered.keys() - wanted)]:
        if name not in registered:
            missing.append(f"{name} is not registered")
            continue
        ready = client.condition(registered[name], "Ready")
        if ready.get("status") != "True":
            why = ready.get("message") or ready.get("reason") or "no status yet"
            missing.append(f"{name} is not Ready ({why})" + ("" if name in wanted else ", and not of the profile"))
    return Finding(f"{len(wanted)} of {len(wanted)} Ready", tuple(missing))


def check_versions(nodes: Iterable[Json], api: str, cluster: Cluster) -> Finding:
    """Check that API server (``api``: its gitVersion), kubelets and container runtimes have the bundle's versions.

    With an engine that brings its own they only have to be the same everywhere.
    """
    own = engines.traits(cluster.engine)["validation"]["versions"] == "engine"
    kubernetes = api if own else f"v{cluster.version.removeprefix('v')}"
    info = {name: node.get("status", {}).get("nodeInfo", {}) for name, node in by_node(nodes, cluster).items()}
    runtimes = [_runs(info[node.name]) for node in cluster.nodes if node.name in info]
    runtime = next(iter(runtimes), "") if own else _runtime(cluster.version)
    wrong = [] if api == kubernetes else [f"API server {api}, wanted {kubernetes}"]
    for name in (node.name for node in cluster.nodes if node.name in info):
        kubelet = info[name].get("kubeletVersion", "")
        if kubelet != kubernetes:
            wrong.append(f"{name} runs kubelet {kubelet}, wanted {kubernetes}")
        runs = _runs(info[name])
        # kubelet cannot ask a runtime that is down; that is another check's.
        if runs != runtime and not runs.lower().endswith("unknown"):
            wrong.append(f"{name} runs {runs or 'no container runtime'}, wanted {runtime}")
    return Finding(f"{kubernetes}, {runtime}", tuple(wrong), hopeless=bool(wrong))


def _runs(info: Mapping[str, Any]) -> str:
    return str(info.get("containerRuntimeVersion", "")).replace("://v", "://").replace("://", " ")


@functools.cache
def _runtime(version: str) -> str:
    return f"containerd {versions.resolve(version).containerd}"


def check_labels(nodes: Iterable[Json], cluster: Cluster) -> Finding:
    """Check that labels, taints and pod ranges of each node are those of the profile."""
    registered = by_node(nodes, cluster)
    missing, count = [], 0
    for node in cluster.nodes:
        if node.name not in registered:
            continue
        change = labels.plan(registered[node.name], node)
        count += len(node.labels)
        missing += [f"{node.name}: {text}" for text in (*_differences(change), *change.conflicts)]
    return Finding(f"{count} labels of {len(registered)} nodes", tuple(missing))


def _differences(change: labels.Change) -> list[str]:
    """Return in words what a Change would do."""
    patch = change.patch.get("metadata", {}).get("labels") or {}
    texts = []
    for key, value in sorted(patch.items()):
        now = change.before["labels"].get(key)
        is_now = f"is {now!r}" if now is not None else "is not there"
        texts.append(f"label {key} {is_now}, " + (f"wanted {value!r}" if value is not None else "not of the profile"))
    spec = change.patch.get("spec") or {}
    if "taints" in spec:
        texts.append(f"taints are {change.before['taints']}, wanted {change.after['taints']}")
    if "podCIDRs" in spec:
        texts.append(f"pod ranges are {change.before['podCIDRs']}, wanted {change.after['podCIDRs']}")
    return texts


def check_kubeconfig(path: Path, access: client.Access, cluster: Cluster) -> Finding:
    """Check that it is private, and that its server is an address of the control plane."""
    missing = []
    try:
        mode = path.stat().st_mode & 0o777
    except OSError as error:
        return Finding("", (f"{path}: {error.strerror}",))
    if mode & 0o077:
        missing.append(f"{path} can be read by others (mode {mode:04o})")
    server = urlsplit(access.server).hostname or ""
    known = {cluster.endpoint, *cluster.endpoint_addresses}
    known |= {address for node in cluster.control_plane for address in node.addresses}
    if known - {""} and server not in known:
        missing.append(f"its server {server} is no address of the control plane")
    return Finding(access.server, tuple(missing), hopeless=bool(missing))


def check_system_pods(items: Iterable[Json], cluster: Cluster) -> Finding:
    """Check that every pod of kube-system is Ready, and that those of the engine exist."""
    alive = [pod for pod in items if "deletionTimestamp" not in pod["metadata"]]
    names = {pod["metadata"]["name"] for pod in alive}
    wanted = engines.traits(cluster.engine)["validation"]
    expected = [f"{pod}-{node.name}" for node in cluster.control_plane for pod in wanted["control_plane_pods"]]
    missing = [f"no pod {name}" for name in expected if name not in names]
    for app in wanted["node_apps"]:
        have = {pod["spec"].get("nodeName") for pod in alive if _app(pod) == app}
        missing += [f"no {app} pod on {node.name}" for node in cluster.nodes if node.name not in have]
    apps = {_app(pod) for pod in alive}
    missing += [f"no {name} pod" for app, name in wanted["apps"].items() if app not in apps]
    lasting = [pod for pod in alive if not _is_at_work(pod)]
    missing += [f"{pod['metadata']['name']} {why}" for pod in lasting if (why := pods.not_ready(pod))]
    if not alive and not missing:
        missing = ["no pods"]
    return Finding(f"{len(lasting)} pods Ready", tuple(missing))


def _is_at_work(pod: Json) -> bool:
    """Return whether a pod runs once, such as one that clears a volume: it is to end, not to be Ready."""
    return pod["spec"].get("restartPolicy") == "Never" and pod.get("status", {}).get("phase") in ("Pending", "Running")


def _app(pod: Json) -> str:
    return str((pod["metadata"].get("labels") or {}).get("k8s-app", ""))


def check_dns_service(slices: Iterable[Json]) -> Finding:
    """Check that the Service of CoreDNS has a ready endpoint."""
    ready: list[str] = []
    waiting: list[str] = []
    for piece in slices:
        if (piece["metadata"].get("labels") or {}).get("kubernetes.io/service-name") != "kube-dns":
            continue
        for endpoint in piece.get("endpoints") or []:
            state = (endpoint.get("conditions") or {}).get("ready")
            (waiting if state is False else ready).extend(endpoint.get("addresses") or [])
    if ready:
        return Finding(f"ready endpoints {', '.join(sorted(ready))}")
    why = f"{', '.join(sorted(waiting))} not ready" if waiting else "no endpoint"
    return Finding(why, (f"Service kube-dns has no ready endpoint ({why})",))


class ReadOnly(Level):
    """The checks that only read. ``access``: of the cluster's kubeconfig, or why it cannot be used."""

    def __init__(self, cluster: Cluster, access: client.Access | DevenvError) -> None:
        self._cluster = cluster
        self._access = access
        self._answers = False
        self._has_account = False

    def look(self, api: client.Api) -> dict[str, Finding]:
        system = f"/api/v1/namespaces/{SYSTEM}"
        slices = f"/apis/discovery.k8s.io/v1/namespaces/{SYSTEM}/endpointslices"

        # One list for three checks; each fails by itself when there is none.
        @functools.cache
        def nodes() -> list[Json]:
            return list(api.get("/api/v1/nodes")["items"])

        return {
            "kubeconfig": self._look_at_kubeconfig(),
            "api": guarded(lambda: self._look_at_api(api)),
            "nodes": guarded(lambda: check_nodes(nodes(), self._cluster)),
            "versions": guarded(
                lambda: check_versions(nodes(), str(api.get("/version").get("gitVersion")), self._cluster)
            ),
            "labels": guarded(lambda: check_labels(nodes(), self._cluster)),
            "system_pods": guarded(lambda: check_system_pods(api.get(f"{system}/pods")["items"], self._cluster)),
            "dns_service": guarded(lambda: check_dns_service(api.get(slices)["items"])),
            "default_service_account": guarded(lambda: self._look_at_account(api)),
        }

    def explain(self, api: client.Api) -> dict[str, str]:
        return {"system_pods": problems(pods.warnings(api, SYSTEM))}

    def _look_at_kubeconfig(self) -> Finding:
        if isinstance(self._access, DevenvError):
            return Finding("", (str(self._access),), hopeless=True)
        return check_kubeconfig(self._cluster.kubeconfig, self._access, self._cluster)

    def _look_at_api(self, api: client.Api) -> Finding:
        if not self._answers:
            api.text("/readyz", {"verbose": ""})
            self._answers = True
        return Finding("/readyz passed")

    def _look_at_account(self, api: client.Api) -> Finding:
        if not self._has_account:
            api.get("/api/v1/namespaces/default/serviceaccounts/default")
            self._has_account = True
        return Finding("default/default is there")
