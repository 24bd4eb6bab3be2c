"""The read-only checks with objects in the form of the API, and why a pod is not ready."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import versions
from ansible_collections.devenv.lab.plugins.plugin_utils.core import data, paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.nodes import NodeSpec
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client, services
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.clusters import Cluster
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.readiness import not_ready
from ansible_collections.devenv.lab.plugins.plugin_utils.validation import checks

Object = dict[str, Any]


def cluster(*names: str, engine: str = "kubeadm") -> Cluster:
    nodes = tuple(NodeSpec(name, "control_plane" if "master" in name else "workers") for name in names)
    return Cluster("main", Path("kubeconfig"), engine, "1.36.3", ("ipv4",), nodes)


def node(name: str, ready: str = "True", version: str = "v1.36.3", message: str = "") -> Object:
    return {
        "metadata": {"name": name},
        "status": {
            "conditions": [
                {"type": "MemoryPressure", "status": "False"},
                {"type": "Ready", "status": ready, "reason": "KubeletNotReady", "message": message},
            ],
            "nodeInfo": {"kubeletVersion": version},
        },
    }


@pytest.mark.parametrize(
    ("nodes", "missing", "hopeless"),
    [
        ([node("master-0"), node("worker-0")], (), False),
        ([node("master-0")], ("worker-0 is not registered",), False),
        (
            [node("master-0", "False", message="cni plugin not initialized"), node("worker-0")],
            ("master-0 is not Ready (cni plugin not initialized)",),
            False,
        ),
        ([{"metadata": {"name": "master-0"}}, node("worker-0")], ("master-0 is not Ready (no status yet)",), False),
        ([node("master-0"), node("worker-0"), node("stranger", version="v1.30.0")], (), False),
        (
            [node("master-0"), node("worker-0"), node("stranger", "Unknown", message="gone")],
            ("stranger is not Ready (gone) and not in the profile",),
            False,
        ),
    ],
)
def test_all_nodes_of_the_profile_must_be_ready(nodes: list[Object], missing: tuple[str, ...], hopeless: bool) -> None:
    finding = checks.check_nodes(nodes, cluster("master-0", "worker-0"))
    assert (finding.missing, finding.hopeless) == (missing, hopeless)
    assert finding.ok or missing


RUNTIME = f"containerd://{versions.resolve('1.36.3').containerd}"


@pytest.mark.parametrize(
    ("api", "kubelet", "runtime", "missing"),
    [
        ("v1.36.3", "v1.36.3", RUNTIME, ()),
        ("v1.36.3", "v1.36.3", RUNTIME.replace("://", "://v"), ()),
        ("v1.36.2", "v1.36.3", RUNTIME, ("API server v1.36.2, expected v1.36.3",)),
        ("v1.36.3", "v1.35.0", RUNTIME, ("worker-0 runs kubelet v1.35.0, expected v1.36.3",)),
        (
            "v1.36.3",
            "v1.36.3",
            "containerd://1.6.20",
            (f"worker-0 runs containerd 1.6.20, expected {RUNTIME.replace('://', ' ')}",),
        ),
    ],
)
def test_versions_must_be_those_of_the_bundle(api: str, kubelet: str, runtime: str, missing: tuple[str, ...]) -> None:
    nodes = [node("master-0"), node("worker-0", version=kubelet)]
    for item, version in zip(nodes, (RUNTIME, runtime), strict=True):
        item["status"]["nodeInfo"]["containerRuntimeVersion"] = version
    # worker-1 is not registered, which is the subject of another check.
    finding = checks.check_versions(nodes, api, cluster("master-0", "worker-0", "worker-1"))
    assert finding.missing == missing


@pytest.mark.parametrize(
    ("runtime", "missing"),
    [
        ("docker://19.3.12", ()),
        ("docker://18.9.9", ("worker-0 runs docker 18.9.9, expected docker 19.3.12",)),
    ],
)
def test_an_engine_has_versions_and_a_runtime_of_its_own(runtime: str, missing: tuple[str, ...]) -> None:
    nodes = [node("master-0", version="v1.17.9"), node("worker-0", version="v1.17.9")]
    for item, version in zip(nodes, ("docker://19.3.12", runtime), strict=True):
        item["status"]["nodeInfo"]["containerRuntimeVersion"] = version
    finding = checks.check_versions(nodes, "v1.17.9", cluster("master-0", "worker-0", engine="gravity"))
    assert (finding.missing, finding.seen) == (missing, "v1.17.9, docker 19.3.12")


def labelled(labels: Mapping[str, str], taints: Sequence[Mapping[str, str]] = (), cidrs: Sequence[str] = ()) -> Object:
    metadata = {"name": "worker-0", "labels": {"node-role.kubernetes.io/worker": "", **labels}, "resourceVersion": "1"}
    return {"metadata": metadata, "spec": {"taints": list(taints), "podCIDRs": list(cidrs)}}


@pytest.mark.parametrize(
    ("item", "missing"),
    [
        (labelled({"pipe": "true", "own": "x"}, [{"key": "d", "value": "db", "effect": "NoSchedule"}]), ()),
        (
            labelled({}, [{"key": "d", "value": "db", "effect": "NoSchedule"}]),
            ("worker-0: label pipe is missing, expected 'true'",),
        ),
        (labelled({"pipe": "true"}), ("worker-0: taints are [], expected ['d=db:NoSchedule']",)),
        (
            labelled({"pipe": "false"}, [{"key": "d", "value": "db", "effect": "NoSchedule"}]),
            ("worker-0: label pipe is 'false', set by another program; the profile has 'true'",),
        ),
    ],
)
def test_labels_and_taints_must_be_those_of_the_profile(item: Object, missing: tuple[str, ...]) -> None:
    spec = NodeSpec("worker-0", "workers", labels={"pipe": "true"}, taints=("d=db:NoSchedule",))
    assert checks.check_labels([item], dataclasses.replace(cluster(), nodes=(spec,))).missing == missing


@pytest.mark.parametrize(
    ("mode", "server", "missing"),
    [
        (0o600, "https://10.0.0.5:6443", ""),
        (0o600, "https://[fd00::10]:6443", ""),
        (0o644, "https://10.0.0.5:6443", "can be read by others (mode 0644)"),
        (0o600, "https://10.0.0.9:6443", "its server 10.0.0.9 is not an address of the control plane"),
    ],
)
def test_the_kubeconfig_must_be_private_and_point_to_the_control_plane(
    tmp_path: Path, mode: int, server: str, missing: str
) -> None:
    file = tmp_path / "kubeconfig"
    file.touch()
    file.chmod(mode)
    with_endpoint = dataclasses.replace(
        cluster(),
        nodes=(NodeSpec("master-0", "control_plane", addresses=("10.0.0.10", "fd00::10")),),
        endpoint="main.x.devenv.internal",
        endpoint_addresses=("10.0.0.5",),
    )
    finding = checks.check_kubeconfig(file, client.Access(server, "ca"), with_endpoint)
    assert finding.ok == (not missing)
    assert missing in " ".join(finding.missing)
    assert not checks.check_kubeconfig(tmp_path / "none", client.Access(server, "ca"), with_endpoint).ok


def test_without_a_usable_kubeconfig_every_check_fails() -> None:
    broken = DevenvError("kubeconfig_invalid", "is not YAML", where="kubeconfig")
    level = checks.ReadOnly(cluster("master-0"), broken)
    with client.NoApi(str(broken)) as api:
        findings = level.look(api)
    # The check `metrics` has a level of its own.
    assert findings.keys() == data.read(paths.CONFIGS / "checks.yml")["always"].keys() - {"metrics"}
    assert [name for name, finding in findings.items() if finding.ok] == []
    assert findings["kubeconfig"].missing == ("kubeconfig: is not YAML",)
    assert "is not YAML" in findings["nodes"].missing[0]


def pod(name: str, node_name: str = "master-0", app: str = "", ready: str = "True", **status: Any) -> Object:
    return {
        "metadata": {"name": name, "labels": {"k8s-app": app} if app else None},
        "spec": {"nodeName": node_name},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]} | status,
    }


SYSTEM = [
    pod("etcd-master-0"),
    pod("kube-apiserver-master-0"),
    pod("kube-controller-manager-master-0"),
    pod("kube-scheduler-master-0"),
    pod("kube-proxy-abcde", app="kube-proxy"),
    pod("kube-proxy-fghij", "worker-0", app="kube-proxy"),
    pod("coredns-1", app="kube-dns"),
]
WAITING = {"containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}}]}


def changed(name: str, **changes: Any) -> list[Object]:
    """SYSTEM with one pod changed."""
    pods = copy.deepcopy(SYSTEM)
    for item in pods:
        if item["metadata"]["name"] == name:
            for key, value in changes.items():
                item[key] = item[key] | value
    return pods


def once(item: Object) -> Object:
    """A pod that is expected to complete."""
    return item | {"spec": item["spec"] | {"restartPolicy": "Never"}}


@pytest.mark.parametrize(
    ("pods", "missing"),
    [
        (SYSTEM, ()),
        ([*SYSTEM, pod("done", ready="False", phase="Succeeded")], ()),
        ([*SYSTEM, once(pod("helper-pod-delete-pvc-1", ready="False"))], ()),
        ([*SYSTEM, once(pod("helper-pod-create-pvc-1", ready="False", phase="Pending"))], ()),
        ([*SYSTEM, once(pod("broken", ready="False", phase="Failed"))], ("broken is Failed",)),
        ([*SYSTEM, changed("coredns-1", metadata={"deletionTimestamp": "x", "name": "old"}, status=WAITING)[-1]], ()),
        (SYSTEM[1:], ("no pod etcd-master-0",)),
        ([p for p in SYSTEM if "fghij" not in p["metadata"]["name"]], ("no kube-proxy pod on worker-0",)),
        (SYSTEM[:-1], ("no CoreDNS pod",)),
        (
            changed("coredns-1", status={"conditions": [{"type": "Ready", "status": "False"}]}),
            ("coredns-1 runs, not Ready yet",),
        ),
        (
            changed("coredns-1", status={"conditions": []} | WAITING),
            ("coredns-1 waits: CrashLoopBackOff back-off 10s",),
        ),
    ],
)
def test_pods_of_the_system_must_exist_and_be_ready(pods: list[Object], missing: tuple[str, ...]) -> None:
    assert checks.check_system_pods(pods, cluster("master-0", "worker-0")).missing == missing


def gravity_site(number: int, ready: str, **status: Any) -> Object:
    """A pod of an app of which only the leader is Ready."""
    return pod(f"gravity-site-{number}", ready=ready, **status) | {
        "metadata": {"name": f"gravity-site-{number}", "labels": {"app": "gravity-site"}}
    }


@pytest.mark.parametrize(
    ("pods", "missing"),
    [
        ([gravity_site(0, "True"), gravity_site(1, "False")], ()),
        (
            [gravity_site(0, "False"), gravity_site(1, "False")],
            ("gravity-site-0 runs, not Ready yet", "gravity-site-1 runs, not Ready yet"),
        ),
        (
            [gravity_site(0, "True"), gravity_site(1, "False", **WAITING)],
            ("gravity-site-1 waits: CrashLoopBackOff back-off 10s",),
        ),
    ],
)
def test_only_the_leader_of_an_app_must_be_ready(pods: list[Object], missing: tuple[str, ...]) -> None:
    assert checks.check_system_pods(pods, cluster("master-0", engine="gravity")).missing == missing
    assert not checks.check_system_pods([*SYSTEM, gravity_site(1, "False")], cluster("master-0")).ok


@pytest.mark.parametrize("phase", ["Running", "Failed"])
def test_pods_of_jobs_need_not_be_ready(phase: str) -> None:
    hook = pod("install-hook-1", ready="False", phase=phase)
    hook["metadata"]["ownerReferences"] = [{"kind": "Job", "name": "install-hook"}]
    assert checks.check_system_pods([*SYSTEM, hook], cluster("master-0")).missing == ()


def test_a_cluster_without_system_pods_fails() -> None:
    assert "no CoreDNS pod" in checks.check_system_pods([], cluster("master-0")).missing
    assert checks.check_system_pods([], cluster("master-0", engine="gravity")).missing == ("no pods",)


@pytest.mark.parametrize(
    ("status", "why"),
    [
        ({"phase": "Succeeded"}, ""),
        ({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}, ""),
        ({}, "is new"),
        (
            {"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]},
            "is Pending",
        ),
        ({"phase": "Running"}, "runs, not Ready yet"),
        (
            {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes"}]},
            "is not scheduled: 0/1 nodes",
        ),
        (
            {"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 3, "reason": "Error"}}}]},
            "ended with code 3 (Error)",
        ),
        (
            {"phase": "Failed", "message": "Pod was active on the node longer"},
            "is Failed: Pod was active on the node longer",
        ),
        (
            {"phase": "Pending", "initContainerStatuses": [{"state": {"waiting": {"reason": "ErrImageNeverPull"}}}]},
            "waits: ErrImageNeverPull",
        ),
    ],
)
def test_why_a_pod_is_not_ready(status: Object, why: str) -> None:
    assert not_ready({"metadata": {"name": "p"}, "status": status}) == why


def endpoint_slice(service: str, *endpoints: Object) -> Object:
    return {"metadata": {"labels": {"kubernetes.io/service-name": service}}, "endpoints": list(endpoints) or None}


READY = {"addresses": ["10.244.0.2"], "conditions": {"ready": True}}
UNREADY = {"addresses": ["10.244.0.3"], "conditions": {"ready": False}}


@pytest.mark.parametrize(
    ("slices", "ok", "seen"),
    [
        ([endpoint_slice("kube-dns", READY, UNREADY)], True, "ready endpoints 10.244.0.2"),
        ([endpoint_slice("kube-dns", {"addresses": ["10.244.0.4"]})], True, "ready endpoints 10.244.0.4"),
        ([endpoint_slice("kube-dns", UNREADY)], False, "10.244.0.3 not ready"),
        ([endpoint_slice("kube-dns")], False, "no endpoint"),
        ([endpoint_slice("other", READY)], False, "no endpoint"),
        ([], False, "no endpoint"),
    ],
)
def test_the_dns_service_needs_a_ready_endpoint(slices: list[Object], ok: bool, seen: str) -> None:
    finding = checks.check_dns_service(slices)
    assert (finding.ok, finding.seen) == (ok, seen)


ENDPOINTS: Object = {
    "metadata": {"name": "kube-dns"},
    "subsets": [{"addresses": [{"ip": "10.244.0.2"}], "notReadyAddresses": [{"ip": "10.244.0.3"}]}, {"ports": []}],
}


class OldApi:
    """The API of Kubernetes 1.17 to 1.20: it has Endpoints, but EndpointSlices not in v1."""

    def __init__(self, endpoints: Object | None, status: int = 404) -> None:
        self.endpoints, self.status = endpoints, status

    def get(self, path: str, query: object = None) -> Any:
        if path == "/api/v1/namespaces/kube-system/endpoints/kube-dns" and self.endpoints:
            return self.endpoints
        raise client.ApiError(self.status, "", "404 page not found")


def test_endpoints_are_read_where_endpoint_slices_are_missing() -> None:
    (item,) = services.endpoint_slices(cast(client.Api, OldApi(ENDPOINTS)), "kube-system", "kube-dns")
    assert checks.check_dns_service([item]).seen == "ready endpoints 10.244.0.2"
    unready = services.as_slice(
        {"metadata": {"name": "kube-dns"}, "subsets": [ENDPOINTS["subsets"][0] | {"addresses": None}]}
    )
    assert checks.check_dns_service([unready]).seen == "10.244.0.3 not ready"
    assert services.endpoint_slices(cast(client.Api, OldApi(None)), "kube-system", "kube-dns") == []
    with pytest.raises(client.ApiError):
        services.endpoint_slices(cast(client.Api, OldApi(ENDPOINTS, 403)), "kube-system", "kube-dns")


@pytest.mark.parametrize(
    ("spec", "addresses"),
    [
        ({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd02::1"]}, ["10.96.0.1", "fd02::1"]),
        ({"clusterIP": "10.96.0.1"}, ["10.96.0.1"]),
    ],
)
def test_services_have_one_address_before_kubernetes_1_20(spec: Object, addresses: list[str]) -> None:
    assert services.addresses({"spec": spec}) == addresses


class MetricsApi:
    """An API with node metrics and nothing else."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def get(self, path: str, query: object = None) -> Any:
        if path != "/apis/metrics.k8s.io/v1beta1/nodes":
            raise client.ApiUnreachable("not part of this test")
        if isinstance(self.answer, Exception):
            raise self.answer
        return {"items": self.answer}

    def text(self, path: str, query: object = None) -> Any:
        return self.get(path)


def metrics(name: str, usage: dict[str, str] | None = None) -> Object:
    return {"metadata": {"name": name}, "usage": {"cpu": "1m", "memory": "2Ki"} if usage is None else usage}


@pytest.mark.parametrize(
    ("answer", "missing"),
    [
        ([metrics("a"), metrics("b")], []),
        ([metrics("b")], ["no metrics of a yet"]),
        ([metrics("a", {}), metrics("b")], ["no metrics of a yet"]),
        ([], ["no metrics of a yet", "no metrics of b yet"]),
        (client.ApiError(503, "", "unavailable"), ["the metrics API returns 503: unavailable"]),
        (client.ApiError(404, "NotFound", "no such page"), ["the metrics API returns 404: no such page"]),
        (client.ApiUnreachable("cut"), ["the API does not answer: cut"]),
    ],
)
def test_every_node_must_have_metrics(answer: Any, missing: list[str]) -> None:
    with_metrics = dataclasses.replace(cluster("a", "b"), metrics=True)
    level = checks.ReadOnly(with_metrics, client.Access("https://x", "ca"))
    finding = level.look(cast(client.Api, MetricsApi(answer)))["metrics"]
    assert list(finding.missing) == missing
