"""Gravity's commands, error texts and status. The other side is the test double, with folders as nodes."""

from __future__ import annotations

import io
import json
import os
import re
import stat
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.module_utils.gravity import (
    access,
    actions,
    cli,
    images,
    install,
    membership,
    status,
)
from ansible_collections.devenv.lab.plugins.module_utils.gravity.machine import HOME, KUBECONFIG, GravityMachine
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import StepFailed
from ansible_collections.devenv.lab.plugins.module_utils.node.program import ProgramResult
from ansible_collections.devenv.lab.plugins.module_utils.node.redact import redact
from ansible_collections.devenv.lab.plugins.module_utils.node.wait import Clock
from ansible_collections.devenv.lab.plugins.plugin_utils.core import reasons
from support.gravity import MASTER, Lab

# --- error texts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "remedy", "reason"),
    [
        ("bad secret token", "", "gravity_token"),
        ("install token is too short, must be 6 characters", "", "gravity_input"),
        ("install token is too long", "", "gravity_input"),
        ('specified node role "x" is not defined in the application manifest', "", "gravity_input"),
        ('server role "x" not found', "", "gravity_input"),
        ('install flavor "x" not found', "", "gravity_input"),
        ("10.1.1.1 matches none of the available addresses 10.1.1.2", "", "gravity_address"),
        ('One of existing servers already has hostname "a"', "", "gravity_hostname"),
        ('server profile "x" does not allow expansion', "", "gravity_fixed"),
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
        ("this server is not a part of the running cluster", "", "gravity_gone"),
        (
            "cluster node is configured with advertise address 10.1.1.1 which is not present on the machine",
            "",
            "gravity_moved",
        ),
        ("Only single-node clusters can be reconfigured", "", "gravity_many_nodes"),
        ("This node is already using advertise address 10.1.1.1", "", "gravity_same_address"),
        ("Gravity appears to be running on this node", "stop", "gravity_running"),
        ("Gravity doesn't appear to be installed", "", "gravity_absent"),
        ("autojoin only supports AWS", "", "gravity_usage"),
        ("authgateway can be updated on active clusters only", "wait", "gravity_busy"),
    ],
)
def test_error_texts_have_a_reason_and_a_remedy(text: str, remedy: str, reason: str) -> None:
    """Each in colours and with a line break, as Gravity prints them."""
    rule = cli.classify(f"\x1b[31m[ERROR]: {text.replace(' ', chr(10), 1)}\x1b[0m")
    assert (rule.remedy, rule.reason) == (remedy, reason)


def test_an_unknown_text_has_no_reason() -> None:
    assert cli.classify("[ERROR]: something else").reason == ""


def test_every_reason_is_in_the_catalogue() -> None:
    source = "".join(path.read_text() for path in Path(cli.__file__).parent.glob("*.py"))
    named = set(re.findall(r'"(gravity_[a-z_0-9]+)"', source))
    assert named >= {rule.reason for rule in cli.RULES}
    assert named <= reasons.catalogue().keys()


def test_tokens_are_redacted() -> None:
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
def test_the_id_of_an_operation_is_parsed(text: str, identity: str) -> None:
    assert cli.operation_id(text) == identity


# --- status ----------------------------------------------------------------------------------------------------------


def answer(nodes: list[dict[str, Any]], **more: Any) -> str:
    return json.dumps({"cluster": {"state": "active", "system_status": 1, "nodes": nodes, **more}})


def node(address: str, role: str = "master", health: str = "healthy") -> dict[str, Any]:
    return {"hostname": "", "advertise_ip": address, "role": role, "profile": "aio", "status": health}


@pytest.mark.parametrize(
    ("printed", "system"),
    [(0, "unknown"), (1, "running"), (2, "degraded"), ("running", "running"), ("degraded", "degraded")],
)
def test_the_status_of_the_system_is_a_number_or_a_word(printed: int | str, system: str) -> None:
    assert status.parse_status(json.dumps({"cluster": {"system_status": printed}})).system == system


def test_the_status_of_a_degraded_cluster_lacks_keys() -> None:
    parsed = status.parse_status(json.dumps({"cluster": {"system_status": 2, "nodes": [node("10.1.1.1")]}}))
    assert (parsed.state, parsed.token, parsed.version, parsed.operations) == ("", "", "", [])
    assert status.unhealthy(parsed) == ["the cluster is in an unknown state", "its system is degraded"]


def test_healthy_masters_are_selected_by_role_and_health() -> None:
    rows = [node("10.1.1.1", health="degraded"), node("10.1.1.9", "node"), node("10.1.1.2")]
    assert status.healthy_masters(status.parse_status(answer(rows))) == ["10.1.1.2"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cluster": []}', "[ERROR]: x"])
def test_other_documents_are_not_a_status(text: str) -> None:
    with pytest.raises(StepFailed, match="no JSON document of a cluster"):
        status.parse_status(text)


def test_the_public_status_has_no_token() -> None:
    parsed = status.parse_status(answer([node("10.1.1.1")], token={"token": "very-secret"}))
    assert parsed.token == "very-secret"
    assert "very-secret" not in json.dumps(parsed.public())


def test_problems_name_missing_and_unhealthy_nodes() -> None:
    parsed = status.parse_status(answer([node("10.1.1.1"), node("10.1.1.2", health="offline")]))
    assert status.unhealthy(parsed, ["10.1.1.1", "10.1.1.3"]) == [
        "10.1.1.3 is not part of the cluster",
        "10.1.1.2 is offline",
    ]
    assert status.unhealthy(parsed, ["10.1.1.1"], only_nodes=True) == []


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


def printing(*texts: str) -> Callable[[str], status.Status]:
    """Return a reader of these texts, in order; the last one repeats."""
    remaining = list(texts)

    def read(_program: str) -> status.Status:
        return status.parse_status(remaining.pop(0) if len(remaining) > 1 else remaining[0])

    return read


DEGRADED = json.dumps({"cluster": {"system_status": 2, "nodes": [node("10.1.1.1", health="degraded")]}})
WHOLE = answer([node("10.1.1.1")])


def wait(read: Callable[[str], status.Status]) -> status.Status:
    machine = GravityMachine(clock=Time().clock)
    return status.wait_until_healthy(machine, {"wait": 60, "patience": 5}, ["10.1.1.1"], read=read)


def test_a_cluster_may_be_degraded_for_a_while() -> None:
    assert wait(printing(DEGRADED, DEGRADED, DEGRADED, "", WHOLE)).state == "active"


def test_a_cluster_that_stays_degraded_fails_with_its_probes() -> None:
    row = {**node("10.1.1.1", health="degraded"), "failed_probes": ["etcd is unhealthy"]}
    printed = json.dumps({"cluster": {"system_status": 2, "nodes": [row]}})
    with pytest.raises(StepFailed, match=r"6 consecutive results: \S+ is degraded \(etcd is unhealthy\)") as caught:
        wait(printing(printed))
    assert caught.value.reason == "gravity_degraded"


def test_waiting_ends_at_the_deadline() -> None:
    with pytest.raises(StepFailed, match=r"healthy in time: 10\.1\.1\.1 is not part of the cluster") as caught:
        wait(printing(answer([node("10.1.1.2")])))
    assert caught.value.reason == "gravity_timeout"


# --- on a node -------------------------------------------------------------------------------------------------------


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture
def on(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Callable[..., GravityMachine]:
    """Return a function that selects the node on which programs run from then on, and returns its machine."""

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
    joining = {"address": "10.0.0.20", "node_type": "pipe", "role": "node", "token": token, "peers": [MASTER]}
    return parameters(lab, **{**joining, **more})


On = Callable[..., GravityMachine]


def test_a_second_install_changes_nothing(lab: Lab, on: On) -> None:
    machine = on()
    first = install.install(machine, parameters(lab))
    assert first["changed"]
    assert first["cluster"]["state"] == "active"
    assert not (lab.folder / "copy.tar").exists()
    state = status.node_state(machine, MASTER)
    assert (state["state"], state["role"], state["healthy"], state["masters"]) == ("member", "master", True, [MASTER])
    assert not install.install(machine, parameters(lab))["changed"]


def test_the_command_line_of_an_install_has_no_token(lab: Lab) -> None:
    words = install.install_argv("gravity", parameters(lab))
    assert not [word for word in words if "token" in word]
    for flag in ("cloud-provider", "advertise-addr", "cluster", "flavor", "role", "pod-network-cidr", "service-cidr"):
        assert [word for word in words if word.startswith(f"--{flag}=")], flag


def test_another_digest_is_refused_before_anything_changes(lab: Lab, on: On) -> None:
    with pytest.raises(StepFailed, match="expected 0000") as caught:
        install.install(on(), parameters(lab, sha256="0" * 64))
    assert caught.value.reason == "gravity_tarball"
    assert not (lab.folder / "master-0" / "var/lib/gravity").exists()


def test_a_failed_check_is_reported(lab: Lab, on: On) -> None:
    lab.faults([{"command": "check", "text": "clock drift of 400ms is over the limit"}], "master-0")
    with pytest.raises(StepFailed, match="clock drift of 400ms") as caught:
        install.install(on(), parameters(lab))
    assert caught.value.reason == "gravity_check"


def test_a_killed_install_starts_over(lab: Lab, on: On) -> None:
    machine = on()
    (lab.folder / "master-0" / "var/lib/gravity/local").mkdir(parents=True)
    assert status.node_state(machine, MASTER)["state"] == "partial"
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


def test_nothing_to_do_is_not_a_success_of_a_join(lab: Lab, on: On) -> None:
    lab.faults([{"command": "join", "text": "this server is not a part of the running cluster"}], "worker-0")
    with pytest.raises(StepFailed) as caught:
        membership.join(on("worker-0", "10.0.0.20"), join_parameters(lab))
    assert caught.value.reason == "gravity_gone"


def test_a_stopped_node_is_started(lab: Lab, on: On) -> None:
    machine = on()
    install.install(machine, parameters(lab))
    lab.node("master-0", MASTER)("stop", "--confirm")
    assert status.node_state(machine, MASTER)["state"] == "moved"
    before = lab.state()["token"]
    assert install.install(machine, parameters(lab))["changed"]
    assert lab.state()["token"] == before, "the cluster is the same"


def test_a_failed_precondition_is_not_retried(lab: Lab, on: On) -> None:
    lab.faults([{"command": "install", "text": "kernel is too old", "code": 252, "times": 1}], "master-0")
    with pytest.raises(StepFailed) as caught:
        install.install(on(), parameters(lab))
    assert caught.value.reason == "gravity_precondition"


@pytest.mark.parametrize(("code", "reason"), [(254, "gravity_aborted"), (255, "gravity_failed")])
def test_exit_codes_have_a_reason(lab: Lab, on: On, code: int, reason: str) -> None:
    lab.faults([{"command": "install", "text": "an unknown text", "code": code, "times": 1}], "master-0")
    with pytest.raises(StepFailed, match="an unknown text") as caught:
        install.install(on(), parameters(lab))
    assert caught.value.reason == reason


def test_a_second_join_changes_nothing_and_no_log_has_the_token(lab: Lab, on: On) -> None:
    params = join_parameters(lab)
    machine = on("worker-0", "10.0.0.20")
    assert membership.join(machine, params)["changed"]
    assert not membership.join(machine, params)["changed"]
    log = (lab.folder / "worker-0/var/log/devenv/gravity-join.log").read_text()
    assert params["token"] not in log


def test_no_command_line_has_the_token_of_a_join(lab: Lab, on: On, monkeypatch: pytest.MonkeyPatch) -> None:
    params, machine, argvs = join_parameters(lab), on("worker-0", "10.0.0.20"), []
    run = cli.run

    def record(argv: Sequence[str], **options: Any) -> ProgramResult:
        argvs.append(list(argv))
        return run(argv, **options)

    monkeypatch.setattr(cli, "run", record)
    assert membership.join(machine, params)["changed"]
    assert [argv for argv in argvs if any(params["token"] in word for word in argv)] == []
    assert [argv[1] for argv in argvs if argv[1].startswith("@")] == [f"@{machine.path(membership.ARGUMENTS)}"]
    assert not os.path.exists(machine.path(membership.ARGUMENTS))


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
def test_a_join_waits_for_a_busy_cluster(lab: Lab, on: On, text: str) -> None:
    lab.faults([{"command": "join", "text": text, "times": 2}], "worker-0")
    assert membership.join(on("worker-0", "10.0.0.20"), join_parameters(lab))["changed"]


def test_a_waiting_join_ends_at_its_timeout(lab: Lab, on: On) -> None:
    """`gravity join` has no limit of its own. Its last output determines the reason."""
    lab.install()
    lab.begin_join("10.0.0.11", "master")
    with pytest.raises(StepFailed, match=r"while master node 10\.0\.0\.11 is joining") as caught:
        membership.join(on("worker-0", "10.0.0.20"), join_parameters(lab, timeout=4))
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
def test_joins_without_a_remedy_fail(lab: Lab, on: On, text: str, reason: str) -> None:
    lab.faults([{"command": "join", "text": text}], "worker-0")
    with pytest.raises(StepFailed) as caught:
        membership.join(on("worker-0", "10.0.0.20"), join_parameters(lab))
    assert caught.value.reason == reason


def test_a_join_removes_traces_of_an_earlier_one(lab: Lab, on: On) -> None:
    (lab.folder / "worker-0" / "var/lib/gravity/local").mkdir(parents=True)
    assert membership.join(on("worker-0", "10.0.0.20"), join_parameters(lab))["changed"]


def test_an_unexpected_role_fails(lab: Lab, on: On) -> None:
    """The node type determines the role, not the caller."""
    with pytest.raises(StepFailed, match=r"made 10\.0\.0\.20 a node instead of a master") as caught:
        membership.join(on("worker-0", "10.0.0.20"), join_parameters(lab, role="master"))
    assert caught.value.reason == "gravity_role"


def test_a_join_waits_while_the_cluster_is_degraded(lab: Lab, on: On) -> None:
    lab.faults([{"fault": "degraded_after_join", "answers": 3}], "master-1")
    params = join_parameters(lab, address="10.0.0.11", node_type="aio", role="master")
    assert membership.join(on("master-1", "10.0.0.11"), params)["changed"]
    assert lab.state()["degraded"] == 0, "the cluster was degraded"


def test_wait_covers_the_whole_cluster(lab: Lab, on: On) -> None:
    """The join of a worker ignores the health of other nodes, so the action wait checks all of them."""
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
    result = membership.token(on(), {"path": "/run/devenv/join.json"})
    assert result == {"changed": False, "masters": ["10.0.0.11"]}
    path = lab.folder / "master-0/run/devenv/join.json"
    assert json.loads(path.read_text()) == {"token": token, "peers": ["10.0.0.11"]}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_token_needs_a_healthy_master(lab: Lab, on: On) -> None:
    lab.install()
    lab.health({MASTER: "offline"})
    with pytest.raises(StepFailed) as caught:
        membership.token(on(), {"path": "/run/devenv/join.json"})
    assert caught.value.reason == "gravity_no_master"


def test_remove_waits_for_its_operation(lab: Lab, on: On) -> None:
    membership.join(on("worker-0", "10.0.0.20"), join_parameters(lab))
    machine = on()
    params = parameters(lab, address="10.0.0.20")
    assert membership.remove(machine, params)["changed"]
    assert not membership.remove(machine, params)["changed"]


def test_a_failed_operation_fails_the_removal(lab: Lab, on: On) -> None:
    membership.join(on("worker-0", "10.0.0.20"), join_parameters(lab))
    lab.faults([{"fault": "failed_operation"}], "master-0")
    with pytest.raises(StepFailed) as caught:
        membership.remove(on(), parameters(lab, address="10.0.0.20"))
    assert caught.value.reason == "gravity_operation"


@pytest.mark.parametrize("mute", [False, True])
def test_a_silent_operation_ends_at_the_timeout(lab: Lab, on: On, mute: bool) -> None:
    membership.join(on("worker-0", "10.0.0.20"), join_parameters(lab))
    lab.faults([{"fault": "silent_operation"}, *([{"fault": "mute"}] if mute else [])], "master-0")
    with pytest.raises(StepFailed, match="last status: ") as caught:
        membership.remove(on(), parameters(lab, address="10.0.0.20", timeout=4))
    assert caught.value.reason == "gravity_timeout"


def test_leave_removes_the_node_once(lab: Lab, on: On) -> None:
    membership.join(on("worker-0", "10.0.0.20"), join_parameters(lab))
    machine = on("worker-0", "10.0.0.20")
    assert membership.leave(machine, parameters(lab, address="10.0.0.20"))["changed"]
    assert not membership.leave(machine, parameters(lab, address="10.0.0.20"))["changed"]
    assert [row["ip"] for row in lab.state()["nodes"]] == [MASTER]


def test_a_node_leaves_a_cluster_that_no_longer_exists(lab: Lab, on: On) -> None:
    membership.join(on("worker-0", "10.0.0.20"), join_parameters(lab))
    lab.down(True)
    assert membership.leave(on("worker-0", "10.0.0.20"), parameters(lab, address="10.0.0.20"))["changed"]


# --- a prepared image ------------------------------------------------------------------------------------------------


def test_a_prepared_image_gets_the_address_of_its_node(lab: Lab, on: On) -> None:
    install.install(on(), parameters(lab))
    lab.node("master-0", MASTER)("stop", "--confirm")
    machine = on("master-0", "10.0.0.99")
    params = parameters(lab, address="10.0.0.99", prepared=True)
    assert status.node_state(machine, "10.0.0.99")["state"] == "moved"
    assert install.install(machine, params)["changed"]
    assert not install.install(machine, params)["changed"]
    assert [row["ip"] for row in lab.state()["nodes"]] == ["10.0.0.99"]


def test_a_running_cluster_is_stopped_before_its_address_changes(lab: Lab, on: On) -> None:
    install.install(on(), parameters(lab))
    machine = on("master-0", f"{MASTER},10.0.0.99")
    assert install.change_address(machine, parameters(lab, address="10.0.0.99"))["changed"]
    assert not install.change_address(machine, parameters(lab, address="10.0.0.99"))["changed"]


def test_a_prepared_image_without_gravity_is_refused(lab: Lab, on: On) -> None:
    with pytest.raises(StepFailed) as caught:
        install.install(on(), parameters(lab, prepared=True))
    assert caught.value.reason == "gravity_absent"


def test_changing_the_address_needs_7_0(lab: Lab, on: On) -> None:
    install.install(on(), parameters(lab))
    lab.faults([{"fault": "version", "version": "6.1.55"}], "master-0")
    with pytest.raises(StepFailed, match=r"this is 6\.1\.55") as caught:
        install.change_address(on("master-0", f"{MASTER},10.0.0.99"), parameters(lab, address="10.0.0.99"))
    assert caught.value.reason == "gravity_version"
    assert status.node_state(on(), MASTER)["healthy"], "nothing was stopped"


def test_only_the_single_node_of_a_cluster_gets_another_address(lab: Lab, on: On) -> None:
    install.install(on(), parameters(lab))
    lab._installed = lab.node("master-0", MASTER)
    membership.join(on("worker-0", "10.0.0.20"), join_parameters(lab))
    with pytest.raises(StepFailed, match="2 nodes") as caught:
        install.change_address(on("master-0", f"{MASTER},10.0.0.99"), parameters(lab, address="10.0.0.99"))
    assert caught.value.reason == "gravity_many_nodes"


# --- access, upgrade, report -----------------------------------------------------------------------------------------


def test_the_kubeconfig_has_an_account_and_the_ca(lab: Lab, on: On) -> None:
    machine = on()
    install.install(machine, parameters(lab))
    assert access.kubeconfig(machine, parameters(lab))["changed"]
    assert not access.kubeconfig(machine, parameters(lab))["changed"]
    path = Path(machine.path(KUBECONFIG))
    config = json.loads(path.read_text())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert config["clusters"][0]["cluster"]["server"] == f"https://{MASTER}:6443"
    assert config["users"][0]["user"] == {"token": "account-token"}
    kinds = [item["kind"] for item in lab.state()["applied"]["items"]]
    assert kinds == ["ServiceAccount", "ClusterRoleBinding", "Secret"]


def test_the_auth_gateway_is_configured_once(lab: Lab, on: On) -> None:
    machine = on()
    install.install(machine, parameters(lab))
    params = parameters(lab, public_addresses=["lab.example"])
    assert access.auth_gateway(machine, params)["changed"]
    assert not access.auth_gateway(machine, params)["changed"]
    assert not os.listdir(lab.folder / "master-0/run/devenv")


IMAGE = "devenv.lab/probe:1.0.0"


def image_archive(machine: GravityMachine, manifest: str = "manifest.json") -> str:
    """Write an archive of IMAGE on the node; return its path there."""
    data = json.dumps([{"Config": "c", "RepoTags": [IMAGE], "Layers": []}]).encode()
    with tarfile.open(machine.path("/image.tar"), "w") as archive:
        entry = tarfile.TarInfo(manifest)
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return "/image.tar"


def test_an_image_is_published_once(lab: Lab, on: On) -> None:
    machine = on()
    install.install(machine, parameters(lab))
    params = parameters(lab, image=IMAGE, registry="leader.telekube.local:5000", path=image_archive(machine))
    assert images.published(machine, params)["images"] == []
    assert images.publish(machine, params)["changed"]
    assert images.published(machine, params)["images"] == [IMAGE]
    assert actions.perform(machine, "images", params, only_check=True)["images"] == [IMAGE]
    assert not images.publish(machine, params)["changed"]


@pytest.mark.parametrize(
    ("row", "registry", "text"),
    [
        (
            {"command": "registry", "text": "failed to reach the registry"},
            "leader.telekube.local:5000",
            "registry list",
        ),
        ({"command": "docker load", "text": "no space left on device"}, "leader.telekube.local:5000", "no space left"),
        ({}, "docker.io", "requested access to the resource is denied"),
    ],
)
def test_a_failed_publication_is_reported(lab: Lab, on: On, row: dict[str, str], registry: str, text: str) -> None:
    machine = on()
    install.install(machine, parameters(lab))
    lab.faults([row], "master-0")
    params = parameters(lab, image=IMAGE, registry=registry, path=image_archive(machine))
    with pytest.raises(StepFailed, match=text) as caught:
        images.publish(machine, params)
    assert caught.value.reason == "gravity_registry"


def test_upgrade_installs_the_version_once(lab: Lab, on: On) -> None:
    from doubles.gravity import tarball

    machine = on()
    install.install(machine, parameters(lab))
    new = lab.folder / "new.tar"
    digest = tarball.make(new, version="1.1.0")
    params = parameters(lab, tarball=str(new), sha256=digest)
    result = install.upgrade(machine, params)
    assert (result["changed"], result["cluster"]["version"]) == (True, "1.1.0")
    assert not install.upgrade(machine, params)["changed"]


def test_a_degraded_cluster_is_not_upgraded(lab: Lab, on: On) -> None:
    machine = on()
    install.install(machine, parameters(lab))
    lab.health({MASTER: "degraded"})
    with pytest.raises(StepFailed, match=r"not upgraded: 10\.0\.0\.10 is degraded"):
        install.upgrade(machine, parameters(lab))


def test_report_writes_its_file(lab: Lab, on: On) -> None:
    machine = on()
    install.install(machine, parameters(lab))
    result = access.report(machine, parameters(lab, path="/var/lib/devenv/report.tar.gz"))
    assert result["changed"]
    assert (lab.folder / "master-0/var/lib/devenv/report.tar.gz").stat().st_size


def test_check_mode_changes_nothing(lab: Lab, on: On) -> None:
    machine = on()
    assert actions.perform(machine, "install", parameters(lab), only_check=True) == {"changed": True}
    assert not machine.has_state()
    install.install(machine, parameters(lab))
    assert actions.perform(machine, "install", parameters(lab), only_check=True) == {"changed": False}
