"""Allocation of machines, leases on them, and commands on them (with an ssh that runs them locally)."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths, processes

from devenv.testing import demand_parse, objects, registry
from devenv.testing.allocators import base, leases, manager
from devenv.testing.allocators.devenv import Devenv, existing
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
from devenv.testing.installers import catalogue

PLAIN: dict[str, Any] = {
    "hardware": {"host1": {}, "host2": {}, "host3": {}},
    "grouping": {"cluster1": {"hosts": ["host1", "host2"]}},
}

TWO: dict[str, Any] = {
    "hardware": {"a": {}, "b": {}},
    "grouping": {"c": {"hosts": ["a"]}, "d": {"hosts": ["b"]}},
}


# --- by name ----------------------------------------------------------------------------------------------------------


def test_machines_are_paired_by_name_whatever_their_order() -> None:
    for machines in (["b", "host1", "a"], ["a", "b", "host1"], {"host1", "a", "b"}):
        assert base.pair(["host2", "host1"], list(machines)) == {"host2": "a", "host1": "host1"}
    with pytest.raises(AllocationFailed, match="2 hosts are requested, but there are only 1: a"):
        base.pair(["x", "y"], ["a"])


def test_hosts_are_matched_to_an_existing_environment(made: Callable[..., Path]) -> None:
    made("lab", "master-2pipe")
    arguments = {"hardware": {"a": {}, "b": {}}, "grouping": {"c": {"hosts": ["a", "b"]}}}
    config = existing("lab", demand_parse.parse(arguments))
    assert [(host.name, host.node, host.cluster) for host in config.hosts.values()] == [
        ("a", "master-0", "c"),
        ("b", "worker-0", "c"),
    ]
    assert config.environment_name == "lab"
    assert config.clusters.c.masters == ("a",)
    # It is sent between processes.
    received = pickle.loads(pickle.dumps(config))
    assert received.has_same_machines(config)
    assert received.clusters.c.hosts.a is received.hosts.a
    received.hosts.a.addresses = ("192.0.2.1",)
    assert not received.has_same_machines(config)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (PLAIN, "environment lab, hosts without a cluster: 1 hosts are requested, but there are only 0"),
        (TWO, "has 1 clusters, but 2 are requested"),
        ({"hardware": {"template": "hq-ha"}}, "cluster main, masters: 3 hosts are requested, but there are only 1"),
    ],
)  # fmt: skip
def test_an_environment_that_is_too_small_is_refused(
    made: Callable[..., Path], arguments: dict[str, Any], message: str
) -> None:
    made("lab", "master-2pipe")
    with pytest.raises(AllocationFailed, match=message):
        existing("lab", demand_parse.parse(arguments))


def test_a_missing_environment_is_refused() -> None:
    with pytest.raises(AllocationFailed, match="has no nodes yet"):
        existing("nowhere", demand_parse.parse(PLAIN))


# --- files ------------------------------------------------------------------------------------------------------------


def written(folder: Path, text: str, name: str = "hardware.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


MACHINES = """
hosts:
  host1: {ip: 192.0.2.1, user: admin, password: hunter22}
  z: {ip: 192.0.2.3, key_file_path: ~/.ssh/key, port: 2222, rack: 7}
  y: {ssh_config: true, addresses: ["2001:db8::2"], pem_key_string: "-----BEGIN", host_keys: accept-new, vm_id: vm-1}
clusters:
  any: {kubeconfig: /etc/some/kubeconfig}
"""


def test_hosts_are_matched_to_the_machines_of_a_file(tmp_path: Path) -> None:
    private = tmp_path / "private"
    machines = read_file(written(tmp_path, MACHINES))
    config = machines.allocation(demand_parse.parse(PLAIN, remote=True), private)
    first, second, third = config.hosts.values()
    assert [first.node, second.node, third.node] == ["host1", "y", "z"]
    assert [Path(first.password_file).read_text(), Path(second.key_file_path).read_text()] == [
        "hunter22\n",
        "-----BEGIN\n",
    ]
    for path in (first.password_file, second.key_file_path):
        assert Path(path).stat().st_mode & 0o777 == 0o600
    assert [host.ssh_options[:2] == ("-F", "none") for host in (first, second, third)] == [True, False, True]
    assert "StrictHostKeyChecking=yes" in first.ssh_options
    assert "StrictHostKeyChecking=accept-new" in second.ssh_options
    assert (third.port, third.extra_config, second.vm_id) == (2222, {"rack": 7}, "vm-1")
    assert config.clusters.cluster1.kubeconfig == Path("/etc/some/kubeconfig")
    assert machines.has_clusters(demand_parse.parse(PLAIN))


def test_machines_of_a_file_become_existing_hosts_of_a_profile(tmp_path: Path) -> None:
    text = "hosts: {host1: {ip: 192.0.2.1, key_file_path: /k, user: admin}, a: {ip: 192.0.2.2}, b: {ip: 192.0.2.3}}"
    machines = read_file(written(tmp_path, text))
    allocator = Devenv(hosts=machines.for_profile())
    document = allocator.document(demand_parse.parse(PLAIN))
    assert document["provider"] == "existing"
    assert document["nodes"]["master-0"]["host"] == {
        "addresses": ["192.0.2.1"], "user": "admin", "become": True, "key_file": "/k",
    }  # fmt: skip
    assert document["nodes"]["worker-1"]["host"]["addresses"] == ["192.0.2.3"]
    with pytest.raises(AllocationFailed, match=r"hosts.host1: --install needs a key_file_path"):
        read_file(written(tmp_path, MACHINES)).for_profile()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hosts: {a: {password: hunter22", "is neither YAML nor JSON"),
        ("[]", "must have hosts by name"),
        ("hosts: {a: {}}\nmore: 1", "must have hosts by name"),
        ("hosts: {a: {user: x}}", "hosts.a: ip is missing"),
        ("hosts: {a: {ip: x, password: hunter22, key_file_path: /k}}", "password, key_file_path: use only one of them"),
        ("hosts: {a: {ip: x}}\nclusters: {c: {kubeconfigs: x}}", "clusters.c: must be a mapping of hosts, kubeconfig"),
    ],
)
def test_an_invalid_file_is_refused_without_its_secrets(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(AllocationFailed, match=message) as caught:
        read_file(written(tmp_path, text))
    assert "hunter22" not in str(caught.value)


# --- leases -----------------------------------------------------------------------------------------------------------


class Record:
    """Environments that exist, and the events in their order."""

    def __init__(self) -> None:
        self.up: set[str] = set()
        self.lines: list[str] = []

    def leases(self, policy: leases.Policy | None = None, **limits: Any) -> leases.Leases:
        return leases.Leases(policy or leases.Policy(), self.up.__contains__, self.down, **limits)

    def enter(self, store: leases.Leases, name: str) -> bool:
        def make() -> None:
            self.lines.append(f"up {name}")
            self.up.add(name)

        return store.enter(name, 1, make, self.lines.append)

    def down(self, name: str) -> None:
        self.lines.append(f"down {name}")
        self.up.discard(name)


def test_the_last_user_removes_the_environment() -> None:
    record = Record()
    store = record.leases()
    assert not record.enter(store, "a")
    assert record.enter(store, "a")
    parent = processes.read_process(os.getppid())
    assert parent is not None
    other = leases.Process(parent.pid, parent.start)
    lease = store.read("a")
    store.write("a", leases.replace(lease, users=(*lease.users, other)))
    assert not store.leave("a")
    assert store.leave("a", other)
    assert record.lines == ["up a", "down a"]
    assert store.names() == []


def test_a_dead_user_does_not_count() -> None:
    record = Record()
    store = record.leases()
    record.enter(store, "a")
    child = subprocess.Popen([sys.executable, "-c", ""])
    dead = leases.Process(child.pid, 1)
    child.wait()
    store.write("a", leases.replace(store.read("a"), users=(leases.this_process(), dead), busy=(dead,)))
    assert store.leave("a")


def test_an_environment_that_vanished_is_recreated() -> None:
    record = Record()
    store = record.leases()
    record.enter(store, "a")
    record.up.clear()
    record.enter(store, "a")
    assert record.lines == ["up a", "up a"]


def test_an_idle_environment_is_removed_to_make_room() -> None:
    record = Record()
    store = record.leases(most=1)
    record.enter(store, "a")
    store.idle("a")
    record.enter(store, "b")
    assert record.lines == ["up a", "down a", "up b"]
    # Its user returns, and the environment is recreated.
    store.idle("b")
    assert not record.enter(store, "a")


def test_a_busy_environment_is_not_removed_to_make_room() -> None:
    record = Record()
    store = record.leases(most=1, patience=0.1)
    record.enter(store, "a")
    with pytest.raises(AllocationFailed, match=r"no room for another environment after 0\.1 s; there are a"):
        record.enter(store, "b")
    assert record.lines[0] == "up a"
    assert record.up == {"a"}


def test_a_kept_failed_environment_is_not_removed_to_make_room() -> None:
    record = Record()
    store = record.leases(leases.Policy(keep=True), most=1)
    record.enter(store, "a")
    store.idle("a", failed=True)
    assert not store.leave("a")
    record.enter(store, "b")
    assert record.up == {"a", "b"}


def test_an_incomplete_environment_is_removed() -> None:
    record = Record()
    store = record.leases()

    def fail() -> None:
        record.up.add("a")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        store.enter("a", 1, fail, record.lines.append)
    store.leave("a")
    assert record.lines == ["down a"]


def test_an_unreadable_lease_counts_as_none() -> None:
    store = Record().leases()
    store.write("a", leases.Lease("up"))
    (paths.home() / "testing" / "a" / "lease.json").write_text("{")
    assert store.read("a") == leases.Lease()


# --- plugins ----------------------------------------------------------------------------------------------------------


def host(**keys: Any) -> objects.Host:
    return objects.Host("host1", "master-0", ("192.0.2.1",), **keys)


class _Plugin:
    created: ClassVar[list[objects.Host]] = []

    def __init__(self, owner: objects.Host) -> None:
        self.created.append(owner)
        self.closed = False

    def close(self) -> None:
        self.closed = True


def test_a_plugin_is_created_on_first_use_kept_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.HOST, "_registered", {})
    registry.register_host_plugin("Mine", _Plugin)
    owner = host()
    assert _Plugin.created == []
    plugin = owner.Mine
    assert owner.Mine is plugin
    assert _Plugin.created == [owner]
    owner.clear_plugins()
    assert plugin.closed
    assert owner.Mine is not plugin


def test_an_unknown_plugin_is_an_error_with_the_known_ones() -> None:
    for name in ("Toaster", "toaster"):
        with pytest.raises(PluginUnknown, match=f"Host has no attribute or plugin '{name}'; its plugins: .*SshDirect"):
            getattr(host(), name)
    assert not hasattr(host(), "toaster")
    with pytest.raises(ValueError, match="begins with a capital letter"):
        registry.register_cluster_plugin("toaster", _Plugin)


def test_all_built_in_plugins_can_be_imported() -> None:
    for plugins in (registry.HOST, registry.CLUSTER):
        assert all(callable(plugins.get(name)) for name in plugins.names())


def test_a_role_needs_an_environment() -> None:
    with pytest.raises(NotAvailable, match="do not belong to one devenv environment"):
        catalogue.run_role("a.b.c", [host()], {})
    (play,) = catalogue.playbook("a.b.c", ["master-0"], {"x": 1})
    assert yaml.safe_load(yaml.safe_dump(play))["tasks"][0]["ansible.builtin.include_role"] == {"name": "a.b.c"}


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return SshDirect of a host whose ssh runs the command locally and writes its arguments to a file."""
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" >> {tmp_path}/argv\n'
        f'[ -z "$SSH_ASKPASS" ] || "$SSH_ASKPASS" > {tmp_path}/password\n'
        'for last; do :; done\nexec sh -c "$last"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return host(user="admin", ssh_options=("-o", "ControlPath=/x")).SshDirect


def test_execute_returns_stdout_or_raises(ssh: Any) -> None:
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


def test_a_command_that_takes_too_long_is_stopped(ssh: Any) -> None:
    begin = time.monotonic()
    with pytest.raises(CommandTimeout, match=r"'sleep 4711' did not end within 0.5 s"):
        ssh.execute("sleep 4711", timeout=0.5)
    assert time.monotonic() - begin < 15
    assert _running("sleep 4711") == []
    # If the command itself exits with 124, this is not a timeout.
    assert ssh.run("exit 124").code == 124


def test_an_ssh_that_hangs_is_killed(ssh: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from devenv.testing.plugins import ssh as module

    monkeypatch.setattr(module, "GRACE", 0.2)
    (tmp_path / "bin" / "ssh").write_text("#!/bin/sh\nexec sleep 4712\n")
    with pytest.raises(CommandTimeout):
        ssh.execute("true", timeout=0.2)
    assert _running("sleep 4712") == []


def test_a_background_command_can_be_awaited_and_stopped(ssh: Any) -> None:
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


def test_a_background_command_is_stopped_at_its_deadline_though_it_prints_output(ssh: Any) -> None:
    job = ssh.background("while :; do echo x; sleep 0.05; done", deadline=0.5)
    with pytest.raises(CommandTimeout):
        job.wait()
    assert not job.is_running()


def test_commands_run_in_parallel_and_all_errors_are_reported(ssh: Any) -> None:
    assert ssh.run_parallel(["echo a", ["echo", "b"]]) == ["a\n", "b\n"]
    with pytest.raises(CommandFailed):
        ssh.run_parallel(["exit 1", "true"])
    with pytest.raises(SeveralFailed, match=r"ended with 1.*ended with 2"):
        ssh.run_parallel(["exit 1", "exit 2"])


def test_a_password_never_appears_on_a_command_line(ssh: Any, tmp_path: Path) -> None:
    text = "hosts: {host1: {ip: 192.0.2.1, password: hunter22}}"
    machines = read_file(written(tmp_path, text))
    config = machines.allocation(demand_parse.parse({"hardware": {"host1": {}}}), tmp_path / "private")
    assert config.hosts.host1.SshDirect.execute("echo a") == "a\n"
    assert (tmp_path / "password").read_text() == "hunter22\n"
    assert "hunter22" not in (tmp_path / "argv").read_text()
    assert "StrictHostKeyChecking=yes" in (tmp_path / "argv").read_text()


def _running(command: str) -> list[str]:
    pids = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().replace(b"\0", b" ").decode().strip() == command:
                pids.append(path.parent.name)
        except OSError:
            continue
    return pids


def test_machines_of_a_file_do_not_belong_to_an_environment(tmp_path: Path) -> None:
    machines = read_file(written(tmp_path, "hosts: {a: {ip: 192.0.2.1}}"))
    config = machines.allocation(demand_parse.parse({"hardware": {"a": {}}}), tmp_path)
    with pytest.raises(NotAvailable, match="do not belong to a devenv environment"):
        config.environment  # noqa: B018  # the access itself
    with pytest.raises(NotAvailable, match="cannot switch the power of a machine that devenv did not create"):
        config.hosts.a.Power.on()


@pytest.mark.parametrize(
    ("given", "engine", "limit"),
    [
        (None, "kubeadm", 1800),
        (None, "", 1800),
        (None, "gravity", 9000),
        (60.0, "gravity", 60.0),
        (0.0, "kubeadm", None),
    ],
)
def test_the_time_limit_of_an_environment_is_that_of_its_engine(
    given: float | None, engine: str, limit: float | None
) -> None:
    """The installation script of Gravity alone takes up to 5400 s."""
    assert manager.up_limit(given, engine) == limit
