"""A host that exists already, from inside: what is noted of it, put on it, and given back. A folder in its place."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.module_utils.existing import host, record, reset
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import Machine
from ansible_collections.devenv.lab.plugins.module_utils.node.program import NOT_STARTED, TIMED_OUT, ProgramResult
from support.node import Node, write

OWNER = {"environment": "lab", "home": "/h", "controller": "c"}
TABLES = {
    "inet filter": "table inet filter {\n\tchain input {\n\t\ttype filter hook input priority 0;\n\t\taccept\n\t}\n}",
    "ip nat": "table ip nat {\n\tchain POSTROUTING {\n\t\ttype nat hook postrouting priority 100;\n\t}\n}",
    "inet devenv_pods": "table inet devenv_pods {\n\tchain x {\n\t\taccept\n\t}\n}",
}


class Host(Node):
    """A host whose programs answer from here; ``ran`` is what was asked of them."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.ran: list[str] = []
        self.tables = dict(TABLES)
        self.fails: set[str] = set()
        self.run = self.answer
        write(self / "/etc/hosts", "127.0.0.1 host\n")
        write(self / "/proc/sys/net/ipv4/ip_forward", "0\n")
        write(self / "/proc/meminfo", "MemTotal:       4194304 kB\n")
        (self / "/var/lib").mkdir(parents=True)

    def answer(self, argv: list[str], data: str | None = None, **_: Any) -> ProgramResult:
        words = " ".join(argv)
        self.ran.append(words if data is None else f"{words} <<< {data.strip()}")
        if words == "nft list tables":
            return ProgramResult(0, "".join(f"table {name}\n" for name in self.tables))
        if words.startswith("nft list table "):
            return ProgramResult(0, self.tables[words.removeprefix("nft list table ")])
        if words == "iptables-save":
            return ProgramResult(0, "*nat\n-A INPUT -j ACCEPT\n-A X -j KUBE-MARK\n-A CNI-1 -j RETURN\nCOMMIT\n")
        if words.startswith("systemctl is-active"):
            return ProgramResult(3, "inactive\nactive\ninactive\ninactive\ninactive\ninactive\n")
        if words.startswith("ip -json"):
            return ProgramResult(0, json.dumps([{"addr_info": [{"local": "192.0.2.10"}, {"scope": "x"}]}, {}]))
        if words.startswith("findmnt"):
            return ProgramResult(0, "private\n")
        return ProgramResult(1 if self.fails & set(argv) else 0, "", "no space left\n")


@pytest.fixture
def machine(tmp_path: Path) -> Host:
    return Host(tmp_path / "host")


def delivered(machine: Machine, **contents: str) -> list[dict[str, str]]:
    """Files in the folder where they come, by kind and name."""
    found = []
    for name, text in contents.items():
        path = name.replace("__", "/")
        write(Path(machine.path(f"{record.INCOMING}/{path}")), text)
        found.append({"path": path, "sha256": hashlib.sha256(text.encode()).hexdigest()})
    return found


def test_a_survey_changes_nothing(machine: Host) -> None:
    write(machine / "/etc/kubernetes/kubelet.conf", "    server: https://10.0.0.1:6443\n")
    write(machine / record.PROGRAMS / "kubelet")
    before = sorted(machine.folder.rglob("*"))
    found = host.survey(machine, {"programs": ["sh", "no-such-program"], "ours": ["kubelet", "kubeadm"]})
    assert sorted(machine.folder.rglob("*")) == before
    shown = ("missing", "active", "traces", "taken_programs", "server", "memory", "addresses", "record")
    assert {key: found[key] for key in shown} == {
        "missing": ["no-such-program"],
        "active": ["containerd.service"],
        "traces": ["/etc/kubernetes/kubelet.conf"],
        "taken_programs": ["kubelet"],
        "server": "https://10.0.0.1:6443",
        "memory": 4 << 30,
        "addresses": ["192.0.2.10"],
        "record": {},
    }


def test_what_was_there_is_noted_once(machine: Host) -> None:
    assert host.prepare(machine, OWNER) is True
    found = record.load(machine)
    assert {key: found[key] for key in OWNER} == OWNER
    assert found["before"]["files"] == {"/etc/hosts": "127.0.0.1 host\n"}
    assert found["before"]["sysctls"]["net.ipv4.ip_forward"] == "0\n"
    assert found["before"]["tables"] == sorted(TABLES)
    assert Path(machine.path(record.RECORD)).stat().st_mode & 0o777 == 0o600
    write(machine / "/etc/hosts", "changed\n")
    assert host.prepare(machine, OWNER) is False
    assert record.load(machine) == found


@pytest.mark.parametrize("text", ["", "half a li", "[]"])
def test_a_broken_record_is_somebody_elses(machine: Host, text: str) -> None:
    write(machine / record.RECORD, text)
    assert not record.is_owned(record.load(machine), OWNER)


def test_what_came_is_put_in_its_place_once(machine: Host) -> None:
    host.prepare(machine, OWNER)
    came = delivered(machine, bin__kubelet="new", cni__bridge="plugin", images__pause="image")
    assert host.install(machine, "d1", came) is True
    assert (machine / record.PROGRAMS / "kubelet").read_text() == "new"
    assert (machine / record.PLUGINS / "bridge").stat().st_mode & 0o777 == 0o755
    assert [words for words in machine.ran if "images import" in words]
    found = record.load(machine)
    assert (found["digest"], found["programs"]) == ("d1", [f"{record.PROGRAMS}/kubelet"])
    assert not machine.exists(record.INCOMING)
    assert host.install(machine, "d1", came) is False


def test_plugins_of_the_host_stay_its_own(machine: Host) -> None:
    write(machine / record.PLUGINS / "bridge", "theirs")
    host.prepare(machine, OWNER)
    host.install(machine, "d1", delivered(machine, cni__bridge="ours"))
    assert (machine / record.PLUGINS / "bridge").read_text() == "theirs"


def test_what_did_not_come_whole_is_not_installed(machine: Host) -> None:
    host.prepare(machine, OWNER)
    (came,) = delivered(machine, bin__kubelet="cut")
    for wrong, words in (({**came, "sha256": "0"}, "another digest"), ({**came, "path": "bin/x"}, "did not come")):
        with pytest.raises(record.Failed, match=words):
            host.install(machine, "d1", [wrong])
    assert not machine.exists(record.PROGRAMS)


def test_an_image_that_cannot_be_imported_is_named(machine: Host) -> None:
    host.prepare(machine, OWNER)
    machine.fails = {"import"}
    with pytest.raises(record.Failed, match=r"images/pause: no space left"):
        host.install(machine, "d1", delivered(machine, images__pause="image"))
    assert record.load(machine)["digest"] == ""


def test_a_host_is_as_it_was(machine: Host) -> None:
    write(machine / "/etc/cni/net.d/theirs.conf")
    host.prepare(machine, OWNER)
    host.install(machine, "d1", delivered(machine, bin__kubelet="new", cni__bridge="plugin"))
    unit = "/etc/systemd/system/kubelet.service"
    parts = {
        "p": {"files": [unit, "/etc/hosts", "/etc/sysctl.d/devenv.conf"], "units": ["kubelet.service", "ssh.service"]}
    }
    write(machine / "/var/lib/devenv/managed.json", json.dumps({"parts": parts}))
    for path in (unit, "/etc/sysctl.d/devenv.conf", "/etc/kubernetes/admin.conf", "/etc/cni/net.d/ours.conf"):
        write(machine / path)
    write(machine / "/etc/hosts", "10.0.0.1 master-0\n")
    write(machine / "/proc/sys/net/ipv4/ip_forward", "1\n")
    machine.ran.clear()
    reset.restore(machine, record.load(machine))
    assert (machine / "/etc/hosts").read_text() == "127.0.0.1 host\n"
    assert (machine / "/proc/sys/net/ipv4/ip_forward").read_text() == "0\n"
    gone = (unit, "/etc/sysctl.d", "/etc/kubernetes", record.PLUGINS, f"{record.PROGRAMS}/kubelet", record.OWN)
    assert [path for path in gone if machine.exists(path)] == []
    # A folder that was there is emptied and stays.
    assert list((machine / "/etc/cni/net.d").iterdir()) == []
    assert "systemctl disable --now -- kubelet.service" in machine.ran
    assert "iptables-restore <<< *nat\n-A INPUT -j ACCEPT\nCOMMIT" in machine.ran
    assert "mount --make-rprivate /" in machine.ran
    # All tables were there before.
    assert not [words for words in machine.ran if words.startswith("nft delete")]


def test_tables_that_came_with_us_go(machine: Host) -> None:
    machine.tables = {"inet filter": TABLES["inet filter"]}
    host.prepare(machine, OWNER)
    machine.tables = dict(TABLES, **{"ip theirs": TABLES["inet filter"]})
    reset.restore(machine, record.load(machine))
    deleted = [words for words in machine.ran if words.startswith("nft delete")]
    assert deleted == ["nft delete table inet devenv_pods", "nft delete table ip nat"]


@pytest.mark.parametrize("code", [TIMED_OUT, NOT_STARTED])
def test_programs_without_a_whole_answer_change_nothing(machine: Host, code: int) -> None:
    """Half of the rules is not all of them, and a table that nobody has seen may have some."""
    host.prepare(machine, OWNER)
    found = record.load(machine)
    found["before"]["tables"] = ["inet devenv_pods"]

    def hang(argv: list[str], data: str | None = None, **more: Any) -> ProgramResult:
        done = machine.answer(argv, data, **more)
        if argv[0] == "iptables-save" or list(argv[:3]) == ["nft", "list", "table"]:
            return ProgramResult(code, done.stdout[:30] if code == TIMED_OUT else "")
        return done

    machine.run = hang
    machine.ran.clear()
    reset.restore(machine, found)
    assert "iptables-save" in machine.ran
    assert "nft list table inet filter" in machine.ran
    assert not [words for words in machine.ran if words.startswith(("iptables-restore", "nft delete"))]


def test_nothing_of_this_machine_is_ended(machine: Host, tmp_path: Path) -> None:
    """A process of this machine that looks like a shim of containerd's lives on: it is none of the folder's."""
    program = tmp_path / "containerd-shim-of-a-test"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    child = subprocess.Popen([str(program), "60"])
    try:
        reset._end_containers(machine)
        assert child.poll() is None
        (machine / "proc" / str(child.pid)).mkdir()
        (machine / "proc" / str(child.pid) / "exe").symlink_to(f"{record.PROGRAMS}/containerd-shim-runc-v2")
        with pytest.raises(record.Failed, match="do not end"):
            reset._end_containers(machine)
        assert child.wait(10) == -signal.SIGKILL
    finally:
        child.kill()
        child.wait()


def test_mounts_are_taken_off_from_the_deepest() -> None:
    paths = ["a/b\\040c tmpfs", "a ext4"]
    mounts = "".join(f"x /var/lib/kubelet/pods/{path}\n" for path in paths) + "x /var/lib/kubelet2/x ext4\nx / ext4\n"
    assert reset.mounts_below(mounts, ["/var/lib/kubelet"]) == [
        "/var/lib/kubelet/pods/a/b c",
        "/var/lib/kubelet/pods/a",
    ]
