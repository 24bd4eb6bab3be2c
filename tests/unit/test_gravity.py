"""What Gravity says, and what is done about it. The other side is the stand-in, on paper."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.module_utils.gravity import (
    access,
    actions,
    cli,
    install,
    membership,
    status,
)
from ansible_collections.devenv.lab.plugins.module_utils.gravity.machine import HOME, KUBECONFIG, GravityMachine
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import StepFailed
from ansible_collections.devenv.lab.plugins.module_utils.node.redact import redact
from ansible_collections.devenv.lab.plugins.module_utils.node.wait import Clock
from ansible_collections.devenv.lab.plugins.plugin_utils.core import reasons
from support.gravity import MASTER, Lab

# --- texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        ("bad secret token", "token", "gravity_token"),
        ("install token is too short, must be 6 characters", "fail", "gravity_input"),
        ("install token is too long", "fail", "gravity_input"),
        ('specified node role "x" is not defined in the application manifest', "fail", "gravity_input"),
        ('server role "x" not found', "fail", "gravity_input"),
        ('install flavor "x" not found', "fail", "gravity_input"),
        ("10.1.1.1 matches none of the available addresses 10.1.1.2", "fail", "gravity_address"),
        ('One of existing servers already has hostname "a"', "fail", "gravity_hostname"),
        ('server profile "x" does not allow expansion', "fail", "gravity_fixed"),
        ("can only add one node at a time", "wait", "gravity_busy"),
        ("can't launch another expand while master node 10.1.1.1 is joining", "wait", "gravity_busy"),
        ("can't join master node while another node is joining", "wait", "gravity_busy"),
        ("Waiting for another operation to complete at 10.1.1.1", "wait", "gravity_busy"),
        ("Cluster is degraded, waiting for it to become healthy", "wait", "gravity_busy"),
        ("detected an active installer service in /var/lib/gravity", "resume", "gravity_leftover"),
        ("detected previous installation state in /var/lib/gravity", "clean", "gravity_leftover"),
        (
            "Detected local Gravity state on the node but the cluster is inaccessible",
            "clean",
            "gravity_orphan",
        ),
        ("no running cluster detected, please use --force", "clean", "gravity_orphan"),
        ("this server is not a part of the running cluster", "done", "gravity_gone"),
        (
            "cluster node is configured with advertise address 10.1.1.1 which is not present on the machine",
            "moved",
            "gravity_moved",
        ),
        ("Only single-node clusters can be reconfigured", "fail", "gravity_many_nodes"),
        ("This node is already using advertise address 10.1.1.1", "done", "gravity_same_address"),
        ("Gravity appears to be running on this node", "stop", "gravity_running"),
        ("Gravity doesn't appear to be installed", "fail", "gravity_absent"),
        ("autojoin only supports AWS", "fail", "gravity_usage"),
        ("authgateway can be updated on active clusters only", "wait", "gravity_busy"),
    ],
)
def test_texts_and_their_classes(text: str, kind: str, reason: str) -> None:
    """Row by row, in colours and broken into lines as it comes."""
    rule = cli.classify(f"\x1b[31m[ERROR]: {text.replace(' ', chr(10), 1)}\x1b[0m")
    assert rule is not None
    assert (rule.kind, rule.reason) == (kind, reason)


def test_another_text_has_no_class() -> None:
    assert cli.classify("[ERROR]: something else") is None


def test_every_reason_is_in_the_catalogue() -> None:
    source = "".join(path.read_text() for path in Path(cli.__file__).parent.glob("*.py"))
    named = set(re.findall(r'"(gravity_[a-z_0-9]+)"', source))
    assert named >= {rule.reason for rule in cli.RULES}
    assert named <= reasons.catalogue().keys()


def test_tokens_are_not_told() -> None:
    shown = redact('gravity join 1.2.3.4 --token=abcdef "token": "ghijkl" Join token:\tmnopqr xyz', ["xyz"])
    for secret in ("abcdef", "ghijkl", "mnopqr", "xyz"):
        assert secret not in shown


@pytest.mark.parametrize(
    ("text", "identity"),
    [
        ('launched operation "3e0f6d0c-6f0e-4b8a-9a55-0a6f3c2b1d4e", use', "3e0f6d0c-6f0e-4b8a-9a55-0a6f3c2b1d4e"),
        ("Operation (3e0f6d0c-6f0e-4b8a-9a55-0a6f3c2b1d4e) finished", ""),
        ("operation (3e0f6d0c-6f0e-4b8a-9a55-0a6f3c2b1d4e) has", "3e0f6d0c-6f0e-4b8a-9a55-0a6f3c2b1d4e"),
        ("done", ""),
    ],
)
def test_operations_are_known_by_id(text: str, identity: str) -> None:
    assert cli.operation_id(text) == identity


# --- status ----------------------------------------------------------------------------------------------------------


def answer(nodes: list[dict[str, Any]], **more: Any) -> str:
    return json.dumps({"cluster": {"state": "active", "system_status": 1, "nodes": nodes, **more}})


def node(address: str, role: str = "master", health: str = "healthy") -> dict[str, Any]:
    return {"hostname": "", "advertise_ip": address, "role": role, "profile": "aio", "status": health}


@pytest.mark.parametrize(
    ("told", "system"),
    [(0, "unknown"), (1, "running"), (2, "degraded"), ("running", "running"), ("degraded", "degraded")],
)
def test_the_systems_status_is_a_number_or_a_word(told: int | str, system: str) -> None:
    assert status.parse_status(json.dumps({"cluster": {"system_status": told}})).system == system


def test_a_degraded_answer_lacks_keys() -> None:
    found = status.parse_status(json.dumps({"cluster": {"system_status": 2, "nodes": [node("10.1.1.1")]}}))
    assert (found.state, found.token, found.domain, found.last) == ("", "", "", {})
    assert status.unhealthy(found) == ["the cluster is in no known state", "its system is degraded"]


def test_a_master_is_never_simply_the_first_node() -> None:
    rows = [node("10.1.1.1", health="degraded"), node("10.1.1.9", "node"), node("10.1.1.2")]
    assert status.healthy_masters(status.parse_status(answer(rows))) == ["10.1.1.2"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cluster": []}', "[ERROR]: x"])
def test_no_status(text: str) -> None:
    with pytest.raises(StepFailed, match="no JSON of a cluster"):
        status.parse_status(text)


def test_the_token_is_not_in_what_is_returned() -> None:
    found = status.parse_status(answer([node("10.1.1.1")], token={"token": "very-secret"}))
    assert found.token == "very-secret"
    assert "very-secret" not in json.dumps(found.public())


def test_what_is_missing() -> None:
    found = status.parse_status(answer([node("10.1.1.1"), node("10.1.1.2", health="offline")]))
    assert status.unhealthy(found, ["10.1.1.1", "10.1.1.3"]) == [
        "10.1.1.3 is not part of the cluster",
        "10.1.1.2 is offline",
    ]
    assert status.unhealthy(found, ["10.1.1.1"], only_nodes=True) == []


# --- waiting ---------------------------------------------------------------------------------------------------------


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.seconds, self.sleep)


def asking(*texts: str) -> Callable[[], status.Status]:
    """The last one for ever."""
    left = list(texts)

    def ask() -> status.Status:
        return status.parse_status(left.pop(0) if len(left) > 1 else left[0])

    return ask


DEGRADED = json.dumps({"cluster": {"system_status": 2, "nodes": [node("10.1.1.1", health="degraded")]}})
WHOLE = answer([node("10.1.1.1")])


def wait(ask: Callable[[], status.Status], patience: int = 5, deadline: float = 60) -> status.Status:
    return status.wait_until_whole(ask, ["10.1.1.1"], deadline=deadline, patience=patience, pause=2, clock=Time().clock)


def test_degraded_after_a_join_is_passing() -> None:
    assert wait(asking(DEGRADED, DEGRADED, DEGRADED, "", WHOLE)).state == "active"


def test_degraded_for_good_is_told_with_its_probes() -> None:
    row = {**node("10.1.1.1", health="degraded"), "failed_probes": ["etcd is unhealthy"]}
    told = json.dumps({"cluster": {"system_status": 2, "nodes": [row]}})
    with pytest.raises(StepFailed, match=r"6 answers in a row: 10.1.1.1 is degraded \(etcd is unhealthy\)") as caught:
        wait(asking(told))
    assert caught.value.reason == "gravity_degraded"


def test_waiting_ends() -> None:
    with pytest.raises(StepFailed, match=r"not whole in time: 10\.1\.1\.1 is not part of the cluster") as caught:
        wait(asking(answer([node("10.1.1.2")])))
    assert caught.value.reason == "gravity_timeout"


# --- on a node -------------------------------------------------------------------------------------------------------


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture
def on(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Callable[..., GravityMachine]:
    """The machine of a node; programs that run from then on run on it."""

    def go(name: str = "master-0", address: str = MASTER) -> GravityMachine:
        for key, value in lab.environment(name, address).items():
            if key.startswith("GRAVITY_DOUBLE"):
                monkeypatch.setenv(key, value)
        root = lab.folder / name
        home = root / HOME.lstrip("/")
        home.mkdir(parents=True, exist_ok=True)
        program = home / "gravity"
        if not program.exists():
            program.write_bytes((lab.unpacked / "gravity").read_bytes())
            program.chmod(0o755)
        return GravityMachine(str(root), pause=0.05)

    return go


def parameters(lab: Lab, **more: Any) -> dict[str, Any]:
    copy = lab.folder / "copy.tar"
    copy.write_bytes(lab.tarball.read_bytes())
    return {
        "address": MASTER,
        "tarball": str(copy),
        "sha256": lab.sha256,
        "cluster": "lab.example",
        "flavor": "one",
        "node_type": "aio",
        "role": "master",
        "pod_subnet": "10.244.0.0/16",
        "service_subnet": "10.96.0.0/16",
        "vxlan_port": 8472,
        "arguments": [],
        "autofix": True,
        "prepared": False,
        "force": False,
        "timeout": 10,
        "wait": 5,
        "patience": 5,
        "version": "1.1.0",
        "public_addresses": [],
        **more,
    }


def join_parameters(lab: Lab, **more: Any) -> dict[str, Any]:
    token = lab.install()("status", "--token").stdout
    own = {"address": "10.0.0.20", "node_type": "pipe", "role": "node", "token": token, "peers": [MASTER]}
    return parameters(lab, **{**own, **more})


On = Callable[..., GravityMachine]


def test_install_once(lab: Lab, on: On) -> None:
    machine = on()
    first = install.install(machine, parameters(lab))
    assert first["changed"]
    assert first["cluster"]["state"] == "active"
    assert not (lab.folder / "copy.tar").exists()
    found = status.look(machine, MASTER)
    assert (found["state"], found["role"], found["healthy"], found["masters"]) == ("member", "master", True, [MASTER])
    assert not install.install(machine, parameters(lab))["changed"]


def test_no_token_is_on_the_command_line_of_an_install(lab: Lab) -> None:
    words = install.install_argv("gravity", parameters(lab))
    assert not [word for word in words if "token" in word]
    for flag in ("cloud-provider", "advertise-addr", "cluster", "flavor", "role", "pod-network-cidr", "service-cidr"):
        assert [word for word in words if word.startswith(f"--{flag}=")], flag


def test_another_digest_is_refused_before_anything_changes(lab: Lab, on: On) -> None:
    with pytest.raises(StepFailed, match="wanted 0000") as caught:
        install.install(on(), parameters(lab, sha256="0" * 64))
    assert caught.value.reason == "gravity_tarball"
    assert not (lab.folder / "master-0" / "var/lib/gravity").exists()


def test_a_failed_check_is_told(lab: Lab, on: On) -> None:
    lab.faults([{"command": "check", "text": "clock drift of 400ms is over the limit"}], "master-0")
    with pytest.raises(StepFailed, match="clock drift of 400ms") as caught:
        install.install(on(), parameters(lab))
    assert caught.value.reason == "gravity_check"


def test_an_install_that_was_killed_begins_anew(lab: Lab, on: On) -> None:
    machine = on()
    (lab.folder / "master-0" / "var/lib/gravity/local").mkdir(parents=True)
    assert status.look(machine, MASTER)["state"] == "partial"
    assert install.install(machine, parameters(lab))["changed"]


def test_an_active_installer_is_resumed(lab: Lab, on: On) -> None:
    row = {"command": "install", "text": "detected an active installer service in /var/lib/gravity", "times": 1}
    lab.faults([row], "master-0")
    assert install.install(on(), parameters(lab))["changed"]


def test_a_remedy_is_tried_once(lab: Lab, on: On) -> None:
    lab.faults([{"command": "join", "text": "detected previous installation state in /var/lib/gravity"}], "worker-0")
    with pytest.raises(StepFailed) as caught:
        membership.join(on("worker-0", "10.0.0.20"), join_parameters(lab))
    assert caught.value.reason == "gravity_leftover"


def test_that_there_is_nothing_to_do_is_no_success_of_a_join(lab: Lab, on: On) -> None:
    lab.faults([{"command": "join", "text": "this server is not a part of the running cluster"}], "worker-0")
    with pytest.raises(StepFailed) as caught:
        membership.join(on("worker-0", "10.0.0.20"), join_parameters(lab))
    assert caught.value.reason == "gravity_gone"


def test_a_stopped_node_is_started(lab: Lab, on: On) -> None:
    machine = on()
    install.install(machine, parameters(lab))
    lab.node("master-0", MASTER)("stop", "--confirm")
    assert status.look(machine, MASTER)["state"] == "moved"
    before = lab.state()["token"]
    assert install.install(machine, parameters(lab))["changed"]
    assert lab.state()["token"] == before, "the cluster is the same"


def test_a_precondition_is_not_tried_again(lab: Lab, on: On) -> None:
    lab.faults([{"command": "install", "text": "kernel is too old", "code": 252, "times": 1}], "master-0")
    with pytest.raises(StepFailed) as caught:
        install.install(on(), parameters(lab))
    assert caught.value.reason == "gravity_precondition"


@pytest.mark.parametrize(("code", "reason"), [(254, "gravity_aborted"), (255, "gravity_failed")])
def test_exit_codes(lab: Lab, on: On, code: int, reason: str) -> None:
    lab.faults([{"command": "install", "text": "of no known kind", "code": code, "times": 1}], "master-0")
    with pytest.raises(StepFailed, match="of no known kind") as caught:
        install.install(on(), parameters(lab))
    assert caught.value.reason == reason


def test_join(lab: Lab, on: On) -> None:
    params = join_parameters(lab)
    machine = on("worker-0", "10.0.0.20")
    assert membership.join(machine, params)["changed"]
    assert not membership.join(machine, params)["changed"]
    log = (lab.folder / "worker-0/var/log/devenv/gravity-join.log").read_text()
    assert params["token"] not in log


@pytest.mark.parametrize(
    "text",
    [
        "can only add one node at a time",
        "can't launch another expand while master node 10.0.0.11 is joining",
        "can't join master node while another node is joining",
        "Waiting for another operation to complete at 10.0.0.10",
        "Cluster is degraded, waiting",
    ],
)
def test_a_busy_cluster_is_waited_for(lab: Lab, on: On, text: str) -> None:
    lab.faults([{"command": "join", "text": text, "times": 2}], "worker-0")
    assert membership.join(on("worker-0", "10.0.0.20"), join_parameters(lab))["changed"]


def test_a_join_that_waits_for_ever_ends(lab: Lab, on: On) -> None:
    """`gravity join` has no limit of its own. What it waited for is the reason."""
    lab.install()
    lab.begin_join("10.0.0.11", "master")
    with pytest.raises(StepFailed, match=r"while master node 10\.0\.0\.11 is joining") as caught:
        membership.join(on("worker-0", "10.0.0.20"), join_parameters(lab, timeout=1))
    assert caught.value.reason == "gravity_busy"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("bad secret token", "gravity_token"),
        ('One of existing servers already has hostname "worker-0"', "gravity_hostname"),
        ('server profile "pipe" does not allow expansion', "gravity_fixed"),
        ("10.0.0.20 matches none of the available addresses 10.0.0.21", "gravity_address"),
    ],
)
def test_joins_that_nothing_helps(lab: Lab, on: On, text: str, reason: str) -> None:
    lab.faults([{"command": "join", "text": text}], "worker-0")
    with pytest.raises(StepFailed) as caught:
        membership.join(on("worker-0", "10.0.0.20"), join_parameters(lab))
    assert caught.value.reason == reason


def test_what_an_earlier_try_left_is_cleaned(lab: Lab, on: On) -> None:
    (lab.folder / "worker-0" / "var/lib/gravity/local").mkdir(parents=True)
    assert membership.join(on("worker-0", "10.0.0.20"), join_parameters(lab))["changed"]


def test_a_wrong_service_role_is_told(lab: Lab, on: On) -> None:
    """The node type and not the caller decides what a node becomes."""
    with pytest.raises(StepFailed, match=r"made 10\.0\.0\.20 a node, wanted a master") as caught:
        membership.join(on("worker-0", "10.0.0.20"), join_parameters(lab, role="master"))
    assert caught.value.reason == "gravity_role"


def test_degraded_after_a_join(lab: Lab, on: On) -> None:
    lab.faults([{"fault": "degraded_after_join", "answers": 3}], "master-1")
    params = join_parameters(lab, address="10.0.0.11", node_type="aio", role="master")
    assert membership.join(on("master-1", "10.0.0.11"), params)["changed"]
    assert lab.state()["degraded"] == 0, "it was seen"


def test_the_whole_cluster_is_waited_for(lab: Lab, on: On) -> None:
    """A worker's join leaves the health of others alone, so that somebody has to look at all in the end."""
    lab.faults([{"fault": "degraded_after_join", "answers": 3}], "worker-0")
    membership.join(on("worker-0", "10.0.0.20"), join_parameters(lab))
    assert lab.state()["degraded"] > 0
    machine = on()
    params = parameters(lab, members=[MASTER, "10.0.0.20"])
    assert actions.perform(machine, "wait", params)["changed"] is False
    assert lab.state()["degraded"] == 0
    with pytest.raises(StepFailed, match=r"10\.0\.0\.21 is not part of the cluster"):
        membership.wait(machine, {**params, "members": [MASTER, "10.0.0.21"], "wait": 0.1})


def test_token_and_peers_come_from_a_healthy_master(lab: Lab, on: On) -> None:
    token = lab.install()("status", "--token").stdout
    lab.join("master-1", "10.0.0.11", "aio", token)
    lab.health({MASTER: "degraded"})
    told = membership.token(on(), {"path": "/run/devenv/join.json"})
    assert told == {"changed": False, "masters": ["10.0.0.11"]}
    path = lab.folder / "master-0/run/devenv/join.json"
    assert json.loads(path.read_text()) == {"token": token, "peers": ["10.0.0.11"]}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_healthy_master(lab: Lab, on: On) -> None:
    lab.install()
    lab.health({MASTER: "offline"})
    with pytest.raises(StepFailed) as caught:
        membership.token(on(), {"path": "/run/devenv/join.json"})
    assert caught.value.reason == "gravity_no_master"


def test_remove_polls_its_operation(lab: Lab, on: On) -> None:
    membership.join(on("worker-0", "10.0.0.20"), join_parameters(lab))
    machine = on()
    params = parameters(lab, address="10.0.0.20")
    assert membership.remove(machine, params)["changed"]
    assert not membership.remove(machine, params)["changed"]


def test_a_failed_operation(lab: Lab, on: On) -> None:
    membership.join(on("worker-0", "10.0.0.20"), join_parameters(lab))
    lab.faults([{"fault": "failed_operation"}], "master-0")
    with pytest.raises(StepFailed) as caught:
        membership.remove(on(), parameters(lab, address="10.0.0.20"))
    assert caught.value.reason == "gravity_operation"


@pytest.mark.parametrize("mute", [False, True])
def test_a_silent_operation_is_not_waited_for_for_ever(lab: Lab, on: On, mute: bool) -> None:
    membership.join(on("worker-0", "10.0.0.20"), join_parameters(lab))
    lab.faults([{"fault": "silent_operation"}, *([{"fault": "mute"}] if mute else [])], "master-0")
    with pytest.raises(StepFailed, match="it says: ") as caught:
        membership.remove(on(), parameters(lab, address="10.0.0.20", timeout=1))
    assert caught.value.reason == "gravity_timeout"


def test_leave(lab: Lab, on: On) -> None:
    membership.join(on("worker-0", "10.0.0.20"), join_parameters(lab))
    machine = on("worker-0", "10.0.0.20")
    assert membership.leave(machine, parameters(lab, address="10.0.0.20"))["changed"]
    assert not membership.leave(machine, parameters(lab, address="10.0.0.20"))["changed"]
    assert [one["ip"] for one in lab.state()["nodes"]] == [MASTER]


def test_leave_of_a_node_whose_cluster_is_gone(lab: Lab, on: On) -> None:
    membership.join(on("worker-0", "10.0.0.20"), join_parameters(lab))
    lab.down(True)
    assert membership.leave(on("worker-0", "10.0.0.20"), parameters(lab, address="10.0.0.20"))["changed"]


# --- a prepared image ------------------------------------------------------------------------------------------------


def test_a_prepared_image_gets_its_address(lab: Lab, on: On) -> None:
    install.install(on(), parameters(lab))
    lab.node("master-0", MASTER)("stop", "--confirm")
    machine = on("master-0", "10.0.0.99")
    params = parameters(lab, address="10.0.0.99", prepared=True)
    assert status.look(machine, "10.0.0.99")["state"] == "moved"
    assert install.install(machine, params)["changed"]
    assert not install.install(machine, params)["changed"]
    assert [one["ip"] for one in lab.state()["nodes"]] == ["10.0.0.99"]


def test_a_running_one_is_stopped_first(lab: Lab, on: On) -> None:
    install.install(on(), parameters(lab))
    machine = on("master-0", f"{MASTER},10.0.0.99")
    assert install.change_address(machine, parameters(lab, address="10.0.0.99"))["changed"]
    assert not install.change_address(machine, parameters(lab, address="10.0.0.99"))["changed"]


def test_a_prepared_image_without_gravity_is_refused(lab: Lab, on: On) -> None:
    with pytest.raises(StepFailed) as caught:
        install.install(on(), parameters(lab, prepared=True))
    assert caught.value.reason == "gravity_absent"


def test_another_address_needs_7_0(lab: Lab, on: On) -> None:
    install.install(on(), parameters(lab))
    lab.faults([{"fault": "version", "version": "6.1.55"}], "master-0")
    with pytest.raises(StepFailed, match=r"this is 6\.1\.55") as caught:
        install.change_address(on("master-0", f"{MASTER},10.0.0.99"), parameters(lab, address="10.0.0.99"))
    assert caught.value.reason == "gravity_version"
    assert status.look(on(), MASTER)["healthy"], "nothing was stopped"


def test_only_a_single_node_gets_another_address(lab: Lab, on: On) -> None:
    install.install(on(), parameters(lab))
    lab._installed = lab.node("master-0", MASTER)
    membership.join(on("worker-0", "10.0.0.20"), join_parameters(lab))
    with pytest.raises(StepFailed, match="2 nodes") as caught:
        install.change_address(on("master-0", f"{MASTER},10.0.0.99"), parameters(lab, address="10.0.0.99"))
    assert caught.value.reason == "gravity_many_nodes"


# --- the rest --------------------------------------------------------------------------------------------------------


def test_kubeconfig_has_an_account_and_the_authority(lab: Lab, on: On) -> None:
    machine = on()
    install.install(machine, parameters(lab))
    assert access.kubeconfig(machine, parameters(lab))["changed"]
    assert not access.kubeconfig(machine, parameters(lab))["changed"]
    path = Path(machine.path(KUBECONFIG))
    found = json.loads(path.read_text())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert found["clusters"][0]["cluster"]["server"] == f"https://{MASTER}:6443"
    assert found["users"][0]["user"] == {"token": "account-token"}
    kinds = [one["kind"] for one in lab.state()["applied"]["items"]]
    assert kinds == ["ServiceAccount", "ClusterRoleBinding", "Secret"]


def test_auth_gateway(lab: Lab, on: On) -> None:
    machine = on()
    install.install(machine, parameters(lab))
    params = parameters(lab, public_addresses=["lab.example"])
    assert access.auth_gateway(machine, params)["changed"]
    assert not access.auth_gateway(machine, params)["changed"]
    assert not os.listdir(lab.folder / "master-0/run/devenv")


def test_upgrade(lab: Lab, on: On) -> None:
    from doubles.gravity import tarball

    machine = on()
    install.install(machine, parameters(lab))
    new = lab.folder / "new.tar"
    digest = tarball.make(new, version="1.1.0")
    params = parameters(lab, tarball=str(new), sha256=digest)
    done = install.upgrade(machine, params)
    assert (done["changed"], done["cluster"]["version"]) == (True, "1.1.0")
    assert not install.upgrade(machine, params)["changed"]


def test_a_degraded_cluster_is_not_upgraded(lab: Lab, on: On) -> None:
    machine = on()
    install.install(machine, parameters(lab))
    lab.health({MASTER: "degraded"})
    with pytest.raises(StepFailed, match=r"not upgraded: 10\.0\.0\.10 is degraded"):
        install.upgrade(machine, parameters(lab))


def test_report(lab: Lab, on: On) -> None:
    machine = on()
    install.install(machine, parameters(lab))
    told = access.report(machine, parameters(lab, path="/var/lib/devenv/report.tar.gz"))
    assert told["changed"]
    assert (lab.folder / "master-0/var/lib/devenv/report.tar.gz").stat().st_size


def test_check_mode_changes_nothing(lab: Lab, on: On) -> None:
    machine = on()
    assert actions.perform(machine, "install", parameters(lab), only_check=True) == {"changed": True}
    assert not machine.has_state()
    install.install(machine, parameters(lab))
    assert actions.perform(machine, "install", parameters(lab), only_check=True) == {"changed": False}
