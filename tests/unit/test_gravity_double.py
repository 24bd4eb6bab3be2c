"""The test double of Gravity has the documented commands, texts, JSON and exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from doubles.gravity import api
from support.gravity import Lab


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_version_has_the_short_flag_of_output(lab: Lab) -> None:
    """``-o`` is the output format here, and the operation in `status`."""
    node = lab.node("master-0", "10.0.0.10")
    assert json.loads(node("version", "-o", "json").stdout)["version"] == "7.0.40"
    lab.install()
    assert node("status", "-o", "json").returncode == 255


def test_status_reports_an_installed_cluster(lab: Lab) -> None:
    node = lab.install()
    answer = node("status", "--output=json")
    cluster = json.loads(answer.stdout)["cluster"]
    assert answer.returncode == 0
    assert (cluster["state"], cluster["system_status"], cluster["domain"]) == ("active", 1, "lab.example")
    assert [node["advertise_ip"] for node in cluster["nodes"]] == ["10.0.0.10"]
    assert cluster["nodes"][0]["role"] == "master"
    assert cluster["operation"]["type"] == "operation_install"
    assert cluster["token"]["type"] == "expand"
    assert node("status", "--token").stdout == cluster["token"]["token"]
    identity = cluster["operation"]["id"]
    assert node("status", "--quiet", f"--operation-id={identity}").stdout == "completed\n"


def test_status_of_a_degraded_cluster_is_json_with_code_255(lab: Lab) -> None:
    node = lab.install()
    lab.health({"10.0.0.10": "degraded"})
    answer = node("status", "--output=json")
    assert answer.returncode == 255
    assert json.loads(answer.stdout)["cluster"]["system_status"] == 2
    assert "[ERROR]: degraded" in answer.stderr


def test_workers_join_and_masters_one_by_one(lab: Lab) -> None:
    master = lab.install()
    token = master("status", "--token").stdout
    assert lab.join("master-1", "10.0.0.11", "aio", token).returncode == 0
    assert lab.join("worker-0", "10.0.0.20", "pipe", token).returncode == 0
    nodes = json.loads(lab.node("worker-0", "10.0.0.20")("status", "--output=json").stdout)["cluster"]["nodes"]
    assert [(node["hostname"], node["role"], node["profile"]) for node in nodes] == [
        ("master-0", "master", "aio"),
        ("master-1", "master", "aio"),
        ("worker-0", "node", "pipe"),
    ]


@pytest.mark.parametrize(
    ("hostname", "role", "token", "text"),
    [
        ("worker-0", "pipe", "not-the-token", "bad secret token"),
        ("worker-0", "db", "", 'specified node role "db" is not defined in the application manifest'),
        ("master-0", "pipe", "", "One of existing servers already has hostname"),
        ("worker-0", "only-once", "", 'server profile "only-once" does not allow expansion'),
    ],
)
def test_invalid_joins_are_refused(lab: Lab, hostname: str, role: str, token: str, text: str) -> None:
    token = token or lab.install()("status", "--token").stdout
    lab.install()
    answer = lab.join("worker-0", "10.0.0.20", role, token, hostname=hostname)
    assert answer.returncode == 255
    assert f"[ERROR]: {text}" in answer.stderr


def test_a_master_waits_forever_while_a_worker_joins(lab: Lab) -> None:
    master = lab.install()
    token = master("status", "--token").stdout
    lab.begin_join("10.0.0.20", "node")
    with pytest.raises(TimeoutError, match="can't join master node while another node is joining"):
        lab.join("master-1", "10.0.0.11", "aio", token, timeout=3)


def test_a_worker_waits_while_a_master_joins(lab: Lab) -> None:
    token = lab.install()("status", "--token").stdout
    lab.begin_join("10.0.0.11", "master")
    with pytest.raises(TimeoutError, match=r"can't launch another expand while master node 10\.0\.0\.11 is joining"):
        lab.join("worker-0", "10.0.0.20", "pipe", token, timeout=3)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--flavor=big",), 'install flavor "big" not found'),
        (("--role=db",), 'server role "db" not found'),
        (("--advertise-addr=10.9.9.9",), "matches none of the available addresses"),
        (("--token=abc",), "install token is too short"),
        ((f"--token={'a' * 129}",), "install token is too long"),
    ],
)
def test_invalid_installs_are_refused(lab: Lab, words: tuple[str, ...], text: str) -> None:
    node = lab.node("master-0", "10.0.0.10")
    answer = node("install", "--advertise-addr=10.0.0.10", "--flavor=one", "--role=aio", *words)
    assert answer.returncode == 255
    assert text in answer.stderr
    assert not node.exists("var/lib/gravity/local")


def test_a_second_install_reports_the_state_of_the_first(lab: Lab) -> None:
    node = lab.install()
    answer = node("install", "--advertise-addr=10.0.0.10", "--flavor=one")
    assert "detected previous installation state in" in answer.stderr


def test_remove_launches_an_operation(lab: Lab) -> None:
    master = lab.install()
    lab.join("worker-0", "10.0.0.20", "pipe", master("status", "--token").stdout)
    answer = master("remove", "10.0.0.20", "--confirm")
    assert answer.returncode == 0
    assert 'launched operation "' in answer.stdout
    assert "use 'gravity status' to poll its progress" in answer.stdout
    identity = answer.stdout.split('"')[1]
    assert master("status", "--quiet", f"--operation-id={identity}").stdout == "completed\n"
    assert len(json.loads(master("status", "--output=json").stdout)["cluster"]["nodes"]) == 1


def test_leave_removes_the_node(lab: Lab) -> None:
    master = lab.install()
    lab.join("worker-0", "10.0.0.20", "pipe", master("status", "--token").stdout)
    worker = lab.node("worker-0", "10.0.0.20")
    lab.down(True)
    assert "the cluster is inaccessible" in worker("leave", "--confirm").stderr
    lab.down(False)
    assert worker("leave", "--confirm").returncode == 0
    assert not worker.exists("var/lib/gravity")
    assert "no running cluster detected, please use --force" in worker("leave", "--confirm").stderr
    assert "this server is not a part of the running cluster" in worker("leave", "--force", "--confirm").stderr


def test_start_changes_the_address(lab: Lab) -> None:
    node = lab.install()
    moved = lab.node("master-0", "10.0.0.10,10.0.0.99")
    assert "already using advertise address" in moved("start", "--advertise-addr=10.0.0.10", "--confirm").stderr
    assert "appears to be running on this node" in moved("start", "--advertise-addr=10.0.0.99", "--confirm").stderr
    assert node("stop", "--confirm").returncode == 0
    gone = lab.node("master-0", "10.0.0.99")
    assert "which is not present on the machine" in gone("status", "--output=json").stderr
    assert gone("start", "--advertise-addr=10.0.0.99", "--confirm").returncode == 0
    cluster = json.loads(gone("status", "--output=json").stdout)["cluster"]
    assert [node["advertise_ip"] for node in cluster["nodes"]] == ["10.0.0.99"]


def test_only_a_single_node_can_change_its_address(lab: Lab) -> None:
    master = lab.install()
    lab.join("worker-0", "10.0.0.20", "pipe", master("status", "--token").stdout)
    master("stop", "--confirm")
    moved = lab.node("master-0", "10.0.0.99")
    answer = moved("start", "--advertise-addr=10.0.0.99", "--confirm")
    assert "Only single-node clusters can be reconfigured" in answer.stderr
    assert "doesn't appear to be installed" in lab.node("other", "10.0.0.50")("start", "--confirm").stderr


@pytest.mark.parametrize(
    ("path", "missing"),
    [
        ("/api/v1/namespaces/kube-system/endpoints/kube-dns", False),
        ("/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices", True),
        ("/apis/discovery.k8s.io", True),
        ("/apis/apps/v1/deployments", False),
        ("/apis/batch/v1/namespaces/default/jobs", False),
        ("/apis/batch/v1/namespaces/default/cronjobs", True),
        ("/apis/policy/v1/poddisruptionbudgets", True),
        ("/apis/metrics.k8s.io/v1beta1/nodes", False),
        ("/openapi/v3", True),
        ("/readyz", False),
    ],
)
def test_the_api_of_1_17_lacks_what_came_later(path: str, missing: bool) -> None:
    assert api.is_missing(path) == missing


def test_the_api_of_1_17_knows_neither_later_fields_nor_versions() -> None:
    service = {"kind": "Service", "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": []}}
    spec = {"clusterIP": "10.96.0.1", "ports": []}
    item = {"spec": service["spec"]}
    assert api.as_old(service)["spec"] == spec
    assert api.as_old({"kind": "ServiceList", "items": [item]})["items"] == [{"spec": spec}]
    node = {"kind": "Node", "status": {"nodeInfo": {"kubeletVersion": "v1.36.3", "osImage": "x"}}}
    assert api.as_old(node)["status"]["nodeInfo"]["kubeletVersion"] == "v1.17.9"
    assert api.as_old({"gitVersion": "v1.36.3"})["gitVersion"] == "v1.17.9"
    groups = [
        {"name": "discovery.k8s.io", "versions": [{"version": "v1"}]},
        {"name": "apps", "versions": [{"version": "v1"}]},
        {"name": "example.com", "versions": [{"version": "v7"}]},
    ]
    names = [group["name"] for group in api.as_old({"kind": "APIGroupList", "groups": groups})["groups"]]
    assert names == ["apps", "example.com"]


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"kind": "gateway", "spec": {}}, "unsupported resource 'gateway'"),
        ({"kind": "authgateway", "spec": {"public_addr": []}}, "spec.public_addr is missing"),
        ({"kind": "user", "spec": {"type": "admin", "password": "x"}}, "spec.roles is missing"),
    ],
)
def test_invalid_resources_are_refused(lab: Lab, document: dict[str, Any], text: str) -> None:
    node = lab.install()
    (lab.folder / "resource.yaml").write_text(json.dumps(document))
    answer = node("resource", "create", str(lab.folder / "resource.yaml"))
    assert answer.returncode == 255
    assert text in answer.stderr


def test_arguments_can_come_from_a_file(lab: Lab) -> None:
    (lab.folder / "words").write_text("# a comment\nversion\n-o\njson\n")
    node = lab.node("master-0", "10.0.0.10")
    assert json.loads(node(f"@{lab.folder / 'words'}").stdout)["version"] == "7.0.40"
    assert node("@/nowhere").returncode == 255


def test_autojoin_is_for_a_cloud(lab: Lab) -> None:
    assert "autojoin only supports AWS" in lab.node("a", "10.0.0.30")("autojoin", "lab").stderr


def test_faults_occur_as_often_as_configured(lab: Lab) -> None:
    node = lab.node("master-0", "10.0.0.10")
    lab.faults([{"command": "check", "text": "etcd disk is too slow", "code": 252, "times": 1}], "master-0")
    assert node("check", "--profile=aio").returncode == 252
    assert node("check", "--profile=aio").returncode == 0
