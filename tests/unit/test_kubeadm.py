"""Calls of kubeadm: reasons, tokens, members, and killed runs.

Shell scripts replace kubeadm and kubectl.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import actions, address, api, create, members, run
from ansible_collections.devenv.lab.plugins.module_utils.node import kubernetes
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import StepFailed
from ansible_collections.devenv.lab.plugins.plugin_utils.core import reasons
from support import tls
from support.node import Node, write
from support.waits import until

TOKEN = "abcdef.0123456789abcdef"
KEY = "0f" * 32


@pytest.mark.parametrize(
    ("action", "lines", "reason"),
    [
        ("init", ["error execution phase preflight: [preflight] Some fatal errors occurred:"], "kubernetes_preflight"),
        ("init", ["error execution phase wait-control-plane: could not"], "kubernetes_init_failed"),
        ("join", ["error execution phase kubelet-start: timed out"], "kubernetes_join_failed"),
        ("join", ["error execution phase etcd-join: etcdserver: unhealthy cluster"], "kubernetes_etcd"),
        ("join", [], "kubernetes_join_failed"),
    ],
)
def test_failures_have_a_reason(action: str, lines: list[str], reason: str) -> None:
    assert create.reason_of(action, lines) == reason
    assert reason in reasons.catalogue()


def test_an_explanation_is_the_lines_with_errors() -> None:
    lines = [
        "[preflight] Running pre-flight checks",
        "error execution phase preflight: [preflight] Some fatal errors occurred:",
        "\t[ERROR Port-6443]: Port 6443 is in use",
        "[preflight] If you know what you are doing ...",
    ]
    assert run.explain(lines).split("; ") == [
        "error execution phase preflight: [preflight] Some fatal errors occurred:",
        "[ERROR Port-6443]: Port 6443 is in use",
    ]


def secret(text: str) -> dict[str, Any]:
    return {"data": {"expiration": base64.b64encode(text.encode()).decode()}}


@pytest.mark.parametrize(
    ("shown", "remaining"),
    [
        (secret("1970-01-01T00:30:00Z"), 1800 - 600),
        (secret("1970-01-01T01:30:00+01:00"), 1800 - 600),
        (secret("1969-12-31T19:30:00-05:00"), 1800 - 600),
        (secret("1970-01-01T00:05:00Z"), -300),
        (secret("never"), 0),
        ({"data": {}}, float("inf")),
    ],
)
def test_the_remaining_validity_of_a_token(shown: dict[str, Any], remaining: float) -> None:
    assert members.remaining_validity(shown, now=600) == remaining


@pytest.mark.parametrize("text", [f"  - token: {TOKEN}", f'  - token: "{TOKEN}"', f'{{"token": "{TOKEN}"}}'])
def test_the_token_of_a_configuration(text: str) -> None:
    assert members.token_of(text) == TOKEN


def test_a_configuration_without_a_token_is_refused() -> None:
    with pytest.raises(StepFailed):
        members.token_of("kind: InitConfiguration")


MEMBERS: list[dict[str, Any]] = [
    {"ID": 255, "name": "master-0", "peerURLs": ["https://10.0.0.10:2380"]},
    {"ID": 256, "name": "master-1", "peerURLs": ["https://10.0.0.11:2380"]},
    {"ID": 257, "peerURLs": ["https://[fd77::c]:2380"]},
]


@pytest.mark.parametrize(
    ("lost", "stale"),
    [
        ({}, []),
        ({"master-9": ["10.0.0.99"]}, []),
        ({"master-1": []}, ["100"]),
        ({"renamed": ["10.0.0.11"]}, ["100"]),
        ({"master-2": ["10.0.0.12", "fd77::c"]}, ["101"]),
    ],
)
def test_stale_members_match_by_name_or_address(lost: dict[str, list[str]], stale: list[str]) -> None:
    assert members.stale_members(MEMBERS, lost) == stale


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    node = Node(tmp_path / "root")
    for name in ("journalctl", "systemctl"):
        node.program(name, "")
    monkeypatch.setenv("PATH", f"{node / 'bin'}:{os.environ['PATH']}")
    return node


def perform(node: Node, action: str, params: dict[str, Any], only_check: bool = False) -> dict[str, Any]:
    return actions.perform(node, action, params, only_check)


def state_of(node: Node) -> str:
    return str(kubernetes.state(node.root)["state"])


CREATE_ALL = 'for f in {}; do mkdir -p "${{f%/*}}"; echo x > "$f"; done\n'


def kubeadm_that(node: Node, then: str = "") -> None:
    """A kubeadm that records its calls and its configuration, creates all files, and ends with ``then``."""
    files = " ".join(node.path(path) for path in kubernetes.CONTROL_PLANE_FILES)
    node.program(
        "kubeadm",
        f"""cd {node.folder}; echo "$*" >> calls; for config; do :; done; folder=${{config%/*}}\n"""
        "case $1 in reset) rm -rf etc/kubernetes var/lib/kubelet; exit 0;; esac\n"
        """cp "$config" given; stat -c %a "$config" "$folder" > modes; ls "$folder/patches" > patches\n"""
        + CREATE_ALL.format(files)
        + f"echo 'using token {TOKEN}'\n"
        + then,
    )


def params(**changes: Any) -> dict[str, Any]:
    return {
        "config": f"token: {TOKEN}\n",
        "patches": {"a.yaml": "x"},
        "node": "n",
        "control_plane": True,
        "upload_certs": False,
        "ca_hash": "",
        "nodes": [],
        "members": {},
        "timeout": 20,
        "wait": 0,
        "dns_replicas": 0,
        **changes,
    }


def calls(node: Node) -> list[str]:
    return (node / "calls").read_text().splitlines() if (node / "calls").exists() else []


def test_a_second_init_changes_nothing(node: Node) -> None:
    kubeadm_that(node)
    first = perform(node, "init", params())
    assert first["changed"]
    assert "using token [secret redacted]" in first["output"]
    assert (node / "given").read_text() == f"token: {TOKEN}\n"
    assert (node / "modes").read_text().split() == ["600", "700"]
    assert (node / "patches").read_text().split() == ["a.yaml"]
    assert not (node / "run/devenv/kubeadm-init").exists()
    assert TOKEN not in (node / "var/log/devenv/kubeadm-init.log").read_text()
    assert TOKEN not in (node / "calls").read_text()
    assert perform(node, "init", params())["changed"] is False
    assert len(calls(node)) == 1


def test_a_failed_init_leaves_no_secret_and_starts_over(node: Node) -> None:
    kubeadm_that(node, f"echo 'error execution phase addon: {TOKEN}'; exit 1\n")
    with pytest.raises(StepFailed) as failed:
        perform(node, "init", params())
    shown = str(failed.value.result())
    assert TOKEN not in shown
    assert "error execution phase addon" in shown
    assert not (node / "run/devenv/kubeadm-init").exists()
    assert state_of(node) == "partial"
    kubeadm_that(node)
    assert perform(node, "init", params())["changed"]
    assert [call.split()[0] for call in calls(node)] == ["init", "reset", "init"]


def test_a_control_plane_node_joins_etcd_before_its_api_server_starts(node: Node) -> None:
    kubeadm_that(node)
    assert perform(node, "join", params())["changed"]
    skipped = [call.partition("--skip-phases ")[2].split()[0].split(",") for call in calls(node)]
    assert len(skipped) == 2
    # Together they run every phase, and none twice.
    assert not set(skipped[0]) & set(skipped[1])
    assert {"control-plane-prepare/control-plane", "wait-control-plane"} <= set(skipped[0])
    assert {"preflight", "kubelet-start", "etcd-join"} <= set(skipped[1])
    assert state_of(node) == "control_plane"


@pytest.mark.parametrize("part", [1, 2])
def test_a_join_that_failed_halfway_starts_over(node: Node, part: int) -> None:
    kubeadm_that(
        node, f"[ $(grep -c ^join {node.folder}/calls) != {part} ] || {{ echo 'error execution phase x'; exit 1; }}\n"
    )
    with pytest.raises(StepFailed):
        perform(node, "join", params())
    assert state_of(node) == "partial"
    kubeadm_that(node)
    assert perform(node, "join", params())["changed"]
    assert [call.split()[0] for call in calls(node)] == ["join"] * part + ["reset", "join", "join"]


def test_traces_of_a_killed_run_are_removed(node: Node) -> None:
    """Its configuration still exists, and half of its files."""
    kubeadm_that(node)
    folder = node / "run/devenv/kubeadm-init"
    folder.mkdir(parents=True)
    (folder / "config.yml").write_text("old")
    (node / "etc/kubernetes/manifests").mkdir(parents=True)
    (node / "etc/kubernetes/manifests/etcd.yaml").write_text("x")
    (node / "var/lib/etcd/member").mkdir(parents=True)
    assert perform(node, "init", params())["changed"]
    assert [call.split()[0] for call in calls(node)] == ["reset", "init"]
    assert not (node / "var/lib/etcd/member").is_dir()


def test_kubeadm_is_stopped_at_its_timeout(node: Node) -> None:
    kubeadm_that(node, "sleep 30 & sleep 30\n")
    began = time.monotonic()
    with pytest.raises(StepFailed):
        perform(node, "init", params(timeout=0.5))
    assert time.monotonic() - began < 10
    assert state_of(node) == "partial"


def test_a_damaged_node_joins_again(node: Node) -> None:
    kubeadm_that(node)
    perform(node, "join", params())
    assert perform(node, "join", params())["changed"] is False
    Path(node.path(kubernetes.ADMIN)).unlink()
    assert perform(node, "join", params())["changed"] is True
    assert "reset" in [call.split()[0] for call in calls(node)]


def test_a_node_of_an_earlier_cluster_joins_the_new_one(node: Node) -> None:
    kubeadm_that(node)
    worker = {"control_plane": False}
    perform(node, "join", params(**worker))
    tls.self_signed(node / "ca.key", Path(node.path(kubernetes.CA)))
    ca_hash = kubernetes.ca_hash(node.root)
    assert perform(node, "join", params(ca_hash=ca_hash, **worker))["changed"] is False
    assert perform(node, "join", params(ca_hash="sha256:new", **worker))["changed"] is True
    assert [call.split()[0] for call in calls(node)] == ["join", "reset", "join"]


def test_a_damaged_first_node_is_not_reset(node: Node) -> None:
    kubeadm_that(node)
    perform(node, "init", params())
    Path(node.path(kubernetes.ADMIN)).unlink()
    with pytest.raises(StepFailed) as failed:
        perform(node, "init", params())
    assert failed.value.reason == "kubernetes_damaged"
    assert [call.split()[0] for call in calls(node)] == ["init"]


def test_a_worker_does_not_become_a_control_plane(node: Node) -> None:
    kubeadm_that(node)
    perform(node, "join", params(control_plane=False))
    with pytest.raises(StepFailed) as failed:
        perform(node, "join", params())
    assert failed.value.reason == "kubernetes_role"


def test_a_complete_control_plane_without_the_marker_is_kept(node: Node) -> None:
    kubeadm_that(node)
    perform(node, "init", params())
    kubernetes.unmark(node.root)
    node.advertise("127.0.0.1")
    node.ready = lambda *_, **__: True
    node.program("kubectl", f'echo "$*" >> {node.folder}/queries\n')
    result = perform(node, "init", params())
    assert result["adopted"]
    assert "node/n daemonset.apps/kube-proxy deployment.apps/coredns" in (node / "queries").read_text()
    assert state_of(node) == "control_plane"
    # One without an add-on was killed before kubeadm ended, and is recreated.
    kubernetes.unmark(node.root)
    node.program("kubectl", "exit 1\n")
    assert "adopted" not in perform(node, "init", params())
    assert [call.split()[0] for call in calls(node)] == ["init", "reset", "init"]


def test_a_node_without_kubeadm_is_reported(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(node / "bin"))
    with pytest.raises(StepFailed) as failed:
        perform(node, "init", params())
    assert failed.value.reason == "node_program_missing"


def test_a_second_reset_changes_nothing(node: Node) -> None:
    kubeadm_that(node)
    perform(node, "init", params())
    assert perform(node, "reset", params())["changed"]
    assert state_of(node) == "absent"
    assert perform(node, "reset", params())["changed"] is False


def test_a_reset_removes_the_record_of_a_killed_change_of_the_address(node: Node) -> None:
    """Otherwise the next cluster on this node would complete it, whatever its number of nodes."""
    kubeadm_that(node)
    perform(node, "init", params())
    write(node / address.RECORD, '{"before": ["10.0.0.10"]}')
    perform(node, "reset", params())
    assert not node.exists(address.RECORD)


def test_check_mode_runs_nothing(node: Node) -> None:
    assert perform(node, "init", params(), only_check=True) == {"changed": True}
    assert perform(node, "reset", params(), only_check=True) == {"changed": False}
    assert calls(node) == []


def allowing(node: Node, secret: str, nodes: str = '{"items": []}') -> None:
    node.program("kubeadm", f'echo "$*" >> {node.folder}/calls\n')
    answers = f"""*secret*) echo '{secret}';; *delete*) echo "$*" >> {node.folder}/calls;; *) echo '{nodes}';;"""
    node.program("kubectl", f'case "$*" in {answers} esac\n')


def test_allow_join_creates_a_token(node: Node) -> None:
    allowing(node, "")
    assert perform(node, "allow_join", params(least=900, upload_certs=True))["changed"]
    assert [call.split(" --config")[0] for call in calls(node)] == [
        "token create",
        "init phase upload-config kubeadm",
        "init phase upload-certs --upload-certs --skip-certificate-key-print",
    ]
    assert TOKEN not in (node / "calls").read_text()


def test_a_token_that_expires_soon_is_recreated(node: Node) -> None:
    allowing(node, json.dumps(secret("1970-01-01T00:20:00Z")))
    perform(node.at(600), "allow_join", params(least=900))
    assert [call.split(" --config")[0] for call in calls(node)] == ["token delete abcdef", "token create"]


def test_a_valid_token_is_kept(node: Node) -> None:
    allowing(node, json.dumps(secret("1970-01-01T00:40:00Z")))
    assert perform(node.at(600), "allow_join", params(least=900))["changed"] is False
    assert calls(node) == []


def test_nodes_of_the_same_name_are_deleted(node: Node) -> None:
    allowing(node, "", '{"items": [{"metadata": {"name": "worker-0"}}, {"metadata": {"name": "master-0"}}]}')
    result = perform(node, "forget", params(nodes=["worker-0", "worker-1"]))
    assert result["removed"] == ["node worker-0"]
    assert perform(node, "forget", params(nodes=["worker-9"]))["changed"] is False


def test_joins_wait_for_the_api(node: Node) -> None:
    node.program("kubeadm", "exit 0\n")
    node.program(
        "kubectl",
        f'cd {node.folder}; case "$*" in *readyz*) echo x >> queries; [ "$(wc -l < queries)" -gt 2 ] || exit 1;; esac\n'
        """case "$*" in *secret*) ;; *) echo '{"items": []}';; esac\n""",
    )
    with pytest.raises(StepFailed, match="does not respond within 0 s"):
        perform(node, "allow_join", params(least=900))
    api.wait_for_api(node, 20, pause=0.01)
    assert (node / "queries").read_text().count("x") == 3


@pytest.mark.parametrize(
    ("replicas", "desired", "scaled"), [(1, 2, True), (2, 2, False), (3, 2, False), (0, 2, False), (1, 1, False)]
)
def test_coredns_of_a_growing_cluster_grows_from_one_pod(node: Node, replicas: int, desired: int, scaled: bool) -> None:
    allowing(
        node, json.dumps(secret("1970-01-01T00:40:00Z")), json.dumps({"spec": {"replicas": replicas}, "items": []})
    )
    text = (node / "bin/kubectl").read_text()
    (node / "bin/kubectl").write_text(
        text.replace('case "$*" in', f'case "$*" in *scale*) echo "$*" >> {node.folder}/calls;;')
    )
    result = perform(node.at(600), "allow_join", params(least=900, dns_replicas=desired))
    assert result["changed"] is scaled
    assert ["--replicas=2" in call for call in calls(node)] == [True] * scaled


@pytest.mark.parametrize(
    ("replicas", "anti_affinity", "scaled"),
    [(2, True, ["--replicas=1"]), (3, True, ["--replicas=1"]), (1, True, []), (2, False, [])],
)
def test_coredns_shrinks_with_the_nodes(node: Node, replicas: int, anti_affinity: bool, scaled: list[str]) -> None:
    affinity = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{}]}} if anti_affinity else {}
    deployment = {"spec": {"replicas": replicas, "template": {"spec": {"affinity": affinity}}}}
    nodes = {"items": [{"metadata": {"name": name}} for name in ("master-0", "worker-0")]}
    allowing(node, "", json.dumps({**nodes, **deployment}))
    text = (node / "bin/kubectl").read_text()
    recorded = f'case "$*" in *scale*) echo "$*" >> {node.folder}/calls; echo "{{}}";;'
    (node / "bin/kubectl").write_text(text.replace('case "$*" in', recorded))
    perform(node, "forget", params(nodes=["worker-0"]))
    assert [word for call in calls(node) for word in call.split() if word.startswith("--replicas")] == scaled


MEMBER = '{"members": [{"ID": 10, "name": "n1", "peerURLs": ["https://10.0.0.11:2380"]}]}'


def etcdctl_that(node: Node, then: str) -> None:
    """An etcdctl with one member that records its calls and responds to a removal with ``then``."""
    node.program(
        "etcdctl",
        f"""echo "$*" >> {node.folder}/calls\ncase "$*" in *"member list"*) echo '{MEMBER}';; *) {then};; esac\n""",
    )
    node.program("kubectl", f'echo "$*" >> {node.folder}/queries\n')


def test_a_removal_waits_until_all_proxied_servers_respond(node: Node) -> None:
    node.at(0)
    etcdctl_that(node, "exit 0")
    # The second of two servers, which are used in turn, hangs until the proxy notices it after five requests.
    node.program(
        "kubectl",
        f'echo "$*" >> {node.folder}/queries; case $(wc -l < {node.folder}/queries) in 2|4) exit 1;; esac\n',
    )
    assert members.forget(node, [], {"n1": ["10.0.0.11"]}) == ["etcd member a"]
    queries = (node / "queries").read_text().splitlines()
    assert len(queries) == 4 + members.TURNS
    assert all(query.endswith("get --raw=/readyz --request-timeout=2s") for query in queries)


def test_a_removal_waits_until_the_removed_api_server_is_not_ready(node: Node) -> None:
    """It reports for some more seconds that it is ready: fast responses until then prove nothing."""
    node.at(0)
    etcdctl_that(node, "exit 0")
    checked: list[str] = []

    def http_ok(address: str, port: int, path: str, **_: object) -> bool:
        assert not (node / "queries").exists()
        checked.append(f"{address}:{port}{path}")
        return len(checked) < 4

    node.ready = http_ok
    members.forget(node, [], {"n1": ["10.0.0.11", "fd00::11"]})
    assert checked == ["10.0.0.11:6443/readyz"] * 4 + ["fd00::11:6443/readyz"]
    assert len((node / "queries").read_text().splitlines()) == members.TURNS


@pytest.mark.parametrize("control_plane", [False, True])
def test_a_node_without_a_node_object_registers_again(node: Node, control_plane: bool) -> None:
    node.at(0)
    write(node / "etc/kubernetes/kubelet.conf", "    server: https://lab-api:6443\n")
    kubernetes.mark("control_plane" if control_plane else "worker", {"node": "n"}, node.root)
    for name in ("systemctl", "kubectl", "journalctl"):
        node.program(name, f'echo "{name} $*" >> {node.folder}/calls\n')
    statuses = iter([404, 404, 200])
    node.status = lambda *_, **__: next(statuses)
    given = params(control_plane=control_plane, wait=5)
    assert perform(node, "register", given) == {"changed": True, "ca_hash": ""}
    restart, *labelling = calls(node)
    assert restart == "systemctl restart kubelet.service"
    assert len(labelling) == control_plane
    if control_plane:
        assert labelling[0].endswith(
            "label --overwrite node n node-role.kubernetes.io/control-plane="
            " node.kubernetes.io/exclude-from-external-load-balancers="
        )
    node.status = lambda *_, **__: 200
    assert perform(node, "register", given)["changed"] is False
    node.status = lambda *_, **__: 404
    with pytest.raises(StepFailed, match="not registered this node within 0 s"):
        perform(node, "register", params(wait=0))


def test_without_a_removal_there_is_no_wait(node: Node) -> None:
    etcdctl_that(node, "exit 0")
    assert members.forget(node, [], {"n9": ["10.0.0.99"]}) == []
    assert not (node / "queries").exists()


def test_a_member_is_removed_through_the_member_of_this_node(node: Node) -> None:
    etcdctl_that(node, "exit 0")
    node.advertise("fd00::10")
    result = perform(node, "forget", params(members={"n1": ["10.0.0.11"]}))
    assert result["removed"] == ["etcd member a"]
    assert all("--endpoints=https://[fd00::10]:2379" in call for call in calls(node))
    assert calls(node)[-1].endswith("member remove a")


@pytest.mark.parametrize(
    ("words", "tries"), [("etcdserver: unhealthy cluster", 2), ("etcdserver: permission denied", 1)]
)
def test_temporary_errors_of_etcd_are_retried(node: Node, words: str, tries: int) -> None:
    node.at(0)
    etcdctl_that(node, f"[ $(wc -l < {node.folder}/calls) -gt 2 ] || {{ echo '{words}' >&2; exit 1; }}")
    if tries > 1:
        assert members.forget(node, [], {"n1": ["10.0.0.11"]}) == ["etcd member a"]
    else:
        with pytest.raises(StepFailed, match="permission denied"):
            members.forget(node, [], {"n1": ["10.0.0.11"]})
    assert len(calls(node)) == 1 + tries


def test_kubelet_of_a_joining_master_is_restarted_once(node: Node) -> None:
    answers = iter([False, False, True, True, True])
    node.advertise("10.0.0.11")
    node.ready = lambda *_, **__: next(answers)
    node.program("systemctl", f'echo "$*" >> {node.folder}/calls\n')
    with run.in_background(functools.partial(create.restart_kubelet_early, node, pause=0.01)):
        until(lambda: calls(node))
        time.sleep(0.2)
    assert calls(node) == ["restart kubelet.service"]


def test_kubelet_with_its_certificate_is_not_restarted(node: Node) -> None:
    node.advertise("10.0.0.11")
    node.ready = lambda *_, **__: True
    write(Path(node.path(kubernetes.KUBELET_CERTIFICATE)))
    node.program("systemctl", f'echo "$*" >> {node.folder}/calls\n')
    with run.in_background(functools.partial(create.restart_kubelet_early, node, pause=0.01)):
        time.sleep(0.3)
    assert calls(node) == []


def test_an_unreachable_api_is_reported_without_secrets(node: Node) -> None:
    node.program("kubectl", f"echo 'connection refused {TOKEN}' >&2; exit 1\n")
    with pytest.raises(StepFailed, match="connection refused") as failed:
        perform(node, "forget", params(nodes=["a"]))
    assert failed.value.reason == "kubernetes_api"
    assert TOKEN not in str(failed.value.result())


def test_every_reason_is_in_the_catalogue() -> None:
    text = "".join(path.read_text() for path in Path(run.__file__).parent.glob("*.py"))
    named = set(re.findall(r'"((?:kubernetes|node|address)_[a-z_]+)"', text))
    assert len(named) > 10
    assert named <= set(reasons.catalogue())
