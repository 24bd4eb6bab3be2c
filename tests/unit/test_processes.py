"""Processes of a killed run are identified by their marker and stopped; others are not."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.module_utils.node import processes

RUN = f"unit-test-{os.getpid()}"


@pytest.fixture
def old() -> Iterator[subprocess.Popen[bytes]]:
    """A process of another run, with a child."""
    child = subprocess.Popen(
        ["sh", "-c", "sleep 60 & wait"], env={**os.environ, processes.MARKER: RUN}, start_new_session=True
    )
    deadline = time.monotonic() + 30
    while not processes.run_of(child.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    yield child
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, 9)
    child.wait()


def mine(run_id: str) -> list[dict[str, object]]:
    return [process for process in processes.leftovers(run_id) if process["run"] == RUN]


def test_processes_of_another_run_are_stopped_with_their_children(old: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    # The child is a second sh until it executes sleep.
    while {entry["command"] for entry in mine("other")} != {"sh", "sleep"} and time.monotonic() < deadline:
        time.sleep(0.01)
    leftovers = mine("other")
    assert {entry["command"] for entry in leftovers} == {"sh", "sleep"}
    assert processes.end(leftovers) == []
    assert all(processes.gone(int(str(entry["pid"]))) for entry in leftovers)
    assert old.wait(30) == -9


def test_processes_of_this_run_stay(old: subprocess.Popen[bytes]) -> None:
    assert mine(RUN) == []
    assert old.poll() is None


def test_a_process_and_its_ancestors_are_not_leftovers() -> None:
    """The module itself has an old marker, as if it were called in a marked shell."""
    code = (
        "import os\n"
        "from ansible_collections.devenv.lab.plugins.module_utils.node import processes\n"
        f"print([f['pid'] for f in processes.leftovers('other') if f['run'] == {RUN + 'b'!r}] == [])\n"
    )
    path = str(Path(__file__).resolve().parents[2] / "collections")
    env = {**os.environ, processes.MARKER: RUN + "b", "PYTHONPATH": path}
    result = subprocess.run(
        ["sh", "-c", f'{sys.executable} -c "$CODE"; true'], env={**env, "CODE": code}, capture_output=True, text=True
    )
    assert result.stdout.strip() == "True", result.stderr


@pytest.mark.parametrize(
    ("text", "service"),
    [
        ("0::/system.slice/ssh.service\n", False),
        ("0::/user.slice/user-0.slice/session-3.scope\n", False),
        ("0::/system.slice/kubelet.service\n", True),
        ("0::/user.slice/user-0.slice/user@0.service/app.slice/x.service\n", True),
        ("0::/system.slice/sshd@1-a.service\n", False),
        ("4:memory:/kubepods/burstable/pod1/c1\n1:name=systemd:/kubepods/pod1\n", True),
        ("1:name=systemd:/libpod_parent/libpod-1/system.slice/containerd.service\n0::/\n", True),
        ("1:name=systemd:/libpod_parent/libpod-1/system.slice/ssh.service\n4:memory:/x/kubelet.service\n", False),
        ("", False),
    ],
)
def test_services_and_pods_are_distinguished_from_logins(text: str, service: bool) -> None:
    assert processes.of_a_service(text) is service


def test_ancestors_end_at_the_first_process() -> None:
    assert {os.getpid(), os.getppid()} <= processes.ancestors(os.getpid())
    assert processes.ancestors(0) == set()


def test_a_process_that_has_ended_is_ignored() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert processes.end([{"pid": child.pid, "run": "r", "command": "true"}]) == []


def test_running_programs_are_matched_by_file_name(tmp_path: Path) -> None:
    for pid, line in (("7", b"/usr/local/bin/etcd\0--name=x\0"), ("8", b"sh\0-c\0etcd\0"), ("9", b"")):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "cmdline").write_bytes(line)
    (tmp_path / "self").mkdir()
    assert processes.running(["etcd", "kube-scheduler"], str(tmp_path)) == {"etcd": [7], "kube-scheduler": []}
