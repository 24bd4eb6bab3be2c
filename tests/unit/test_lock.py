"""The lock of an environment, with real processes as holders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core import processes
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import lock
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.lock import Holder

Sleeper = Callable[[], subprocess.Popen[bytes]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "environments" / "aio"


@pytest.fixture
def sleeper() -> Iterator[Sleeper]:
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(["sleep", "60"], start_new_session=True))
        return started[-1]

    yield start
    for child in started:
        child.kill()
        child.wait()


def holder(pid: int, run_id: str = "r1", owner: str = "") -> Holder:
    return lock.holder_of(pid, run_id, "devenv up --profile aio", owner)


def start_of(pid: int) -> int:
    process = processes.read_process(pid)
    assert process is not None
    return process.start


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(DevenvError) as caught:
        call()
    return caught.value.reason.id


def test_acquire_is_private_and_reentrant_and_release_is_for_the_holder_alone(folder: Path, sleeper: Sleeper) -> None:
    me, other = holder(os.getpid()), holder(sleeper().pid)
    assert lock.acquire(folder, me) is True
    assert lock.acquire(folder, me) is False
    assert lock.read(folder) == me
    assert (folder / "lock").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert lock.release(folder, other) is False
    assert lock.release(folder, me) is True
    assert lock.release(folder, me) is False
    assert lock.read(folder) is None


def test_busy_names_process_command_and_time(folder: Path, sleeper: Sleeper) -> None:
    other = holder(sleeper().pid)
    lock.acquire(folder, other)
    with pytest.raises(DevenvError) as caught:
        lock.acquire(folder, holder(os.getpid()))
    assert caught.value.exit_code == 10
    for part in (str(other.pid), other.command, other.since, "aio"):
        assert part in str(caught.value)
    assert reason(lambda: lock.check(folder)) == "environment_busy"


def test_neither_a_dead_holder_nor_a_reused_pid_holds_the_lock(folder: Path, sleeper: Sleeper) -> None:
    dead = sleeper()
    gone = holder(dead.pid)
    dead.kill()
    dead.wait()
    reused = replace(holder(sleeper().pid), start=1)
    for stale in (gone, reused):
        lock.acquire(folder, stale)
        lock.check(folder)
        assert lock.acquire(folder, holder(os.getpid(), "r2")) is True
        lock.release(folder, holder(os.getpid()))
    assert processes.alive(reused.pid, start_of(reused.pid)), "a stranger with the same pid was ended"


def test_a_lock_of_another_boot_is_stale_and_ends_nothing(folder: Path, sleeper: Sleeper) -> None:
    child = sleeper()
    lock.acquire(folder, replace(holder(child.pid), boot="another"))
    assert lock.acquire(folder, holder(os.getpid())) is True
    assert child.poll() is None


def test_a_run_whose_command_was_killed_is_ended(folder: Path, sleeper: Sleeper) -> None:
    owner, main = sleeper(), sleeper()
    orphan = holder(main.pid, owner=f"{owner.pid}:{start_of(owner.pid)}")
    lock.acquire(folder, orphan)
    assert reason(lambda: lock.acquire(folder, holder(os.getpid()))) == "environment_busy"
    owner.kill()
    owner.wait()
    messages: list[str] = []
    # Not this process, because descendants of the new holder are never stopped, and the test started all processes.
    assert lock.acquire(folder, holder(sleeper().pid), progress=messages.append) is True
    assert main.wait(timeout=30) != 0
    assert str(main.pid) in messages[0]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"pid": 1}', "\x00"])
def test_a_truncated_lock_has_no_holder(folder: Path, text: str) -> None:
    folder.mkdir(parents=True)
    (folder / "lock").write_text(text)
    assert lock.acquire(folder, holder(os.getpid())) is True


@pytest.mark.parametrize(
    ("text", "owner"), [("12:34", (12, 34)), ("", (0, 0)), ("12", (0, 0)), ("a:b", (0, 0)), ("-1:2", (0, 0))]
)
def test_an_invalid_owner_variable_means_no_owner(text: str, owner: tuple[int, int]) -> None:
    assert lock.parse_owner(text) == owner


def test_a_holder_that_has_ended_is_refused(sleeper: Sleeper) -> None:
    child = sleeper()
    child.kill()
    child.wait()
    assert reason(lambda: holder(child.pid)) == "run_ended"


TAKER = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import lock
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
me = lock.holder_of(os.getpid(), "t" + str(os.getpid()), "taker")
print("ready", flush=True)
sys.stdin.readline()
try:
    print("got" if lock.acquire(Path(sys.argv[2]), me) else "had", flush=True)
except DevenvError as error:
    print(error.reason.id, flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("stale", [False, True], ids=["free", "stale"])
def test_of_many_runs_at_once_one_gets_the_lock(folder: Path, sleeper: Sleeper, stale: bool) -> None:
    if stale:
        dead = sleeper()
        lock.acquire(folder, holder(dead.pid))
        dead.kill()
        dead.wait()
    argv = [sys.executable, "-c", TAKER, str(Path(__file__).parents[2] / "collections"), str(folder)]
    takers = [subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    try:
        for taker in takers:
            assert taker.stdout is not None
            assert taker.stdout.readline() == "ready\n"
        for taker in takers:
            assert taker.stdin is not None
            taker.stdin.write("go\n")
            taker.stdin.flush()
        results = sorted(taker.stdout.readline().strip() for taker in takers if taker.stdout)
    finally:
        for taker in takers:
            taker.communicate("end\n", timeout=10)
    assert results == ["environment_busy"] * 3 + ["got"]


def test_the_file_has_exactly_the_documented_keys(folder: Path) -> None:
    lock.acquire(folder, holder(os.getpid()))
    assert set(json.loads((folder / "lock").read_text())) == {
        "pid", "start", "boot", "image", "pipes", "command", "owner_pid", "owner_start", "run_id", "since",
    }  # fmt: skip


def test_an_unwritable_home_is_reported(tmp_path: Path) -> None:
    (tmp_path / "environments").write_text("a file")
    assert reason(lambda: lock.acquire(tmp_path / "environments" / "aio", holder(os.getpid()))) == "state_unwritable"
