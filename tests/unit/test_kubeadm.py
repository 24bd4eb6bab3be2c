"""kubeadm's driver: redaction, reasons, tokens, members, and what a killed run leaves.

Programs of our own stand in kubeadm's and kubectl's place.
"""

from __future__ import annotations

import base64
import json
import os
import re
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import cluster as kubeadm
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import state as kubernetes_state
from ansible_collections.devenv.lab.plugins.module_utils.node import observe
from ansible_collections.devenv.lab.plugins.plugin_utils.core import reasons

TOKEN = "abcdef.0123456789abcdef"
KEY = "0f" * 32


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (f"[bootstrap-token] Using token: {TOKEN}", "[bootstrap-token] Using token: (redacted)"),
        (f"kubeadm join x:6443 --token {TOKEN} \\", "kubeadm join x:6443 --token (redacted) \\"),
        (f"--certificate-key {KEY}", "--certificate-key (redacted)"),
        (f"certificateKey: '{KEY}'", "certificateKey: '(redacted)'"),
        (f"--discovery-token-ca-cert-hash sha256:{KEY}", f"--discovery-token-ca-cert-hash sha256:{KEY}"),
        ("kubernetes.default.svc.cluster.local", "kubernetes.default.svc.cluster.local"),
    ],
)
def test_redaction(line: str, shown: str) -> None:
    assert kubeadm.redact(line) == shown


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
    assert kubeadm.reason(action, lines) == reason
    assert reason in reasons.catalogue()


def test_explanation_is_the_lines_that_matter() -> None:
    lines = [
        "[preflight] Running pre-flight checks",
        "error execution phase preflight: [preflight] Some fatal errors occurred:",
        "\t[ERROR Port-6443]: Port 6443 is in use",
        "[preflight] If you know what you are doing ...",
    ]
    assert kubeadm.explain(lines).split("; ") == [
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
    assert kubeadm.token_left(listed, now=600) == left


@pytest.mark.parametrize("text", [f"  - token: {TOKEN}", f'  - token: "{TOKEN}"', f'{{"token": "{TOKEN}"}}'])
def test_token_of_a_configuration(text: str) -> None:
    assert kubeadm.token_of(text) == TOKEN


def test_a_configuration_without_a_token() -> None:
    with pytest.raises(kubeadm.Failed):
        kubeadm.token_of("kind: InitConfiguration")


MEMBERS = {
    "members": [
        {"ID": 255, "name": "master-0", "peerURLs": ["https://10.0.0.10:2380"]},
        {"ID": 256, "name": "master-1", "peerURLs": ["https://10.0.0.11:2380"]},
        {"ID": 257, "peerURLs": ["https://[fd77::c]:2380"]},
    ]
}


@pytest.mark.parametrize(
    ("members", "stale"),
    [
        ({}, []),
        ({"master-9": ["10.0.0.99"]}, []),
        ({"master-1": []}, ["100"]),
        ({"renamed": ["10.0.0.11"]}, ["100"]),
        ({"master-2": ["10.0.0.12", "fd77::c"]}, ["101"]),
    ],
)
def test_stale_members(members: dict[str, list[str]], stale: list[str]) -> None:
    assert kubeadm.stale_members(MEMBERS, members) == stale


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the machine's place: every path of the driver lies in it, and so do the programs it calls."""
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)

    def real(path: str) -> str:
        return str(root / path.lstrip("/"))

    for name in ("CA", "ADMIN", "KUBELET_CERTIFICATE", "MARKER"):
        monkeypatch.setattr(kubernetes_state, name, real(getattr(kubernetes_state, name)))
    for name in ("NODE_FILES", "CONTROL_PLANE_FILES", "TRACES"):
        monkeypatch.setattr(kubernetes_state, name, tuple(real(path) for path in getattr(kubernetes_state, name)))
    monkeypatch.setattr(kubeadm, "LEFT", tuple(real(path) for path in kubeadm.LEFT))
    monkeypatch.setattr(kubeadm, "LOGS", real("/var/log/devenv"))
    monkeypatch.setattr(kubeadm._Files.__init__, "__defaults__", (real("/run/devenv"),))
    monkeypatch.setattr(observe, "under", lambda _root, path: path)
    # Nobody is asked over the network.
    monkeypatch.setattr(kubernetes_state, "http_ok", lambda *_, **__: False)
    monkeypatch.setenv("PATH", f"{root / 'bin'}:{os.environ['PATH']}")
    return root


def program(node: Path, name: str, text: str) -> None:
    path = node / "bin" / name
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


MAKE_ALL = 'for f in {}; do mkdir -p "${{f%/*}}"; echo x > "$f"; done\n'


def kubeadm_that(node: Path, then: str = "") -> None:
    """A kubeadm that notes its calls and what it was given, makes all files, and ends with ``then``."""
    files = " ".join(kubernetes_state.CONTROL_PLANE_FILES)
    program(
        node,
        "kubeadm",
        f'echo "$*" >> {node}/calls\n'
        f"case $1 in reset) rm -rf {node}/etc/kubernetes {node}/var/lib/kubelet; exit 0;; esac\n"
        f'cp "$3" {node}/given; stat -c %a "$3" "${{3%/*}}" > {node}/modes; ls "${{3%/*}}/patches" > {node}/patches\n'
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


def calls(node: Path) -> list[str]:
    return (node / "calls").read_text().splitlines() if (node / "calls").exists() else []


def test_init_once(node: Path) -> None:
    kubeadm_that(node)
    first = kubeadm.perform("init", params(), time.time())
    assert first["changed"]
    assert "using token (redacted)" in first["output"]
    assert (node / "given").read_text() == f"token: {TOKEN}\n"
    assert (node / "modes").read_text().split() == ["600", "700"]
    assert (node / "patches").read_text().split() == ["a.yaml"]
    assert not (node / "run/devenv/kubeadm-init").exists()
    assert TOKEN not in (node / "var/log/devenv/kubeadm-init.log").read_text()
    assert TOKEN not in (node / "calls").read_text()
    assert kubeadm.perform("init", params(), time.time())["changed"] is False
    assert len(calls(node)) == 1


def test_a_failed_init_leaves_no_secret_and_begins_anew(node: Path) -> None:
    kubeadm_that(node, f"echo 'error execution phase addon: {TOKEN}'; exit 1\n")
    with pytest.raises(kubeadm.Failed) as failed:
        kubeadm.perform("init", params(), time.time())
    shown = str(kubeadm.failure(failed.value))
    assert TOKEN not in shown
    assert "error execution phase addon" in shown
    assert not (node / "run/devenv/kubeadm-init").exists()
    assert kubernetes_state.state()["state"] == "partial"
    kubeadm_that(node)
    assert kubeadm.perform("init", params(), time.time())["changed"]
    assert [call.split()[0] for call in calls(node)] == ["init", "reset", "init"]


def test_a_control_plane_node_joins_etcd_before_its_api_server_starts(node: Path) -> None:
    kubeadm_that(node)
    assert kubeadm.perform("join", params(), time.time())["changed"]
    skipped = [call.partition("--skip-phases ")[2].split(",") for call in calls(node)]
    assert len(skipped) == 2
    # Together everything, and nothing twice.
    assert not set(skipped[0]) & set(skipped[1])
    assert {"control-plane-prepare/control-plane", "wait-control-plane"} <= set(skipped[0])
    assert {"preflight", "kubelet-start", "etcd-join"} <= set(skipped[1])
    assert kubernetes_state.state()["state"] == "control_plane"


@pytest.mark.parametrize("part", [1, 2])
def test_a_join_that_failed_halfway_begins_anew(node: Path, part: int) -> None:
    kubeadm_that(
        node, f"[ $(grep -c ^join {node}/calls) != {part} ] || {{ echo 'error execution phase x'; exit 1; }}\n"
    )
    with pytest.raises(kubeadm.Failed):
        kubeadm.perform("join", params(), time.time())
    assert kubernetes_state.state()["state"] == "partial"
    kubeadm_that(node)
    assert kubeadm.perform("join", params(), time.time())["changed"]
    assert [call.split()[0] for call in calls(node)] == ["join"] * part + ["reset", "join", "join"]


def test_a_killed_run_leaves_nothing_in_the_way(node: Path) -> None:
    """Its configuration is still there, and half of its files."""
    kubeadm_that(node)
    left = node / "run/devenv/kubeadm-init"
    left.mkdir(parents=True)
    (left / "config.yml").write_text("old")
    (node / "etc/kubernetes/manifests").mkdir(parents=True)
    (node / "etc/kubernetes/manifests/etcd.yaml").write_text("x")
    (node / "var/lib/etcd/member").mkdir(parents=True)
    assert kubeadm.perform("init", params(), time.time())["changed"]
    assert [call.split()[0] for call in calls(node)] == ["reset", "init"]
    assert not (node / "var/lib/etcd/member").is_dir()


def test_a_program_that_does_not_end_is_ended(node: Path) -> None:
    kubeadm_that(node, "sleep 30 & sleep 30\n")
    began = time.monotonic()
    with pytest.raises(kubeadm.Failed):
        kubeadm.perform("init", params(timeout=0.5), time.time())
    assert time.monotonic() - began < 10
    assert kubernetes_state.state()["state"] == "partial"


def test_a_node_that_others_know_is_made_anew_after_damage(node: Path) -> None:
    kubeadm_that(node)
    kubeadm.perform("join", params(), time.time())
    assert kubeadm.perform("join", params(), time.time())["changed"] is False
    Path(kubernetes_state.ADMIN).unlink()
    assert kubeadm.perform("join", params(), time.time())["changed"] is True
    assert "reset" in [call.split()[0] for call in calls(node)]


def test_a_node_of_a_cluster_that_is_no_more_joins_the_new_one(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubeadm_that(node)
    worker = {"control_plane": False}
    kubeadm.perform("join", params(**worker), time.time())
    known = {"ca": "sha256:old"}
    monkeypatch.setattr(kubernetes_state, "ca_hash", lambda: known["ca"])
    assert kubeadm.perform("join", params(ca_hash="sha256:old", **worker), time.time())["changed"] is False
    assert kubeadm.perform("join", params(ca_hash="sha256:new", **worker), time.time())["changed"] is True
    assert [call.split()[0] for call in calls(node)] == ["join", "reset", "join"]


def test_damage_is_not_repaired_by_force(node: Path) -> None:
    kubeadm_that(node)
    kubeadm.perform("init", params(), time.time())
    Path(kubernetes_state.ADMIN).unlink()
    with pytest.raises(kubeadm.Failed) as failed:
        kubeadm.perform("init", params(), time.time())
    assert failed.value.reason == "kubernetes_damaged"
    assert [call.split()[0] for call in calls(node)] == ["init"]


def test_a_worker_does_not_become_a_control_plane(node: Path) -> None:
    kubeadm_that(node)
    kubeadm.perform("join", params(control_plane=False), time.time())
    with pytest.raises(kubeadm.Failed) as failed:
        kubeadm.perform("join", params(), time.time())
    assert failed.value.reason == "kubernetes_role"


def test_a_whole_control_plane_without_the_marker_is_kept(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubeadm_that(node)
    kubeadm.perform("init", params(), time.time())
    kubernetes_state.unmark()
    monkeypatch.setattr(kubernetes_state, "apiserver_address", lambda: "127.0.0.1")
    monkeypatch.setattr(kubernetes_state, "http_ok", lambda *_, **__: True)
    program(node, "kubectl", f'echo "$*" >> {node}/asked\n')
    found = kubeadm.perform("init", params(), time.time())
    assert found["adopted"]
    assert "node/n daemonset.apps/kube-proxy deployment.apps/coredns" in (node / "asked").read_text()
    assert kubernetes_state.state()["state"] == "control_plane"
    # One that lacks an add-on was killed before kubeadm's end, and is made anew.
    kubernetes_state.unmark()
    program(node, "kubectl", "exit 1\n")
    assert "adopted" not in kubeadm.perform("init", params(), time.time())
    assert [call.split()[0] for call in calls(node)] == ["init", "reset", "init"]


def test_a_node_without_kubeadm(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(node / "bin"))
    with pytest.raises(kubeadm.Failed) as failed:
        kubeadm.perform("init", params(), time.time())
    assert failed.value.reason == "node_program_missing"


def test_reset_once(node: Path) -> None:
    kubeadm_that(node)
    kubeadm.perform("init", params(), time.time())
    assert kubeadm.perform("reset", params(), time.time())["changed"]
    assert kubernetes_state.state()["state"] == "absent"
    assert kubeadm.perform("reset", params(), time.time())["changed"] is False


def test_check_mode_runs_nothing(node: Path) -> None:
    assert kubeadm.perform("init", params(), time.time(), only_check=True) == {"changed": True}
    assert kubeadm.perform("reset", params(), time.time(), only_check=True) == {"changed": False}
    assert calls(node) == []


def allowing(node: Path, listed: str, nodes: str = '{"items": []}') -> None:
    program(node, "kubeadm", f'echo "$*" >> {node}/calls\n')
    answers = f"""*secret*) echo '{listed}';; *delete*) echo "$*" >> {node}/calls;; *) echo '{nodes}';;"""
    program(node, "kubectl", f'case "$*" in {answers} esac\n')


def test_joins_are_allowed_with_a_new_token(node: Path) -> None:
    allowing(node, "")
    assert kubeadm.perform("allow_join", params(least=900, upload_certs=True), time.time())["changed"]
    assert [call.split(" --config")[0] for call in calls(node)] == [
        "token create",
        "init phase upload-config kubeadm",
        "init phase upload-certs --upload-certs --skip-certificate-key-print",
    ]
    assert TOKEN not in (node / "calls").read_text()


def test_a_token_that_is_nearly_over_is_made_anew(node: Path) -> None:
    allowing(node, json.dumps(secret("1970-01-01T00:20:00Z")))
    kubeadm.perform("allow_join", params(least=900), now=600.0)
    assert [call.split(" --config")[0] for call in calls(node)] == ["token delete abcdef", "token create"]


def test_a_good_token_is_kept(node: Path) -> None:
    allowing(node, json.dumps(secret("1970-01-01T00:40:00Z")))
    assert kubeadm.perform("allow_join", params(least=900), now=600.0)["changed"] is False
    assert calls(node) == []


def test_earlier_lives_are_forgotten(node: Path) -> None:
    allowing(node, "", '{"items": [{"metadata": {"name": "worker-0"}}, {"metadata": {"name": "master-0"}}]}')
    found = kubeadm.perform("forget", params(nodes=["worker-0", "worker-1"]), time.time())
    assert found["removed"] == ["node worker-0"]
    assert kubeadm.perform("forget", params(nodes=["worker-9"]), time.time())["changed"] is False


def test_joins_wait_for_the_api(node: Path) -> None:
    program(node, "kubeadm", "exit 0\n")
    program(
        node,
        "kubectl",
        f'case "$*" in *readyz*) echo x >> {node}/asked; [ "$(wc -l < {node}/asked)" -gt 2 ] || exit 1;; esac\n'
        """case "$*" in *secret*) ;; *) echo '{"items": []}';; esac\n""",
    )
    with pytest.raises(kubeadm.Failed, match="does not answer within 0 s"):
        kubeadm.perform("allow_join", params(least=900), time.time())
    kubeadm.wait_for_api(20, pause=0.01)
    assert (node / "asked").read_text().count("x") == 3


@pytest.mark.parametrize(
    ("there", "wanted", "scaled"), [(1, 2, True), (2, 2, False), (3, 2, False), (0, 2, False), (1, 1, False)]
)
def test_dns_of_a_cluster_that_grows(node: Path, there: int, wanted: int, scaled: bool) -> None:
    allowing(node, json.dumps(secret("1970-01-01T00:40:00Z")), json.dumps({"spec": {"replicas": there}, "items": []}))
    text = (node / "bin/kubectl").read_text()
    (node / "bin/kubectl").write_text(
        text.replace('case "$*" in', f'case "$*" in *scale*) echo "$*" >> {node}/calls;;')
    )
    done = kubeadm.perform("allow_join", params(least=900, dns_replicas=wanted), now=600.0)
    assert done["changed"] is scaled
    assert ["--replicas=2" in call for call in calls(node)] == [True] * scaled


@pytest.mark.parametrize(
    ("there", "apart", "scaled"),
    [(2, True, ["--replicas=1"]), (3, True, ["--replicas=1"]), (1, True, []), (2, False, [])],
)
def test_dns_of_a_cluster_that_shrinks_to_one_node(node: Path, there: int, apart: bool, scaled: list[str]) -> None:
    affinity = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{}]}} if apart else {}
    deployment = {"spec": {"replicas": there, "template": {"spec": {"affinity": affinity}}}}
    nodes = {"items": [{"metadata": {"name": name}} for name in ("master-0", "worker-0")]}
    allowing(node, "", json.dumps({**nodes, **deployment}))
    text = (node / "bin/kubectl").read_text()
    noted = f'case "$*" in *scale*) echo "$*" >> {node}/calls; echo "{{}}";;'
    (node / "bin/kubectl").write_text(text.replace('case "$*" in', noted))
    kubeadm.perform("forget", params(nodes=["worker-0"]), time.time())
    assert [word for call in calls(node) for word in call.split() if word.startswith("--replicas")] == scaled


MEMBER = '{"members": [{"ID": 10, "name": "n1", "peerURLs": ["https://10.0.0.11:2380"]}]}'


def etcdctl_that(node: Path, then: str) -> None:
    """An etcdctl with one member, that notes its calls and answers a removal with ``then``."""
    program(
        node,
        "etcdctl",
        f"""echo "$*" >> {node}/calls\ncase "$*" in *"member list"*) echo '{MEMBER}';; *) {then};; esac\n""",
    )
    program(node, "kubectl", f'echo "$*" >> {node}/asked\n')


def test_after_a_removal_all_proxied_servers_must_answer(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubeadm.time, "sleep", lambda seconds: None)
    etcdctl_that(node, "exit 0")
    # Of two servers that take turns the second hangs, until the proxy sees it after five requests.
    program(node, "kubectl", f'echo "$*" >> {node}/asked; case $(wc -l < {node}/asked) in 2|4) exit 1;; esac\n')
    assert kubeadm.forget([], {"n1": ["10.0.0.11"]}) == ["etcd member a"]
    asked = (node / "asked").read_text().splitlines()
    assert len(asked) == 4 + kubeadm.TURNS
    assert all(one.endswith("get --raw=/readyz --request-timeout=2s") for one in asked)


def test_after_a_removal_its_api_server_must_say_that_it_has_no_data(
    node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that it is ready for some seconds more: quick answers until then prove nothing."""
    monkeypatch.setattr(kubeadm.time, "sleep", lambda seconds: None)
    etcdctl_that(node, "exit 0")
    looked: list[str] = []

    def http_ok(address: str, port: int, path: str, **_: object) -> bool:
        assert not (node / "asked").exists()
        looked.append(f"{address}:{port}{path}")
        return len(looked) < 4

    monkeypatch.setattr(kubernetes_state, "http_ok", http_ok)
    kubeadm.forget([], {"n1": ["10.0.0.11", "fd00::11"]})
    assert looked == ["10.0.0.11:6443/readyz"] * 4 + ["fd00::11:6443/readyz"]
    assert len((node / "asked").read_text().splitlines()) == kubeadm.TURNS


def test_without_a_removal_nobody_waits(node: Path) -> None:
    etcdctl_that(node, "exit 0")
    assert kubeadm.forget([], {"n9": ["10.0.0.99"]}) == []
    assert not (node / "asked").exists()


def test_a_member_is_removed_through_this_nodes_own(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    etcdctl_that(node, "exit 0")
    monkeypatch.setattr(kubernetes_state, "apiserver_address", lambda root="/": "fd00::10")
    found = kubeadm.perform("forget", params(members={"n1": ["10.0.0.11"]}), time.time())
    assert found["removed"] == ["etcd member a"]
    assert all("--endpoints=https://[fd00::10]:2379" in call for call in calls(node))
    assert calls(node)[-1].endswith("member remove a")


@pytest.mark.parametrize(
    ("words", "tries"), [("etcdserver: unhealthy cluster", 2), ("etcdserver: permission denied", 1)]
)
def test_a_member_is_removed_when_etcd_has_settled(
    node: Path, monkeypatch: pytest.MonkeyPatch, words: str, tries: int
) -> None:
    monkeypatch.setattr(kubeadm.time, "sleep", lambda seconds: None)
    etcdctl_that(node, f"[ $(wc -l < {node}/calls) -gt 2 ] || {{ echo '{words}' >&2; exit 1; }}")
    if tries > 1:
        assert kubeadm.forget([], {"n1": ["10.0.0.11"]}) == ["etcd member a"]
    else:
        with pytest.raises(kubeadm.Failed, match="permission denied"):
            kubeadm.forget([], {"n1": ["10.0.0.11"]})
    assert len(calls(node)) == 1 + tries


def test_kubelet_of_a_joining_master_is_started_again_once(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([False, False, True, True, True])
    monkeypatch.setattr(kubernetes_state, "apiserver_address", lambda root="/": "10.0.0.11")
    monkeypatch.setattr(kubernetes_state, "http_ok", lambda *_, **__: next(answers))
    program(node, "systemctl", f'echo "$*" >> {node}/calls\n')
    with kubeadm._Hasten(pause=0.01):
        time.sleep(0.5)
    assert calls(node) == ["restart kubelet.service"]


def test_kubelet_that_has_its_certificate_is_left_alone(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes_state, "apiserver_address", lambda root="/": "10.0.0.11")
    monkeypatch.setattr(kubernetes_state, "http_ok", lambda *_, **__: True)
    Path(kubernetes_state.KUBELET_CERTIFICATE).parent.mkdir(parents=True)
    Path(kubernetes_state.KUBELET_CERTIFICATE).write_text("x")
    program(node, "systemctl", f'echo "$*" >> {node}/calls\n')
    with kubeadm._Hasten(pause=0.01):
        time.sleep(0.3)
    assert calls(node) == []


def test_the_api_must_answer(node: Path) -> None:
    program(node, "kubectl", f"echo 'connection refused {TOKEN}' >&2; exit 1\n")
    with pytest.raises(kubeadm.Failed, match="connection refused") as failed:
        kubeadm.perform("forget", params(nodes=["a"]), time.time())
    assert failed.value.reason == "kubernetes_api"
    assert TOKEN not in str(kubeadm.failure(failed.value))


def test_every_reason_of_the_driver_is_in_the_catalogue() -> None:
    text = Path(kubeadm.__file__).read_text()
    named = set(re.findall(r'"((?:kubernetes|node)_[a-z_]+)"', text)) - {"kubernetes_state"}
    assert len(named) > 5
    assert {name for name in named if not name.endswith("_{}_failed")} <= set(reasons.catalogue())
