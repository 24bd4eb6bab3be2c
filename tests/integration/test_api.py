"""Labels, sets of objects and validation with a real etcd and kube-apiserver on loopback, without nodes."""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import store
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.nodes import NodeSpec
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client as kube
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import clusters, labels
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.objects import ApplySet
from ansible_collections.devenv.lab.plugins.plugin_utils.validation import run as validate

pytestmark = pytest.mark.cluster

NODES = "/api/v1/nodes"


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for endpoint in sockets:
            endpoint.bind(("127.0.0.1", 0))
        return [endpoint.getsockname()[1] for endpoint in sockets]


@contextlib.contextmanager
def running(log: Path, *argv: str) -> Iterator[None]:
    with log.open("w") as stream:
        process = subprocess.Popen(argv, stdout=stream, stderr=stream)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A kubeconfig of an API server without controllers and nodes."""
    bundle = store.find()
    assert bundle is not None, "no bundle; make setup builds it"
    folder = tmp_path_factory.mktemp("api")
    client, peer, secure = free_ports(3)
    token = secrets.token_hex(16)
    (folder / "tokens").write_text(f"{token},admin,admin,system:masters\n")
    subprocess.run(["openssl", "genrsa", "-out", str(folder / "sa.key"), "2048"], check=True, capture_output=True)
    etcd = (
        str(bundle.bin("etcd")),
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls=http://127.0.0.1:{client}",
        f"--advertise-client-urls=http://127.0.0.1:{client}",
        f"--listen-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-cluster=default=http://127.0.0.1:{peer}",
        "--unsafe-no-fsync",
    )
    server = (
        str(bundle.bin("kube-apiserver")),
        f"--etcd-servers=http://127.0.0.1:{client}",
        "--bind-address=127.0.0.1",
        f"--secure-port={secure}",
        f"--cert-dir={folder / 'certs'}",
        f"--service-account-key-file={folder / 'sa.key'}",
        f"--service-account-signing-key-file={folder / 'sa.key'}",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--service-cluster-ip-range=10.96.0.0/16",
        f"--token-auth-file={folder / 'tokens'}",
        "--authorization-mode=RBAC",
    )
    with running(folder / "etcd.log", *etcd), running(folder / "apiserver.log", *server):
        path = folder / "clusters" / "main" / "kubeconfig"
        path.parent.mkdir(parents=True)
        write_kubeconfig(path, secure, token, folder / "certs" / "apiserver.crt")
        yield path


def write_kubeconfig(path: Path, port: int, token: str, certificate: Path) -> None:
    """Wait until the server answers. The issuer of its certificate is the last one in the file."""
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(OSError, IndexError, kube.ApiError, kube.ApiUnreachable):
            issuer = "-----BEGIN CERTIFICATE-----" + certificate.read_text().split("-----BEGIN CERTIFICATE-----")[-1]
            entry = {
                "server": f"https://127.0.0.1:{port}",
                "certificate-authority-data": base64.b64encode(issuer.encode()).decode(),
            }
            document = {
                "clusters": [{"name": "c", "cluster": entry}],
                "users": [{"name": "u", "user": {"token": token}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
            path.write_text(yaml.safe_dump(document))
            with kube.Api(kube.read_access(path)) as client:
                client.text("/readyz")
                client.get("/api/v1/namespaces/default/services/kubernetes")
            return
        assert time.monotonic() < deadline, "the API server did not start"
        time.sleep(0.2)


@pytest.fixture
def api(kubeconfig: Path) -> Iterator[kube.Api]:
    with kube.Api(kube.read_access(kubeconfig)) as client:
        for node in client.get(NODES)["items"]:
            client.delete(f"{NODES}/{node['metadata']['name']}")
        yield client


def cluster(kubeconfig: Path, **nodes: dict[str, Any]) -> clusters.Cluster:
    specs = tuple(
        NodeSpec(
            name.replace("_", "-"),
            "workers" if "worker" in name else "control_plane",
            labels=given.get("labels", {}),
            taints=tuple(given.get("taints", ())),
            pod_cidrs=tuple(given.get("cidrs", ())),
        )
        for name, given in nodes.items()
    )
    return clusters.Cluster("main", kubeconfig, "kubeadm", "1.36.3", ("ipv4",), specs)


def register(api: kube.Api, name: str, **metadata: Any) -> None:
    taint = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}
    api.create(NODES, {"metadata": {"name": name, **metadata}, "spec": {"taints": [taint]}})


def test_nodes_converge_to_the_profile_and_a_second_run_changes_nothing(kubeconfig: Path, api: kube.Api) -> None:
    desired = cluster(
        kubeconfig,
        master_0={"labels": {"memsql": "true"}, "cidrs": ["10.244.0.0/24"]},
        worker_0={"taints": ["dedicated=db:NoSchedule"], "cidrs": ["10.244.1.0/24", "fd01:0:0:1::/64"]},
    )
    for node in desired.nodes:
        register(api, node.name)
    assert labels.apply(desired, api, timeout=30, check=True).changed == ["master-0", "worker-0"]
    assert "podCIDR" not in api.get(f"{NODES}/worker-0")["spec"]

    assert labels.apply(desired, api, timeout=30).changed == ["master-0", "worker-0"]
    worker = api.get(f"{NODES}/worker-0")
    assert worker["spec"]["podCIDRs"] == ["10.244.1.0/24", "fd01:0:0:1::/64"]
    assert {"key": "dedicated", "value": "db", "effect": "NoSchedule"} in worker["spec"]["taints"]
    assert any(taint["key"] == "node.kubernetes.io/not-ready" for taint in worker["spec"]["taints"])
    assert worker["metadata"]["labels"] == {"node-role.kubernetes.io/worker": ""}
    assert json.loads(worker["metadata"]["annotations"]["devenv.lab/labels"]) == {"node-role.kubernetes.io/worker": ""}

    assert labels.apply(desired, api, timeout=30).changed == []
    assert api.get(f"{NODES}/worker-0")["metadata"]["resourceVersion"] == worker["metadata"]["resourceVersion"]


def test_nothing_is_written_if_a_node_has_a_conflict(kubeconfig: Path, api: kube.Api) -> None:
    register(api, "master-0")
    register(api, "worker-0", labels={"pipe": "theirs"})
    desired = cluster(kubeconfig, master_0={"labels": {"pipe": "true"}}, worker_0={"labels": {"pipe": "true"}})
    with pytest.raises(DevenvError, match="worker-0: label pipe is 'theirs'") as caught:
        labels.apply(desired, api, timeout=30)
    assert caught.value.exit_code == 6
    assert "pipe" not in (api.get(f"{NODES}/master-0")["metadata"].get("labels") or {})


def test_a_label_that_the_api_rejects_is_an_error(kubeconfig: Path, api: kube.Api) -> None:
    register(api, "master-0")
    with pytest.raises(DevenvError, match=r"master-0: .*bad key"):
        labels.apply(cluster(kubeconfig, master_0={"labels": {"bad key": "x"}}), api, timeout=30)


def test_labels_wait_for_nodes_that_register_later(kubeconfig: Path, api: kube.Api) -> None:
    desired = cluster(kubeconfig, master_0={"labels": {"pipe": "true"}}, worker_0={})
    register(api, "master-0")
    with pytest.raises(DevenvError, match="no Node object of worker-0"):
        labels.apply(desired, api, timeout=0.5)
    assert "pipe" not in (api.get(f"{NODES}/master-0")["metadata"].get("labels") or {})

    progress: list[str] = []

    def later() -> None:
        with kube.Api(kube.read_access(kubeconfig)) as other:
            register(other, "worker-0")

    timer = threading.Timer(0.7, later)
    timer.start()
    try:
        outcome = labels.apply(desired, api, timeout=20, progress=progress.append)
    finally:
        timer.join()
    assert outcome.changed == ["master-0", "worker-0"]
    assert progress == ["waiting for Node objects: worker-0"]


def test_concurrent_writers_lose_nothing(kubeconfig: Path, api: kube.Api) -> None:
    """Another client adds and removes taints continuously, as controllers do while nodes join."""
    register(api, "master-0")
    stop = threading.Event()
    writes = 0

    def writer() -> None:
        nonlocal writes
        with kube.Api(kube.read_access(kubeconfig)) as other:
            while not stop.is_set():
                node = other.get(f"{NODES}/master-0")
                taints = [t for t in node["spec"].get("taints") or [] if t["key"] != "theirs"]
                added = [{"key": "theirs", "value": str(writes), "effect": "PreferNoSchedule"}]
                version = {"resourceVersion": node["metadata"]["resourceVersion"]}
                with contextlib.suppress(kube.ApiError):
                    other.merge(f"{NODES}/master-0", {"metadata": version, "spec": {"taints": taints + added}})
                    writes += 1

    thread = threading.Thread(target=writer)
    thread.start()
    try:
        for number in range(20):
            desired = cluster(kubeconfig, master_0={"taints": [f"own-{number}:NoSchedule"]})
            assert labels.apply(desired, api, timeout=30).changed == ["master-0"]
    finally:
        stop.set()
        thread.join()
    keys = {taint["key"] for taint in api.get(f"{NODES}/master-0")["spec"]["taints"]}
    assert {key for key in keys if not key.startswith("node.kubernetes.io/")} == {"own-19", "theirs"}
    assert writes > 0


def test_validation_of_a_cluster_that_is_not_ready_lists_what_is_missing(kubeconfig: Path, api: kube.Api) -> None:
    """Without service accounts and running nodes, validation ends in time, lists both, and removes its objects."""
    register(api, "master-0")
    report = validate.run(
        cluster(kubeconfig, master_0={}, worker_0={}),
        probes="always",
        changed=False,
        timeout=2,
        domain="cluster.local",
    )
    assert report.failure is not None
    assert report.failure.exit_code == 8
    text = str(report.failure)
    for message in (
        "master-0 is not Ready",
        "worker-0 is not registered",
        "no pod kube-apiserver-master-0",
        "probe_pods: ",
        "service account",
        "Service kube-dns has no ready endpoint",
        "default_service_account: the API returns 404",
    ):
        assert message in text
    states = {check.name: check.ok for check in report.checks}
    assert states.pop("api")
    # The profile has no labels.
    assert states.pop("labels")
    assert states
    assert not any(states.values())
    remaining = api.get("/api/v1/namespaces", {"labelSelector": "devenv.lab/validate"})["items"]
    assert all("deletionTimestamp" in namespace["metadata"] for namespace in remaining)
    assert json.loads(kubeconfig.with_name("validated.json").read_text())["ok"] is False


def test_check_mode_creates_nothing(kubeconfig: Path, api: kube.Api) -> None:
    report = validate.run(
        cluster(kubeconfig, master_0={}), probes="always", changed=True, timeout=60, domain="cluster.local", check=True
    )
    assert "probe_pods" not in [check.name for check in report.checks]
    for namespace in api.get("/api/v1/namespaces", {"labelSelector": "devenv.lab/validate"})["items"]:
        assert "deletionTimestamp" in namespace["metadata"]


# --- sets of objects

CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.org"
WIDGET = "/apis/example.org/v1/namespaces/shop/widgets/one"


def widgets(size: int) -> list[dict[str, Any]]:
    """Return a namespace, a widget in it and the definition of widgets, which has to be established first."""
    schema = {
        "type": "object",
        "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}},
    }
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}},
        {
            "apiVersion": "example.org/v1",
            "kind": "Widget",
            "metadata": {"name": "one", "namespace": "shop"},
            "spec": {"size": size},
        },
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": "widgets.example.org"},
            "spec": {
                "group": "example.org",
                "scope": "Namespaced",
                "names": {"kind": "Widget", "plural": "widgets", "singular": "widget", "listKind": "WidgetList"},
                "versions": [
                    {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}},
                ],
            },
        },
    ]


def test_custom_resources_are_applied_with_their_definition_and_pruned(api: kube.Api) -> None:
    names = ["CustomResourceDefinition widgets.example.org", "Namespace shop", "Widget shop/one"]
    assert ApplySet(api, "e2e").converge(widgets(1), check=True).changed == names
    with pytest.raises(kube.ApiError):
        api.get(CRD)
    assert ApplySet(api, "e2e", 60).converge(widgets(1)).changed == names
    assert api.get(WIDGET)["spec"] == {"size": 1}
    before = ApplySet(api, "e2e").fingerprint()
    assert ApplySet(api, "e2e", 60).converge(widgets(1)).changed == []
    assert ApplySet(api, "e2e", 60).converge(widgets(2)).changed == ["Widget shop/one"]
    assert api.get(WIDGET)["spec"] == {"size": 2}
    after = ApplySet(api, "e2e").fingerprint()
    assert [name for name in names if before[name] != after[name]] == ["Widget shop/one"]
    assert ApplySet(api, "e2e", 60).converge([*widgets(2)[:1], widgets(2)[2]]).removed == ["Widget shop/one"]
    with pytest.raises(kube.ApiError) as caught:
        api.get(WIDGET)
    assert caught.value.status == 404
    assert api.get("/apis/example.org/v1/namespaces/shop/widgets")["items"] == [], "the definition still exists"
    removed = ApplySet(api, "e2e", 60).converge([]).removed
    assert removed == ["Namespace shop", "CustomResourceDefinition widgets.example.org"]


def test_kinds_of_every_group_are_discovered_on_a_real_api(api: kube.Api) -> None:
    rows = [
        {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "p"}, "value": 7},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "in-default"}, "data": {"a": "b"}},
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "n", "namespace": "default"},
            "spec": {"podSelector": {}},
        },
    ]
    assert len(ApplySet(api, "groups", 60).converge(rows).changed) == 3
    assert api.get("/apis/scheduling.k8s.io/v1/priorityclasses/p")["value"] == 7
    assert api.get("/api/v1/namespaces/default/configmaps/in-default")["data"] == {"a": "b"}
    with pytest.raises(DevenvError, match=r"no kind NetworkPolicies in networking\.k8s\.io/v1, but NetworkPolicy"):
        ApplySet(api, "groups", 60).converge([rows[2] | {"kind": "NetworkPolicies"}])
    with pytest.raises(DevenvError, match=r"no scheduling\.k8s\.io/v2, but scheduling\.k8s\.io/v1"):
        ApplySet(api, "groups", 60).converge([rows[0] | {"apiVersion": "scheduling.k8s.io/v2"}])
    assert len(ApplySet(api, "groups", 60).converge([]).removed) == 3
