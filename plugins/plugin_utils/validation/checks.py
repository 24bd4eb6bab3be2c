"""Read-only checks through the API."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import versions
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client, labels, readiness, services
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.client import Json
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.clusters import Cluster, by_node
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.levels import Finding, Level, guarded, problems

SYSTEM = "kube-system"
DNS = "kube-dns"
METRICS = "/apis/metrics.k8s.io/v1beta1/nodes"


def check_nodes(nodes: Iterable[Json], cluster: Cluster) -> Finding:
    """Check that every node of the profile is Ready and that no other node is NotReady."""
    registered = by_node(nodes, cluster)
    names = [node.name for node in cluster.nodes]
    missing = []
    for name in [*names, *sorted(registered.keys() - set(names))]:
        if name not in registered:
            missing.append(f"{name} is not registered")
            continue
        ready = client.condition(registered[name], "Ready")
        if ready.get("status") != "True":
            why = ready.get("message") or ready.get("reason") or "no status yet"
            missing.append(f"{name} is not Ready ({why})" + ("" if name in names else " and not in the profile"))
    return Finding(f"{len(names)} of {len(names)} Ready", tuple(missing))


def check_versions(nodes: Iterable[Json], api: str, cluster: Cluster) -> Finding:
    """Check that API server (``api``: its gitVersion), kubelets and container runtimes have the bundle's versions.

    With an engine that comes with its own versions, these only have to be the same on all nodes.
    """
    is_engines = engines.traits(cluster.engine)["validation"]["versions"] == "engine"
    kubernetes = api if is_engines else f"v{cluster.version.removeprefix('v')}"
    info = {name: node.get("status", {}).get("nodeInfo", {}) for name, node in by_node(nodes, cluster).items()}
    runtimes = {node.name: _runtime(info[node.name]) for node in cluster.nodes if node.name in info}
    runtime = next(iter(runtimes.values()), "") if is_engines else _bundled_runtime(cluster.version)
    wrong = [] if api == kubernetes else [f"API server {api}, expected {kubernetes}"]
    for name, actual in runtimes.items():
        kubelet = info[name].get("kubeletVersion", "")
        if kubelet != kubernetes:
            wrong.append(f"{name} runs kubelet {kubelet}, expected {kubernetes}")
        # kubelet reports "unknown" for a runtime that is down, which is the subject of another check.
        if actual != runtime and not actual.lower().endswith("unknown"):
            wrong.append(f"{name} runs {actual or 'no container runtime'}, expected {runtime}")
    return Finding(f"{kubernetes}, {runtime}", tuple(wrong), hopeless=bool(wrong))


def _runtime(info: Mapping[str, Any]) -> str:
    return str(info.get("containerRuntimeVersion", "")).replace("://v", "://").replace("://", " ")


@functools.cache
def _bundled_runtime(version: str) -> str:
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
    """Describe a Change as text."""
    patch = change.patch.get("metadata", {}).get("labels") or {}
    texts = []
    for key, value in sorted(patch.items()):
        actual = change.before["labels"].get(key)
        state = f"is {actual!r}" if actual is not None else "is missing"
        texts.append(f"label {key} {state}, " + (f"expected {value!r}" if value is not None else "not in the profile"))
    spec = change.patch.get("spec") or {}
    if "taints" in spec:
        texts.append(f"taints are {change.before['taints']}, expected {change.after['taints']}")
    if "podCIDRs" in spec:
        texts.append(f"pod ranges are {change.before['podCIDRs']}, expected {change.after['podCIDRs']}")
    return texts


def check_kubeconfig(path: Path, access: client.Access, cluster: Cluster) -> Finding:
    """Check that only its owner can read it, and that its server is an address of the control plane."""
    missing = []
    try:
        mode = path.stat().st_mode & 0o777
    except OSError as error:
        return Finding("", (f"{path}: {error.strerror}",))
    if mode & 0o077:
        missing.append(f"{path} can be read by others (mode {mode:04o})")
    server = urlsplit(access.server).hostname or ""
    addresses = {cluster.endpoint, *cluster.endpoint_addresses} - {""}
    addresses |= {address for node in cluster.control_plane for address in node.addresses}
    if addresses and server not in addresses:
        missing.append(f"its server {server} is not an address of the control plane")
    return Finding(access.server, tuple(missing), hopeless=bool(missing))


def check_system_pods(items: Iterable[Json], cluster: Cluster) -> Finding:
    """Check that every pod of kube-system is Ready, and that the engine's pods exist."""
    alive = [pod for pod in items if "deletionTimestamp" not in pod["metadata"]]
    names = {pod["metadata"]["name"] for pod in alive}
    expected = engines.traits(cluster.engine)["validation"]
    static = [f"{pod}-{node.name}" for node in cluster.control_plane for pod in expected["control_plane_pods"]]
    missing = [f"no pod {name}" for name in static if name not in names]
    for app in expected["node_apps"]:
        nodes = {pod["spec"].get("nodeName") for pod in alive if _app(pod) == app}
        missing += [f"no {app} pod on {node.name}" for node in cluster.nodes if node.name not in nodes]
    apps = {_app(pod) for pod in alive}
    missing += [f"no {name} pod" for app, name in expected["apps"].items() if app not in apps]
    lasting = [pod for pod in alive if not _runs_once(pod)]
    standby = _standby(lasting, expected["leaders"])
    missing += [
        f"{pod['metadata']['name']} {why}"
        for pod in lasting
        if (why := readiness.not_ready(pod)) and pod["metadata"]["name"] not in standby
    ]
    if not alive and not missing:
        missing = ["no pods"]
    return Finding(f"{len(lasting) - len(standby)} pods Ready", tuple(missing))


def _runs_once(pod: Json) -> bool:
    """Return whether a pod is expected to complete rather than to be Ready: one that clears a volume, or that of a Job,
    which replaces a failed pod.
    """
    if any(owner.get("kind") == "Job" for owner in pod["metadata"].get("ownerReferences") or []):
        return True
    return pod["spec"].get("restartPolicy") == "Never" and pod.get("status", {}).get("phase") in ("Pending", "Running")


def _standby(pods: Iterable[Json], leaders: Iterable[str]) -> set[str]:
    """Return the names of running pods that wait to become the leader of their app (``leaders``), which is Ready."""
    members: dict[str, list[Json]] = {}
    for pod in pods:
        members.setdefault(_app(pod, "app"), []).append(pod)
    return {
        pod["metadata"]["name"]
        for app in leaders
        if any(readiness.is_ready(pod) for pod in members.get(app, []))
        for pod in members[app]
        if not readiness.is_ready(pod) and readiness.not_ready(pod) == readiness.NOT_YET
    }


def _app(pod: Json, label: str = "k8s-app") -> str:
    return str((pod["metadata"].get("labels") or {}).get(label, ""))


def check_dns_service(slices: Iterable[Json]) -> Finding:
    """Check that the Service of CoreDNS has a ready endpoint."""
    ready: list[str] = []
    waiting: list[str] = []
    for item in slices:
        if (item["metadata"].get("labels") or {}).get(services.NAME_LABEL) != DNS:
            continue
        for endpoint in item.get("endpoints") or []:
            state = (endpoint.get("conditions") or {}).get("ready")
            (waiting if state is False else ready).extend(endpoint.get("addresses") or [])
    if ready:
        return Finding(f"ready endpoints {', '.join(sorted(ready))}")
    why = f"{', '.join(sorted(waiting))} not ready" if waiting else "no endpoint"
    return Finding(why, (f"Service kube-dns has no ready endpoint ({why})",))


def check_metrics(items: Iterable[Json], cluster: Cluster) -> Finding:
    """Check that every node of the profile has metrics (format: NodeMetrics of metrics.k8s.io/v1beta1)."""
    reported = by_node((item for item in items if item.get("usage")), cluster)
    missing = tuple(f"no metrics of {node.name} yet" for node in cluster.nodes if node.name not in reported)
    return Finding(f"metrics of {len(cluster.nodes)} nodes", missing)


class ReadOnly(Level):
    """The checks that only read. ``access``: that of the cluster's kubeconfig, or why it cannot be used."""

    def __init__(self, cluster: Cluster, access: client.Access | DevenvError) -> None:
        self._cluster = cluster
        self._access = access

    def look(self, api: client.Api) -> dict[str, Finding]:
        system = f"/api/v1/namespaces/{SYSTEM}"

        # One list for three checks; without it, each of them fails.
        @functools.cache
        def nodes() -> list[Json]:
            return list(api.get("/api/v1/nodes")["items"])

        findings = {
            "kubeconfig": self._check_kubeconfig(),
            "api": guarded(lambda: _check_api(api)),
            "nodes": guarded(lambda: check_nodes(nodes(), self._cluster)),
            "versions": guarded(
                lambda: check_versions(nodes(), str(api.get("/version").get("gitVersion")), self._cluster)
            ),
            "labels": guarded(lambda: check_labels(nodes(), self._cluster)),
            "system_pods": guarded(lambda: check_system_pods(api.get(f"{system}/pods")["items"], self._cluster)),
            "dns_service": guarded(lambda: check_dns_service(services.endpoint_slices(api, SYSTEM, DNS))),
            "default_service_account": guarded(lambda: _check_account(api)),
        }
        if self._cluster.metrics:
            findings["metrics"] = guarded(
                lambda: check_metrics(api.get(METRICS)["items"], self._cluster), "metrics API"
            )
        return findings

    def explain(self, api: client.Api) -> dict[str, str]:
        return {"system_pods": problems(readiness.warnings(api, SYSTEM))}

    def _check_kubeconfig(self) -> Finding:
        if isinstance(self._access, DevenvError):
            return Finding("", (str(self._access),), hopeless=True)
        return check_kubeconfig(self._cluster.kubeconfig, self._access, self._cluster)


def _check_api(api: client.Api) -> Finding:
    api.text("/readyz", {"verbose": ""})
    return Finding("/readyz passed")


def _check_account(api: client.Api) -> Finding:
    api.get("/api/v1/namespaces/default/serviceaccounts/default")
    return Finding("default/default exists")
