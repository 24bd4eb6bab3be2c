"""kubeadm's driver: reasons, tokens, members, and what a killed run leaves.

Programs of our own stand in kubeadm's and kubectl's place.
"""

from __future__ import annotations

import base64
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
def test_reasons(action: str, lines: list[str], reason: str) -> None:
    assert create.reason_of(action, lines) == reason
    assert reason in reasons.catalogue()


def test_explanation_is_the_lines_that_matter() -> None:
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
    ("listed", "left"),
    [
        (secret("1970-01-01T00:30:00Z"), 1800 - 600),
        (secret("1970-01-01T01:30:00+01:00"), 1800 - 600),
        (secret("1969-12-31T19:30:00-05:00"), 1800 - 600),
        (secret("1970-01-01T00:05:00Z"), -300),
        (secret("never"), 0),
        ({"data": {}}, float("inf")),
    ],
)
def test_what_is_left_of_a_token(listed: dict[str, Any], left: float) -> None:
    assert members.token_left(listed, now=600) == left


@pytest.mark.parametrize("text", [f"  - token: {TOKEN}", f'  - token: "{TOKEN}"', f'{{"token": "{TOKEN}"}}'])
def test_token_of_a_configuration(text: str) -> None:
    assert members.token_of(text) == TOKEN


def test_a_configuration_without_a_token() -> None:
    with pytest.raises(StepFailed):
        members.token_of("kind: InitConfiguration")


MEMBERS = {
    "members": [
        {"ID": 255, "name": "master-0", "peerURLs": ["https://10.0.0.10:2380"]},
        {"ID": 256, "name": "master-1", "peerURLs": ["https://10.0.0.11:2380"]},
        {"ID": 257, "peerURLs": ["https://[fd77::c]:2380"]},
    ]
}


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
def test_stale_members(lost: dict[str, list[str]], stale: list[str]) -> None:
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


MAKE_ALL = 'for f in {}; do mkdir -p "${{f%/*}}"; echo x > "$f"; done\n'


def kubeadm_that(node: Node, then: str = "") -> None:
    """A kubeadm that notes its calls and what it was given, makes all files, and ends with ``then``."""
    files = " ".join(node.path(path) for path in kubernetes.CONTROL_PLANE_FILES)
    node.program(
        "kubeadm",
        f"""cd {node.folder}; echo "$*" >> calls; for config; do :; done; folder=${{config%/*}}\n"""
        "case $1 in reset) rm -rf etc/kubernetes var/lib/kubelet; exit 0;; esac\n"
        """cp "$config" given; stat -c %a "$config" "$folder" > modes; ls "$folder/patches" > patches\n"""
        + MAKE_ALL.format(files)
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


def test_init_once(node: Node) -> None:
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


def test_a_failed_init_leaves_no_secret_and_begins_anew(node: Node) -> None:
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
    # Together everything, and nothing twice.
    assert not set(skipped[0]) & set(skipped[1])
    assert {"control-plane-prepare/control-plane", "wait-control-plane"} <= set(skipped[0])
    assert {"preflight", "kubelet-start", "etcd-join"} <= set(skipped[1])
    assert state_of(node) == "control_plane"


@pytest.mark.parametrize("part", [1, 2])
def test_a_join_that_failed_halfway_begins_anew(node: Node, part: int) -> None:
    kubeadm_that(
        node, f"[ $(grep -c ^join {node.folder}/calls) != {part} ] || {{ echo 'error execution phase x'; exit 1; }}\n"
    )
    with pytest.raises(StepFailed):
        perform(node, "join", params())
    assert state_of(node) == "partial"
    kubeadm_that(node)
    assert perform(node, "join", params())["changed"]
    assert [call.split()[0] for call in calls(node)] == ["join"] * part + ["reset", "join", "join"]


def test_a_killed_run_leaves_nothing_in_the_way(node: Node) -> None:
    """Its configuration is still there, and half of its files."""
    kubeadm_that(node)
    left = node / "run/devenv/kubeadm-init"
    left.mkdir(parents=True)
    (left / "config.yml").write_text("old")
    (node / "etc/kubernetes/manifests").mkdir(parents=True)
    (node / "etc/kubernetes/manifests/etcd.yaml").write_text("x")
    (node / "var/lib/etcd/member").mkdir(parents=True)
    assert perform(node, "init", params())["changed"]
    assert [call.split()[0] for call in calls(node)] == ["reset", "init"]
    assert not (node / "var/lib/etcd/member").is_dir()


def test_a_program_that_does_not_end_is_ended(node: Node) -> None:
    kubeadm_that(node, "sleep 30 & sleep 30\n")
    began = time.monotonic()
    with pytest.raises(StepFailed):
        perform(node, "init", params(timeout=0.5))
    assert time.monotonic() - began < 10
    assert state_of(node) == "partial"


def test_a_node_that_others_know_is_made_anew_after_damage(node: Node) -> None:
    kubeadm_that(node)
    perform(node, "join", params())
    assert perform(node, "join", params())["changed"] is False
    Path(node.path(kubernetes.ADMIN)).unlink()
    assert perform(node, "join", params())["changed"] is True
    assert "reset" in [call.split()[0] for call in calls(node)]


def test_a_node_of_a_cluster_that_is_no_more_joins_the_new_one(node: Node) -> None:
    kubeadm_that(node)
    worker = {"control_plane": False}
    perform(node, "join", params(**worker))
    tls.self_signed(node / "ca.key", Path(node.path(kubernetes.CA)))
    own = kubernetes.ca_hash(node.root)
    assert perform(node, "join", params(ca_hash=own, **worker))["changed"] is False
    assert perform(node, "join", params(ca_hash="sha256:new", **worker))["changed"] is True
    assert [call.split()[0] for call in calls(node)] == ["join", "reset", "join"]


def test_damage_is_not_repaired_by_force(node: Node) -> None:
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


def test_a_whole_control_plane_without_the_marker_is_kept(node: Node) -> None:
    kubeadm_that(node)
    perform(node, "init", params())
    kubernetes.unmark(node.root)
    node.advertise("127.0.0.1")
    node.ready = lambda *_, **__: True
    node.program("kubectl", f'echo "$*" >> {node.folder}/asked\n')
    found = perform(node, "init", params())
    assert found["adopted"]
    assert "node/n daemonset.apps/kube-proxy deployment.apps/coredns" in (node / "asked").read_text()
    assert state_of(node) == "control_plane"
    # One that lacks an add-on was killed before kubeadm's end, and is made anew.
    kubernetes.unmark(node.root)
    node.program("kubectl", "exit 1\n")
    assert "adopted" not in perform(node, "init", params())
    assert [call.split()[0] for call in calls(node)] == ["init", "reset", "init"]


def test_a_node_without_kubeadm(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(node / "bin"))
    with pytest.raises(StepFailed) as failed:
        perform(node, "init", params())
    assert failed.value.reason == "node_program_missing"


def test_reset_once(node: Node) -> None:
    kubeadm_that(node)
    perform(node, "init", params())
    assert perform(node, "reset", params())["changed"]
    assert state_of(node) == "absent"
    assert perform(node, "reset", params())["changed"] is False


def test_a_reset_forgets_a_change_of_the_address_that_was_begun(node: Node) -> None:
    """Another cluster on this node would finish it otherwise, without a look at how many nodes it has."""
    kubeadm_that(node)
    perform(node, "init", params())
    write(node / address.RECORD, '{"before": ["10.0.0.10"]}')
    perform(node, "reset", params())
    assert not node.exists(address.RECORD)


def test_check_mode_runs_nothing(node: Node) -> None:
    assert perform(node, "init", params(), only_check=True) == {"changed": True}
    assert perform(node, "reset", params(), only_check=True) == {"changed": False}
    assert calls(node) == []


def allowing(node: Node, listed: str, nodes: str = '{"items": []}') -> None:
    node.program("kubeadm", f'echo "$*" >> {node.folder}/calls\n')
    answers = f"""*secret*) echo '{listed}';; *delete*) echo "$*" >> {node.folder}/calls;; *) echo '{nodes}';;"""
    node.program("kubectl", f'case "$*" in {answers} esac\n')


def test_joins_are_allowed_with_a_new_token(node: Node) -> None:
    allowing(node, "")
    assert perform(node, "allow_join", params(least=900, upload_certs=True))["changed"]
    assert [call.split(" --config")[0] for call in calls(node)] == [
        "token create",
        "init phase upload-config kubeadm",
        "init phase upload-certs --upload-certs --skip-certificate-key-print",
    ]
    assert TOKEN not in (node / "calls").read_text()


def test_a_token_that_is_nearly_over_is_made_anew(node: Node) -> None:
    allowing(node, json.dumps(secret("1970-01-01T00:20:00Z")))
    perform(node.at(600), "allow_join", params(least=900))
    assert [call.split(" --config")[0] for call in calls(node)] == ["token delete abcdef", "token create"]


def test_a_good_token_is_kept(node: Node) -> None:
    allowing(node, json.dumps(secret("1970-01-01T00:40:00Z")))
    assert perform(node.at(600), "allow_join", params(least=900))["changed"] is False
    assert calls(node) == []


def test_earlier_lives_are_forgotten(node: Node) -> None:
    allowing(node, "", '{"items": [{"metadata": {"name": "worker-0"}}, {"metadata": {"name": "master-0"}}]}')
    found = perform(node, "forget", params(nodes=["worker-0", "worker-1"]))
    assert found["removed"] == ["node worker-0"]
    assert perform(node, "forget", params(nodes=["worker-9"]))["changed"] is False


def test_joins_wait_for_the_api(node: Node) -> None:
    node.program("kubeadm", "exit 0\n")
    node.program(
        "kubectl",
        f'cd {node.folder}; case "$*" in *readyz*) echo x >> asked; [ "$(wc -l < asked)" -gt 2 ] || exit 1;; esac\n'
        """case "$*" in *secret*) ;; *) echo '{"items": []}';; esac\n""",
    )
    with pytest.raises(StepFailed, match="does not answer within 0 s"):
        perform(node, "allow_join", params(least=900))
    api.wait_for_api(node, 20, pause=0.01)
    assert (node / "asked").read_text().count("x") == 3


@pytest.mark.parametrize(
    ("there", "wanted", "scaled"), [(1, 2, True), (2, 2, False), (3, 2, False), (0, 2, False), (1, 1, False)]
)
def test_dns_of_a_cluster_that_grows(node: Node, there: int, wanted: int, scaled: bool) -> None:
    allowing(node, json.dumps(secret("1970-01-01T00:40:00Z")), json.dumps({"spec": {"replicas": there}, "items": []}))
    text = (node / "bin/kubectl").read_text()
    (node / "bin/kubectl").write_text(
        text.replace('case "$*" in', f'case "$*" in *scale*) echo "$*" >> {node.folder}/calls;;')
    )
    done = perform(node.at(600), "allow_join", params(least=900, dns_replicas=wanted))
    assert done["changed"] is scaled
    assert ["--replicas=2" in call for call in calls(node)] == [True] * scaled


@pytest.mark.parametrize(
    ("there", "apart", "scaled"),
    [(2, True, ["--replicas=1"]), (3, True, ["--replicas=1"]), (1, True, []), (2, False, [])],
)
def test_dns_of_a_cluster_that_shrinks_to_one_node(node: Node, there: int, apart: bool, scaled: list[str]) -> None:
    affinity = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{}]}} if apart else {}
    deployment = {"spec": {"replicas": there, "template": {"spec": {"affinity": affinity}}}}
    nodes = {"items": [{"metadata": {"name": name}} for name in ("master-0", "worker-0")]}
    allowing(node, "", json.dumps({**nodes, **deployment}))
    text = (node / "bin/kubectl").read_text()
    noted = f'case "$*" in *scale*) echo "$*" >> {node.folder}/calls; echo "{{}}";;'
    (node / "bin/kubectl").write_text(text.replace('case "$*" in', noted))
    perform(node, "forget", params(nodes=["worker-0"]))
    assert [word for call in calls(node) for word in call.split() if word.startswith("--replicas")] == scaled


MEMBER = '{"members": [{"ID": 10, "name": "n1", "peerURLs": ["https://10.0.0.11:2380"]}]}'


def etcdctl_that(node: Node, then: str) -> None:
    """An etcdctl with one member, that notes its calls and answers a removal with ``then``."""
    node.program(
        "etcdctl",
        f"""echo "$*" >> {node.folder}/calls\ncase "$*" in *"member list"*) echo '{MEMBER}';; *) {then};; esac\n""",
    )
    node.program("kubectl", f'echo "$*" >> {node.folder}/asked\n')


def test_after_a_removal_all_proxied_servers_must_answer(node: Node) -> None:
    node.at(0)
    etcdctl_that(node, "exit 0")
    # Of two servers that take turns the second hangs, until the proxy sees it after five requests.
    node.program(
        "kubectl",
        f'echo "$*" >> {node.folder}/asked; case $(wc -l < {node.folder}/asked) in 2|4) exit 1;; esac\n',
    )
    assert members.forget(node, [], {"n1": ["10.0.0.11"]}) == ["etcd member a"]
    asked = (node / "asked").read_text().splitlines()
    assert len(asked) == 4 + members.TURNS
    assert all(one.endswith("get --raw=/readyz --request-timeout=2s") for one in asked)


def test_after_a_removal_its_api_server_must_say_that_it_has_no_data(node: Node) -> None:
    """It says that it is ready for some seconds more: quick answers until then prove nothing."""
    node.at(0)
    etcdctl_that(node, "exit 0")
    looked: list[str] = []

    def http_ok(address: str, port: int, path: str, **_: object) -> bool:
        assert not (node / "asked").exists()
        looked.append(f"{address}:{port}{path}")
        return len(looked) < 4

    node.ready = http_ok
    members.forget(node, [], {"n1": ["10.0.0.11", "fd00::11"]})
    assert looked == ["10.0.0.11:6443/readyz"] * 4 + ["fd00::11:6443/readyz"]
    assert len((node / "asked").read_text().splitlines()) == members.TURNS


def test_without_a_removal_nobody_waits(node: Node) -> None:
    etcdctl_that(node, "exit 0")
    assert members.forget(node, [], {"n9": ["10.0.0.99"]}) == []
    assert not (node / "asked").exists()


def test_a_member_is_removed_through_this_nodes_own(node: Node) -> None:
    etcdctl_that(node, "exit 0")
    node.advertise("fd00::10")
    found = perform(node, "forget", params(members={"n1": ["10.0.0.11"]}))
    assert found["removed"] == ["etcd member a"]
    assert all("--endpoints=https://[fd00::10]:2379" in call for call in calls(node))
    assert calls(node)[-1].endswith("member remove a")


@pytest.mark.parametrize(
    ("words", "tries"), [("etcdserver: unhealthy cluster", 2), ("etcdserver: permission denied", 1)]
)
def test_a_member_is_removed_when_etcd_has_settled(node: Node, words: str, tries: int) -> None:
    node.at(0)
    etcdctl_that(node, f"[ $(wc -l < {node.folder}/calls) -gt 2 ] || {{ echo '{words}' >&2; exit 1; }}")
    if tries > 1:
        assert members.forget(node, [], {"n1": ["10.0.0.11"]}) == ["etcd member a"]
    else:
        with pytest.raises(StepFailed, match="permission denied"):
            members.forget(node, [], {"n1": ["10.0.0.11"]})
    assert len(calls(node)) == 1 + tries


def test_kubelet_of_a_joining_master_is_started_again_once(node: Node) -> None:
    answers = iter([False, False, True, True, True])
    node.advertise("10.0.0.11")
    node.ready = lambda *_, **__: next(answers)
    node.program("systemctl", f'echo "$*" >> {node.folder}/calls\n')
    with create.RestartKubeletEarly(node, pause=0.01):
        time.sleep(0.5)
    assert calls(node) == ["restart kubelet.service"]


def test_kubelet_that_has_its_certificate_is_left_alone(node: Node) -> None:
    node.advertise("10.0.0.11")
    node.ready = lambda *_, **__: True
    write(Path(node.path(kubernetes.KUBELET_CERTIFICATE)))
    node.program("systemctl", f'echo "$*" >> {node.folder}/calls\n')
    with create.RestartKubeletEarly(node, pause=0.01):
        time.sleep(0.3)
    assert calls(node) == []


def test_the_api_must_answer(node: Node) -> None:
    node.program("kubectl", f"echo 'connection refused {TOKEN}' >&2; exit 1\n")
    with pytest.raises(StepFailed, match="connection refused") as failed:
        perform(node, "forget", params(nodes=["a"]))
    assert failed.value.reason == "kubernetes_api"
    assert TOKEN not in str(failed.value.result())


def test_every_reason_of_the_driver_is_in_the_catalogue() -> None:
    text = "".join(path.read_text() for path in Path(run.__file__).parent.glob("*.py"))
    named = set(re.findall(r'"((?:kubernetes|node|address)_[a-z_]+)"', text))
    assert len(named) > 10
    assert named <= set(reasons.catalogue())
