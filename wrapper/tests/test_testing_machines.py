"""Where machines come from, who uses them, and commands on them (by an ssh that runs them here)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths

from devenv.testing import demand_parse, objects
from devenv.testing.allocators import allocation, base, leases
from devenv.testing.allocators.devenv import Devenv
from devenv.testing.allocators.existing import existing
from devenv.testing.allocators.hardware_file import read_file
from devenv.testing.errors import (
    AllocationFailed,
    CommandFailed,
    CommandTimeout,
    NotAvailable,
    PluginUnknown,
    SeveralFailed,
    Unreachable,
)
from devenv.testing.installers import roles
from devenv.testing.plugins import registry

SEED: dict[str, Any] = {
    "hardware": {"host1": {}, "host2": {}, "host3": {}},
    "grouping": {"cluster1": {"hosts": ["host1", "host2"]}},
}

TWO: dict[str, Any] = {
    "hardware": {"a": {}, "b": {}},
    "grouping": {"c": {"hosts": ["a"]}, "d": {"hosts": ["b"]}},
}


# --- by name ----------------------------------------------------------------------------------------------------------


def test_machines_are_paired_by_name_whatever_their_order() -> None:
    for there in (["b", "host1", "a"], ["a", "b", "host1"], {"host1", "a", "b"}):
        assert base.pair(["host2", "host1"], list(there)) == {"host2": "a", "host1": "host1"}
    with pytest.raises(AllocationFailed, match="2 hosts are asked for, and there are 1: a"):
        base.pair(["x", "y"], ["a"])


def test_an_environment_that_is_there(made: Callable[..., Path]) -> None:
    made("lab", "master-2pipe")
    said = {"hardware": {"a": {}, "b": {}}, "grouping": {"c": {"hosts": ["a", "b"]}}}
    found = existing("lab", demand_parse.parse(said))
    assert [(host.name, host.node, host.cluster) for host in found.hosts] == [
        ("a", "master-0", "c"),
        ("b", "worker-0", "c"),
    ]
    assert found.environment == "lab"
    assert found.clusters[0].masters == ["a"]
    assert found.clusters[0].profile_name == "main"
    # Data travels between processes.
    assert allocation.from_data(json.loads(json.dumps(found.data()))) == found


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (SEED, "environment lab, hosts of no cluster: 1 are asked for, and there are 0"),
        (TWO, "has 1 clusters"),
        ({"hardware": {"template": "hq-ha"}}, "cluster main, masters: 3 are asked for, and there are 1"),
    ],
)  # fmt: skip
def test_an_environment_that_has_too_little(made: Callable[..., Path], said: dict[str, Any], wanted: str) -> None:
    made("lab", "master-2pipe")
    with pytest.raises(AllocationFailed, match=wanted):
        existing("lab", demand_parse.parse(said))


def test_an_environment_that_is_not_there() -> None:
    with pytest.raises(AllocationFailed, match="has no nodes yet"):
        existing("nowhere", demand_parse.parse(SEED))


# --- files ------------------------------------------------------------------------------------------------------------


def written(folder: Path, text: str, name: str = "hardware.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


MACHINES = """
hosts:
  host1: {ip: 192.0.2.1, user: admin, password: hunter22}
  z: {ip: 192.0.2.3, key_file_path: ~/.ssh/key, port: 2222, rack: 7}
  y: {addresses: ["2001:db8::2"], pem_key_string: "-----BEGIN", host_keys: accept-new, vm_id: vm-1}
clusters:
  any: {kubeconfig: /etc/some/kubeconfig}
"""


def test_machines_of_a_file(tmp_path: Path) -> None:
    private = tmp_path / "private"
    machines = read_file(written(tmp_path, MACHINES))
    found = machines.allocation(demand_parse.parse(SEED, remote=True), private)
    one, two, three = found.hosts
    assert [one.node, two.node, three.node] == ["host1", "y", "z"]
    assert [Path(one.password_file).read_text(), Path(two.key_file).read_text()] == ["hunter22\n", "-----BEGIN\n"]
    for path in (one.password_file, two.key_file):
        assert Path(path).stat().st_mode & 0o777 == 0o600
    assert "StrictHostKeyChecking=yes" in one.options
    assert "StrictHostKeyChecking=accept-new" in two.options
    assert (three.port, three.extra, two.vm_id) == (2222, {"rack": 7}, "vm-1")
    assert found.clusters[0].kubeconfig == "/etc/some/kubeconfig"
    assert machines.has_clusters(demand_parse.parse(SEED))


def test_machines_of_a_file_as_existing_hosts(tmp_path: Path) -> None:
    text = "hosts: {host1: {ip: 192.0.2.1, key_file_path: /k, user: admin}, a: {ip: 192.0.2.2}, b: {ip: 192.0.2.3}}"
    machines = read_file(written(tmp_path, text))
    allocator = Devenv(hosts=machines.for_profile())
    document = allocator._document(demand_parse.parse(SEED))
    assert document["provider"] == "existing"
    assert document["nodes"]["master-0"]["host"] == {
        "addresses": ["192.0.2.1"], "user": "admin", "become": True, "key_file": "/k",
    }  # fmt: skip
    assert document["nodes"]["worker-1"]["host"]["addresses"] == ["192.0.2.3"]
    with pytest.raises(AllocationFailed, match=r"hosts.host1: --install needs a key_file_path"):
        read_file(written(tmp_path, MACHINES)).for_profile()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("hosts: {a: {password: hunter22", "is neither YAML nor JSON"),
        ("[]", "must have hosts by name"),
        ("hosts: {a: {}}\nmore: 1", "must have hosts by name"),
        ("hosts: {a: {user: x}}", "hosts.a: ip is missing"),
        ("hosts: {a: {ip: x, password: hunter22, key_file_path: /k}}", "one of password, key_file_path, not several"),
        ("hosts: {a: {ip: x}}\nclusters: {c: {kubeconfigs: x}}", "clusters.c: must be a mapping of hosts, kubeconfig"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str, wanted: str) -> None:
    with pytest.raises(AllocationFailed, match=wanted) as caught:
        read_file(written(tmp_path, text))
    assert "hunter22" not in str(caught.value)


# --- leases -----------------------------------------------------------------------------------------------------------


class Story:
    """What was made and taken down."""

    def __init__(self) -> None:
        self.up: set[str] = set()
        self.lines: list[str] = []

    def leases(self, policy: leases.Policy | None = None, **words: Any) -> leases.Leases:
        return leases.Leases(policy or leases.Policy(), self.up.__contains__, self.down, **words)

    def enter(self, held: leases.Leases, name: str) -> bool:
        def make() -> None:
            self.lines.append(f"up {name}")
            self.up.add(name)

        return held.enter(name, 1, make, self.lines.append)

    def down(self, name: str) -> None:
        self.lines.append(f"down {name}")
        self.up.discard(name)


def test_the_last_user_takes_it_down() -> None:
    story = Story()
    held = story.leases()
    assert not story.enter(held, "a")
    assert story.enter(held, "a")
    other = leases.Process(os.getppid(), leases.start_of(os.getppid()))
    lease = held.read("a")
    held.write("a", leases.replace(lease, users=(*lease.users, other)))
    assert not held.leave("a")
    assert held.leave("a", other)
    assert story.lines == ["up a", "down a"]
    assert held.names() == []


def test_a_user_that_is_dead_does_not_count() -> None:
    story = Story()
    held = story.leases()
    story.enter(held, "a")
    child = subprocess.Popen([sys.executable, "-c", ""])
    dead = leases.Process(child.pid, 1)
    child.wait()
    held.write("a", leases.replace(held.read("a"), users=(leases.me(), dead), busy=(dead,)))
    assert held.leave("a")


def test_one_that_went_is_made_again() -> None:
    story = Story()
    held = story.leases()
    story.enter(held, "a")
    story.up.clear()
    story.enter(held, "a")
    assert story.lines == ["up a", "up a"]


def test_one_that_is_not_busy_makes_room() -> None:
    story = Story()
    held = story.leases(most=1)
    story.enter(held, "a")
    held.idle("a")
    story.enter(held, "b")
    assert story.lines == ["up a", "down a", "up b"]
    # Its user comes back, and gets it anew.
    held.idle("b")
    assert not story.enter(held, "a")


def test_one_that_is_busy_is_waited_for_in_vain() -> None:
    story = Story()
    held = story.leases(most=1, patience=0.1)
    story.enter(held, "a")
    with pytest.raises(AllocationFailed, match=r"no room for another environment after 0\.1 s; there are a"):
        story.enter(held, "b")
    assert story.lines[0] == "up a"
    assert story.up == {"a"}


def test_a_failed_one_that_is_kept_is_not_taken_down_for_room() -> None:
    story = Story()
    held = story.leases(leases.Policy(keep=True), most=1)
    story.enter(held, "a")
    held.idle("a", failed=True)
    assert not held.leave("a")
    story.enter(held, "b")
    assert story.up == {"a", "b"}


def test_what_could_not_be_made_is_taken_down() -> None:
    story = Story()
    held = story.leases()

    def fail() -> None:
        story.up.add("a")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        held.enter("a", 1, fail, story.lines.append)
    held.leave("a")
    assert story.lines == ["down a"]


def test_a_lease_that_cannot_be_read_is_none() -> None:
    held = Story().leases()
    held.write("a", leases.Lease("up"))
    (paths.home() / "testing" / "a" / "lease.json").write_text("{")
    assert held.read("a") == leases.Lease()


# --- plugins ----------------------------------------------------------------------------------------------------------


def host(**said: Any) -> objects.Host:
    return objects.Host(allocation.HostFound("host1", "master-0", ["192.0.2.1"], **said))


class _Plugin:
    def __init__(self, owner: objects.Host) -> None:
        self.owner = owner
        self.closed = self.undone = False

    def close(self) -> None:
        self.closed = True

    def reset_state(self) -> None:
        self.undone = True


def test_plugins_are_made_late_kept_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.HOST, "_registered", {})
    registry.register_host_plugin("Mine", _Plugin)
    one = host()
    assert one.plugins.made() == {}
    mine = one.Mine
    assert one.Mine is mine
    assert mine.owner is one
    one.plugins.reset()
    assert (mine.undone, mine.closed) == (True, False)
    one.clear_plugins()
    assert mine.closed
    assert one.Mine is not mine


def test_a_plugin_that_is_not_known() -> None:
    with pytest.raises(PluginUnknown, match="no host plugin is named Toaster; there are Iptables, Power, SshDirect"):
        host().Toaster  # noqa: B018  # the access itself
    assert not hasattr(host(), "toaster")
    with pytest.raises(ValueError, match="begins with a capital"):
        registry.register_cluster_plugin("toaster", _Plugin)


def test_all_plugins_of_ours_can_be_imported() -> None:
    for kind in (registry.HOST, registry.CLUSTER):
        assert all(callable(kind.get(name)) for name in kind.names())


def test_gravity_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    from devenv.testing.installers import catalogue as installers

    monkeypatch.setattr(installers, "is_built", lambda engine: False)
    found = allocation.ClusterFound("c", "main", "k8s", ["host1"], ["host1"])
    with pytest.raises(NotAvailable, match="needs engine gravity, not built yet"):
        objects.Cluster(found, {"host1": host()}).Gravity  # noqa: B018  # the access itself


def test_a_role_needs_an_environment() -> None:
    with pytest.raises(NotAvailable, match="of no environment"):
        roles.run_role("a.b.c", [host()], {})
    (play,) = roles.playbook("a.b.c", ["master-0"], {"x": 1})
    assert yaml.safe_load(yaml.safe_dump(play))["tasks"][0]["ansible.builtin.include_role"] == {"name": "a.b.c"}


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """SshDirect of a host whose ssh runs the command here; its argv goes to a file."""
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" >> {tmp_path}/argv\n'
        f'[ -z "$SSH_ASKPASS" ] || "$SSH_ASKPASS" > {tmp_path}/asked\n'
        'for last; do :; done\nexec sh -c "$last"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return host(user="admin", options=["-o", "ControlPath=/x"]).SshDirect


def test_execute(ssh: Any) -> None:
    assert ssh.execute("echo a; echo b >&2") == "a\n"
    assert ssh.execute(["printf", "%s", "$HOME *"]) == "$HOME *"
    assert ssh.execute("cat", stdin="in") == "in"
    assert ssh.run_script("echo $1 $#", "a b", timeout=20) == "a b 1\n"
    assert ssh.run("exit 4").code == 4
    with pytest.raises(CommandFailed, match=r"host1: 'echo no >&2; exit 3' ended with 3: no") as caught:
        ssh.execute("echo no >&2; exit 3")
    assert (caught.value.code, caught.value.stderr) == (3, "no\n")
    with pytest.raises(Unreachable):
        ssh.execute("exit 255")


def test_a_command_that_takes_too_long_is_ended(ssh: Any) -> None:
    begin = time.monotonic()
    with pytest.raises(CommandTimeout, match=r"'sleep 4711' was not done within 0.5 s"):
        ssh.execute("sleep 4711", timeout=0.5)
    assert time.monotonic() - begin < 15
    assert _running("sleep 4711") == []
    # A command's own 124 is no timeout.
    assert ssh.run("exit 124").code == 124


def test_an_ssh_that_hangs_is_ended(ssh: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from devenv.testing.plugins import ssh as module

    monkeypatch.setattr(module, "GRACE", 0.2)
    (tmp_path / "bin" / "ssh").write_text("#!/bin/sh\nexec sleep 4712\n")
    with pytest.raises(CommandTimeout):
        ssh.execute("true", timeout=0.2)
    assert _running("sleep 4712") == []


def test_in_the_background(ssh: Any) -> None:
    assert ssh.background("echo a; echo b >&2", deadline=20).wait() == "a\n"
    with pytest.raises(CommandFailed, match="ended with 3: no"):
        ssh.background("echo no >&2; exit 3", deadline=20).wait()
    job = ssh.background("sleep 4713", deadline=60)
    with pytest.raises(CommandTimeout):
        job.wait(0.2)
    assert job.is_running()
    ssh.reset_state()
    assert not job.is_running()
    assert _running("sleep 4713") == []


def test_the_deadline_holds_though_nothing_ever_fails(ssh: Any) -> None:
    """Also while the command says something all the time, and when nobody waits."""
    job = ssh.background("while :; do echo x; sleep 0.05; done", deadline=0.5)
    with pytest.raises(CommandTimeout):
        job.wait()
    assert not job.is_running()


def test_several_at_once(ssh: Any) -> None:
    assert ssh.run_parallel(["echo a", ["echo", "b"]]) == ["a\n", "b\n"]
    with pytest.raises(CommandFailed):
        ssh.run_parallel(["exit 1", "true"])
    with pytest.raises(SeveralFailed, match=r"ended with 1.*ended with 2"):
        ssh.run_parallel(["exit 1", "exit 2"])


def test_a_password_is_nowhere_on_a_command_line(ssh: Any, tmp_path: Path) -> None:
    text = "hosts: {host1: {ip: 192.0.2.1, password: hunter22}}"
    machines = read_file(written(tmp_path, text))
    found = machines.allocation(demand_parse.parse({"hardware": {"host1": {}}}), tmp_path / "private")
    assert objects.Host(found.hosts[0]).SshDirect.execute("echo a") == "a\n"
    assert (tmp_path / "asked").read_text() == "hunter22\n"
    assert "hunter22" not in (tmp_path / "argv").read_text()
    assert "StrictHostKeyChecking=yes" in (tmp_path / "argv").read_text()


def _running(words: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().replace(b"\0", b" ").decode().strip() == words:
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def test_machines_of_a_file_are_no_environment(tmp_path: Path) -> None:
    machines = read_file(written(tmp_path, "hosts: {a: {ip: 192.0.2.1}}"))
    found = machines.allocation(demand_parse.parse({"hardware": {"a": {}}}), tmp_path)
    with pytest.raises(NotAvailable, match="no environment of devenv"):
        objects.BaseConfig(found).environment  # noqa: B018  # the access itself
    with pytest.raises(NotAvailable, match="its power is not ours to switch"):
        objects.BaseConfig(found).hosts.a.Power.on()
