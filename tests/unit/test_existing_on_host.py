"""Code that runs on an existing host: record, installation and reset, in a folder as the host's root."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.module_utils.existing import host, reset
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import Machine
from ansible_collections.devenv.lab.plugins.module_utils.node.program import NOT_STARTED, TIMED_OUT, ProgramResult
from support.node import Node, write

OWNER = {"environment": "lab", "home": "/h", "controller": "c"}
TABLES = {
    "inet filter": "table inet filter {\n\tchain input {\n\t\ttype filter hook input priority 0;\n\t\taccept\n\t}\n}",
    "ip nat": "table ip nat {\n\tchain POSTROUTING {\n\t\ttype nat hook postrouting priority 100;\n\t}\n}",
    "inet devenv_pods": "table inet devenv_pods {\n\tchain x {\n\t\taccept\n\t}\n}",
}


SOCKETS = """LISTEN 0      4096         0.0.0.0:22         0.0.0.0:*    users:(("sshd",pid=70,fd=3))
LISTEN 0      4096   127.0.0.1%lo:6443       0.0.0.0:*    users:(("kube apiserver",pid=7,fd=3),("x",pid=8,fd=3))
LISTEN 0      511             [::]:6443          [::]:*
LISTEN 0      511                *:10250            *:*
"""


class Host(Node):
    """A host with simulated programs; ``ran`` are the commands."""

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
        if words == "ss -Hltnp":
            return ProgramResult(0, SOCKETS)
        if words.startswith("findmnt"):
            return ProgramResult(0, "private\n")
        return ProgramResult(1 if self.fails & set(argv) else 0, "", "no space left\n")


@pytest.fixture
def machine(tmp_path: Path) -> Host:
    return Host(tmp_path / "host")


def delivered(machine: Machine, **contents: str) -> list[dict[str, str]]:
    """Write files into INCOMING, by kind and name (``bin__kubelet``); return their list."""
    entries = []
    for name, text in contents.items():
        path = name.replace("__", "/")
        write(Path(machine.path(f"{host.INCOMING}/{path}")), text)
        entries.append({"path": path, "sha256": hashlib.sha256(text.encode()).hexdigest()})
    return entries


def test_a_survey_changes_nothing(machine: Host) -> None:
    write(machine / "/etc/kubernetes/kubelet.conf", "    server: https://10.0.0.1:6443\n")
    write(machine / host.PROGRAMS / "kubelet")
    before = sorted(machine.folder.rglob("*"))
    state = host.survey(machine, ["sh", "no-such-program"], ["kubelet", "kubeadm"])
    assert sorted(machine.folder.rglob("*")) == before
    shown = ("ports", "missing", "active", "traces", "foreign_binaries", "server", "memory", "addresses", "record")
    assert {key: state[key] for key in shown} == {
        "ports": {"22": "sshd (pid 70)", "6443": "kube apiserver (pid 7)", "10250": ""},
        "missing": ["no-such-program"],
        "active": ["containerd.service"],
        "traces": ["/etc/kubernetes/kubelet.conf"],
        "foreign_binaries": ["kubelet"],
        "server": "https://10.0.0.1:6443",
        "memory": 4 << 30,
        "addresses": ["192.0.2.10"],
        "record": {},
    }


def test_the_original_state_is_recorded_once(machine: Host) -> None:
    assert host.prepare(machine, OWNER) == {"changed": True}
    original = host.load(machine)
    assert {key: original[key] for key in OWNER} == OWNER
    assert original["before"]["files"] == {"/etc/hosts": "127.0.0.1 host\n"}
    assert original["before"]["sysctls"]["net.ipv4.ip_forward"] == "0\n"
    assert original["before"]["tables"] == sorted(TABLES)
    assert Path(machine.path(host.RECORD)).stat().st_mode & 0o777 == 0o600
    write(machine / "/etc/hosts", "changed\n")
    assert host.prepare(machine, OWNER) == {"changed": False}
    assert host.load(machine) == original


@pytest.mark.parametrize("text", ["", "half a li", "[]"])
def test_a_broken_record_counts_as_another_owners(machine: Host, text: str) -> None:
    write(machine / host.RECORD, text)
    assert not host.is_owned(host.load(machine), OWNER)


def test_delivered_files_are_installed_once(machine: Host) -> None:
    host.prepare(machine, OWNER)
    files = delivered(machine, bin__kubelet="new", cni__bridge="plugin", images__pause="image")
    assert host.install(machine, "d1", files) == {"changed": True}
    assert (machine / host.PROGRAMS / "kubelet").read_text() == "new"
    assert (machine / host.PLUGINS / "bridge").stat().st_mode & 0o777 == 0o755
    assert [words for words in machine.ran if "images import" in words]
    record = host.load(machine)
    assert (record["digest"], record["programs"]) == ("d1", [f"{host.PROGRAMS}/kubelet"])
    assert not machine.exists(host.INCOMING)
    assert host.install(machine, "d1", files) == {"changed": False}


def test_the_hosts_own_plugins_stay(machine: Host) -> None:
    write(machine / host.PLUGINS / "bridge", "theirs")
    host.prepare(machine, OWNER)
    host.install(machine, "d1", delivered(machine, cni__bridge="ours"))
    assert (machine / host.PLUGINS / "bridge").read_text() == "theirs"


def test_incomplete_files_are_not_installed(machine: Host) -> None:
    host.prepare(machine, OWNER)
    (entry,) = delivered(machine, bin__kubelet="cut")
    for wrong, words in (({**entry, "sha256": "0"}, "another digest"), ({**entry, "path": "bin/x"}, "did not arrive")):
        with pytest.raises(host.Failed, match=words):
            host.install(machine, "d1", [wrong])
    assert not machine.exists(host.PROGRAMS)


def test_an_image_that_cannot_be_imported_is_named(machine: Host) -> None:
    host.prepare(machine, OWNER)
    machine.fails = {"import"}
    with pytest.raises(host.Failed, match=r"images/pause: no space left"):
        host.install(machine, "d1", delivered(machine, images__pause="image"))
    assert host.load(machine)["digest"] == ""


def test_a_reset_restores_the_original_state(machine: Host) -> None:
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
    reset.restore(machine, host.load(machine))
    assert (machine / "/etc/hosts").read_text() == "127.0.0.1 host\n"
    assert (machine / "/proc/sys/net/ipv4/ip_forward").read_text() == "0\n"
    removed = (unit, "/etc/sysctl.d", "/etc/kubernetes", host.PLUGINS, f"{host.PROGRAMS}/kubelet", host.STATE)
    assert [path for path in removed if machine.exists(path)] == []
    # A folder that existed before is emptied and stays.
    assert list((machine / "/etc/cni/net.d").iterdir()) == []
    assert "systemctl disable --now -- kubelet.service" in machine.ran
    assert "iptables-restore <<< *nat\n-A INPUT -j ACCEPT\nCOMMIT" in machine.ran
    assert "mount --make-rprivate /" in machine.ran
    # All tables existed before.
    assert not [words for words in machine.ran if words.startswith("nft delete")]


def test_a_reset_deletes_tables_of_devenv_and_empty_ones(machine: Host) -> None:
    machine.tables = {"inet filter": TABLES["inet filter"]}
    host.prepare(machine, OWNER)
    machine.tables = dict(TABLES, **{"ip theirs": TABLES["inet filter"]})
    reset.restore(machine, host.load(machine))
    deleted = [words for words in machine.ran if words.startswith("nft delete")]
    assert deleted == ["nft delete table inet devenv_pods", "nft delete table ip nat"]


@pytest.mark.parametrize("code", [TIMED_OUT, NOT_STARTED])
def test_incomplete_output_of_programs_changes_nothing(machine: Host, code: int) -> None:
    """Half of the rules must not replace all of them, and a table that could not be listed may have some."""
    host.prepare(machine, OWNER)
    record = host.load(machine)
    record["before"]["tables"] = ["inet devenv_pods"]

    def hang(argv: list[str], data: str | None = None, **more: Any) -> ProgramResult:
        done = machine.answer(argv, data, **more)
        if argv[0] == "iptables-save" or list(argv[:3]) == ["nft", "list", "table"]:
            return ProgramResult(code, done.stdout[:30] if code == TIMED_OUT else "")
        return done

    machine.run = hang
    machine.ran.clear()
    reset.restore(machine, record)
    assert "iptables-save" in machine.ran
    assert "nft list table inet filter" in machine.ran
    assert not [words for words in machine.ran if words.startswith(("iptables-restore", "nft delete"))]


def test_only_processes_of_the_folder_are_killed(machine: Host, tmp_path: Path) -> None:
    """A process of this machine that looks like a containerd shim survives: it is not in the folder's /proc."""
    program = tmp_path / "containerd-shim-of-a-test"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    child = subprocess.Popen([str(program), "60"])
    try:
        reset._kill_containers(machine)
        assert child.poll() is None
        (machine / "proc" / str(child.pid)).mkdir()
        (machine / "proc" / str(child.pid) / "exe").symlink_to(f"{host.PROGRAMS}/containerd-shim-runc-v2")
        with pytest.raises(host.Failed, match="do not end"):
            reset._kill_containers(machine)
        assert child.wait(10) == -signal.SIGKILL
    finally:
        child.kill()
        child.wait()


def test_the_deepest_mounts_come_first() -> None:
    paths = ["a/b\\040c tmpfs", "a ext4"]
    mounts = "".join(f"x /var/lib/kubelet/pods/{path}\n" for path in paths) + "x /var/lib/kubelet2/x ext4\nx / ext4\n"
    assert reset.mounts_below(mounts, ["/var/lib/kubelet"]) == [
        "/var/lib/kubelet/pods/a/b c",
        "/var/lib/kubelet/pods/a",
    ]
