"""Is a cluster ready? Named checks, independent of each other, waited for together until all pass at once.

Levels: what the API tells (``ReadOnly``, always), and of a full validation what each node and each API server tells
(``node_checks.py``), real pods that try network, DNS and storage (``probes.py``, ``storage_probe.py``), the profile's
own commands (``own_checks.py``). This file holds the first, and the loop over all.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import versions
from ansible_collections.devenv.lab.plugins.plugin_utils.core import files
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client, labels
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.client import Json
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.clusters import Cluster, by_node

POLL = 0.1
SHOWN = 6
SYSTEM = "kube-system"
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")


@dataclass(frozen=True)
class Finding:
    """What one look at one check gave. ``missing`` is empty when it passed; ``hopeless``: waiting would change
    nothing; ``warnings``: what will not pass some day."""

    seen: str
    missing: tuple[str, ...] = ()
    hopeless: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.missing


@dataclass
class Check:
    """A named check and its last finding. ``seconds``: when it passed, or how long it was waited for."""

    name: str
    ok: bool = False
    seconds: float = 0.0
    seen: str = ""
    hopeless: bool = field(default=False, repr=False)
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        row = asdict(self)
        del row["hopeless"]
        return row | {"warnings": list(self.warnings)}


class Level(Protocol):
    """A group of checks that can be looked at again and again."""

    def look(self, api: client.Api) -> dict[str, Finding]:
        """One look at each check, by name."""

    def explain(self, api: client.Api) -> dict[str, str]:
        """For checks that did not pass: what else is known, asked once when the time is over."""


def problems(texts: Sequence[str]) -> str:
    """A list for an error message: the first few, and how many there are more."""
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return "; ".join(texts[:SHOWN]) + more


def check_nodes(nodes: Iterable[Json], cluster: Cluster) -> Finding:
    """Every node of the profile is Ready; none that is not of the profile is NotReady."""
    there = by_node(nodes, cluster)
    wanted = {node.name for node in cluster.nodes}
    missing = []
    for name in [*(node.name for node in cluster.nodes), *sorted(there.keys() - wanted)]:
        if name not in there:
            missing.append(f"{name} is not registered")
            continue
        ready = client.condition(there[name], "Ready")
        if ready.get("status") != "True":
            why = ready.get("message") or ready.get("reason") or "no status yet"
            missing.append(f"{name} is not Ready ({why})" + ("" if name in wanted else ", and not of the profile"))
    return Finding(f"{len(wanted)} of {len(wanted)} Ready", tuple(missing))


def check_versions(nodes: Iterable[Json], api: str, cluster: Cluster) -> Finding:
    """API server (``api``: its gitVersion), kubelet of each node and container runtime are what the profile's bundle
    holds. An engine that brings its own is only held to have one version.
    """
    own = cluster.engine != "kubeadm"
    kubernetes = api if own else f"v{cluster.version.removeprefix('v')}"
    there = {name: node.get("status", {}).get("nodeInfo", {}) for name, node in by_node(nodes, cluster).items()}
    runtimes = [_runs(there[node.name]) for node in cluster.nodes if node.name in there]
    runtime = next(iter(runtimes), "") if own else _runtime(cluster.version)
    wrong = [] if api == kubernetes else [f"API server {api}, wanted {kubernetes}"]
    for name in (node.name for node in cluster.nodes if node.name in there):
        kubelet = there[name].get("kubeletVersion", "")
        if kubelet != kubernetes:
            wrong.append(f"{name} runs kubelet {kubelet}, wanted {kubernetes}")
        runs = _runs(there[name])
        # kubelet cannot ask a runtime that is down; that is another check's.
        if runs != runtime and not runs.lower().endswith("unknown"):
            wrong.append(f"{name} runs {runs or 'no container runtime'}, wanted {runtime}")
    return Finding(f"{kubernetes}, {runtime}", tuple(wrong), hopeless=bool(wrong))


def _runs(told: Mapping[str, Any]) -> str:
    return str(told.get("containerRuntimeVersion", "")).replace("://v", "://").replace("://", " ")


@functools.cache
def _runtime(version: str) -> str:
    return f"containerd {versions.wanted(version).containerd}"


def check_labels(nodes: Iterable[Json], cluster: Cluster) -> Finding:
    """Labels, taints and pod ranges of each node are as the profile says."""
    there = by_node(nodes, cluster)
    missing, count = [], 0
    for node in cluster.nodes:
        if node.name not in there:
            continue
        change = labels.plan(there[node.name], node)
        count += len(node.labels)
        missing += [f"{node.name}: {text}" for text in (*_differences(change), *change.conflicts)]
    return Finding(f"{count} labels of {len(there)} nodes", tuple(missing))


def _differences(change: labels.Change) -> list[str]:
    """What a Change would do, in words, what is wrong first."""
    patch = change.patch.get("metadata", {}).get("labels") or {}
    found = []
    for key, value in sorted(patch.items()):
        now = change.before["labels"].get(key)
        is_now = f"is {now!r}" if now is not None else "is not there"
        found.append(f"label {key} {is_now}, " + (f"wanted {value!r}" if value is not None else "not of the profile"))
    spec = change.patch.get("spec") or {}
    if "taints" in spec:
        found.append(f"taints are {change.before['taints']}, wanted {change.after['taints']}")
    if "podCIDRs" in spec:
        found.append(f"pod ranges are {change.before['podCIDRs']}, wanted {change.after['podCIDRs']}")
    return found


def check_kubeconfig(path: Path, access: client.Access, cluster: Cluster) -> Finding:
    """It is private, and its server is one of the addresses of the control plane."""
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


def check_system_pods(pods: Iterable[Json], cluster: Cluster) -> Finding:
    """Every pod of kube-system is Ready, and those that kubeadm makes are there, by name."""
    alive = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    names = {pod["metadata"]["name"] for pod in alive}
    missing = [f"no pod {name}" for name in _expected_pods(cluster) if name not in names]
    if cluster.engine == "kubeadm":
        proxied = {pod["spec"].get("nodeName") for pod in alive if _app(pod) == "kube-proxy"}
        missing += [f"no kube-proxy pod on {node.name}" for node in cluster.nodes if node.name not in proxied]
        if not any(_app(pod) == "kube-dns" for pod in alive):
            missing.append("no CoreDNS pod")
    lasting = [pod for pod in alive if not _is_at_work(pod)]
    missing += [f"{pod['metadata']['name']} {why}" for pod in lasting if (why := not_ready(pod))]
    if not alive and not missing:
        missing = ["no pods"]
    return Finding(f"{len(lasting)} pods Ready", tuple(missing))


def _is_at_work(pod: Json) -> bool:
    """A pod that runs once, such as one that clears a volume, is to end, not to be Ready."""
    return pod["spec"].get("restartPolicy") == "Never" and pod.get("status", {}).get("phase") in ("Pending", "Running")


def _expected_pods(cluster: Cluster) -> list[str]:
    if cluster.engine != "kubeadm":
        return []
    masters = [node.name for node in cluster.nodes if node.group == "control_plane"]
    return [f"{component}-{name}" for name in masters for component in CONTROL_PLANE]


def _app(pod: Json) -> str:
    return str((pod["metadata"].get("labels") or {}).get("k8s-app", ""))


def not_ready(pod: Json) -> str:
    """Why a pod is not Ready, in a few words; an empty text for one that is, or that has done its work."""
    status = pod.get("status", {})
    if status.get("phase") == "Succeeded" or client.condition(pod, "Ready").get("status") == "True":
        return ""
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        waiting = container.get("state", {}).get("waiting")
        if waiting and waiting.get("reason") not in ("ContainerCreating", "PodInitializing"):
            return f"waits: {waiting.get('reason', '')} {waiting.get('message', '')}".strip()
        ended = container.get("state", {}).get("terminated")
        if ended and ended.get("exitCode"):
            return f"ended with code {ended['exitCode']} ({ended.get('reason', '')})"
    scheduled = client.condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return f"is not scheduled: {scheduled.get('message', '')}"
    if status.get("phase") == "Running":
        return "runs, not Ready yet"
    return f"is {status.get('phase', 'new')}" + (f": {status['message']}" if status.get("message") else "")


def check_dns_service(slices: Iterable[Json]) -> Finding:
    """The Service of CoreDNS has at least one ready endpoint."""
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


class ReadOnly:
    """What the API tells without anything being made in the cluster. ``access``: of the cluster's kubeconfig, or why
    it cannot be used.
    """

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
            "api": _guarded(lambda: self._look_at_api(api)),
            "nodes": _guarded(lambda: check_nodes(nodes(), self._cluster)),
            "versions": _guarded(
                lambda: check_versions(nodes(), str(api.get("/version").get("gitVersion")), self._cluster)
            ),
            "labels": _guarded(lambda: check_labels(nodes(), self._cluster)),
            "system_pods": _guarded(lambda: check_system_pods(api.get(f"{system}/pods")["items"], self._cluster)),
            "dns_service": _guarded(lambda: check_dns_service(api.get(slices)["items"])),
            "default_service_account": _guarded(lambda: self._look_at_account(api)),
        }

    def explain(self, api: client.Api) -> dict[str, str]:
        return {"system_pods": warnings(api, SYSTEM)}

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


def _guarded(look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except client.ApiError as error:
        text = f"the API answers {error.status}: {error}"
    except client.ApiUnreachable as error:
        text = f"the API does not answer: {error}"
    return Finding(text, (text,))


def warnings(api: client.Api, namespace: str) -> str:
    """The last warning event of each object in ``namespace``, as one text; empty when there are none or no answer."""
    try:
        events = api.get(f"/api/v1/namespaces/{namespace}/events", {"fieldSelector": "type=Warning"})["items"]
    except (client.ApiError, client.ApiUnreachable):
        return ""
    last: dict[str, str] = {}
    for event in sorted(events, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or "")):
        last[event["involvedObject"].get("name", "")] = f"{event.get('reason', '')}: {event.get('message', '')}"
    return problems([f"{name}: {text}" for name, text in sorted(last.items())])


def wait(
    api: client.Api, levels: Sequence[Level], *, timeout: float, progress: Callable[[str], None] = lambda text: None
) -> list[Check]:
    """Look at all checks of ``levels`` again and again until they pass in one round, or ``timeout`` seconds are over.

    Ends before that when all that fails is hopeless. Returns every check; the last round's word counts.
    """
    start = time.monotonic()
    checks: dict[str, Check] = {}
    told: set[str] = set()
    while True:
        began = time.monotonic()
        for level in levels:
            for name, finding in level.look(api).items():
                _note(checks.setdefault(name, Check(name)), finding, time.monotonic() - start)
        failing = [check for check in checks.values() if not check.ok]
        now = time.monotonic()
        if not failing or all(check.hopeless for check in failing) or now - start >= timeout:
            break
        names = {check.name for check in failing}
        if names != told:
            progress(f"waiting for {', '.join(check.name for check in failing)}")
            told = names
        # A large cluster takes long to list: leave it at least as much time to itself.
        time.sleep(min(max(POLL, now - began), max(0.0, timeout - (now - start))))
    if failing:
        for level in levels:
            for name, text in level.explain(api).items():
                if text and name in checks and not checks[name].ok:
                    checks[name].seen += f" (events: {text})"
    return list(checks.values())


def _note(check: Check, finding: Finding, seconds: float) -> None:
    if finding.ok and check.ok and finding.seen == check.seen:
        return
    check.ok, check.hopeless = finding.ok, finding.hopeless
    check.warnings = finding.warnings
    check.seconds = round(seconds, 2)
    check.seen = finding.seen if finding.ok else problems(finding.missing)


def failure(cluster: Cluster, checks: Sequence[Check]) -> DevenvError | None:
    """The DevenvError ``validate_failed`` that lists what is missing, or None when all checks passed."""
    failing = [check for check in checks if not check.ok]
    if not failing:
        return None
    # What several checks lack for one reason (the API does not answer) is said once.
    reasons: dict[str, list[str]] = {}
    for check in failing:
        reasons.setdefault(check.seen, []).append(check.name)
    missing = [f"{', '.join(names)}: {seen}" for seen, names in reasons.items()]
    waited = max(check.seconds for check in checks)
    text = f"not ready after {waited:.0f} s, {len(failing)} of {len(checks)} checks did not pass:\n  " + "\n  ".join(
        missing
    )
    return DevenvError("validate_failed", text, where=f"cluster {cluster.name}")


def needs_probes(mode: str, *, changed: bool, record: Path) -> bool:
    """Whether real pods are to be tried. ``auto``: when the run changed something, or no full validation passed
    last."""
    if mode != "auto":
        return mode == "always"
    try:
        last = json.loads(record.read_text())
        return changed or last["ok"] is not True
    except (OSError, ValueError, KeyError, TypeError):
        return True


def write_record(record: Path, ok: bool, checks: Sequence[Check]) -> None:
    """Remember the last full validation, or any that failed, for ``needs_probes``."""
    content = {"ok": ok, "time": int(time.time()), "checks": [check.as_dict() for check in checks]}
    files.write(record, json.dumps(content, indent=1) + "\n")
