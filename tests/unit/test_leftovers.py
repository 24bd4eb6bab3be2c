"""Processes of a run, with real processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core import processes
from ansible_collections.devenv.lab.plugins.plugin_utils.core.processes import Process
from support.waits import until

Spawn = Callable[..., subprocess.Popen[bytes]]
RUN = f"test{os.getpid()}"
# Ignores SIGTERM, creates the file READY only then, and sleeps.
DEAF = (
    "import pathlib, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    " pathlib.Path('READY').touch(); time.sleep(60)"
)


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Start a program with a marker; whatever lives at the test's end is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*argv: str, run: str | None = RUN) -> subprocess.Popen[bytes]:
        env = {key: value for key, value in os.environ.items() if key != "DEVENV_RUN"}
        child = subprocess.Popen(argv, env={**env, "DEVENV_RUN": run} if run else env, start_new_session=True)
        started.append(child)
        return child

    yield start
    for child in started:
        if child.poll() is None:
            child.kill()
        child.wait()


def stat(folder: Path, pid: int, text: str) -> None:
    (folder / str(pid)).mkdir()
    (folder / str(pid) / "stat").write_text(text)


def test_read_process_takes_a_name_with_blanks_and_parentheses(tmp_path: Path) -> None:
    stat(tmp_path, 7, "7 (a (b) c) S 3 7 5 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 1 2 3\n")
    assert processes.read_process(7, tmp_path) == Process(7, 4711, 3, 5, "S", "a (b) c")
    assert processes.read_process(8, tmp_path) is None


def test_a_process_is_alive_only_with_its_start_and_not_as_a_zombie(spawn: Spawn) -> None:
    child = spawn("sleep", "60")
    process = processes.read_process(child.pid)
    assert process is not None
    assert processes.alive(child.pid, process.start)
    assert not processes.alive(child.pid, process.start + 1)
    child.kill()
    until(lambda: (process := processes.read_process(child.pid)) is not None and process.state == "Z")
    assert not processes.alive(child.pid, process.start)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (b"A=1\0DEVENV_RUN=abc\0", True),
        (b"DEVENV_RUN=abc", True),
        (b"DEVENV_RUN=abcd\0", False),
        (b"DEVENV_RUN=ab\0", False),
        (b"XDEVENV_RUN=abc\0", False),
        (b"A=DEVENV_RUN=abc\0", False),
        (b"", False),
    ],
)
def test_only_the_whole_marker_matches(environ: bytes, expected: bool) -> None:
    assert processes.has_marker(environ, "abc") is expected


def test_ancestors_and_descendants_follow_parents_and_spare_processes() -> None:
    table = {pid: Process(pid, pid, parent, pid, "S", "x") for pid, parent in [(1, 0), (2, 1), (3, 2), (4, 3), (5, 2)]}
    assert processes.ancestors(4, table) == {4, 3, 2, 1}
    assert processes.descendants([2], table) == {2, 3, 4, 5}
    assert processes.descendants([2], table, spared={3}) == {2, 5}
    assert processes.descendants([99], table) == set()


def test_end_run_ends_marked_processes_with_what_is_below_and_nothing_else(spawn: Spawn) -> None:
    marked = spawn("sh", "-c", "env -u DEVENV_RUN sleep 61 & sleep 62")
    other = spawn("sleep", "63", run=f"{RUN}0")
    bare = spawn("sleep", "64", run=None)
    until(lambda: len(processes.of_run(RUN)) == 3)
    below = processes.of_run(RUN)
    assert processes.end_run(RUN) == []
    marked.wait(timeout=30)
    assert not any(processes.alive(process.pid, process.start) for process in below)
    assert (other.poll(), bare.poll()) == (None, None)


def test_end_run_kills_processes_that_ignore_sigterm(spawn: Spawn, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    deaf = spawn(sys.executable, "-c", DEAF.replace("READY", str(ready)))
    until(ready.exists)
    began = time.monotonic()
    assert processes.end_run(RUN, grace=0.3) == []
    assert deaf.wait() == -signal.SIGKILL
    assert time.monotonic() - began < 15


def test_end_run_remembers_a_child_that_ignores_sigterm_after_its_parent_ended(spawn: Spawn, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    deaf = DEAF.replace("READY", str(ready)).replace("'", '"')
    spawn("sh", "-c", f"env -u DEVENV_RUN {sys.executable} -c '{deaf}' & wait")
    until(ready.exists)
    child = processes.of_run(RUN)[1]
    assert processes.end_run(RUN, grace=0.5) == []
    assert not processes.alive(child.pid, child.start)


def test_end_run_leaves_monitors_of_containers(spawn: Spawn, tmp_path: Path) -> None:
    shutil.copy("/bin/sleep", tmp_path / "conmon")
    monitor = spawn(str(tmp_path / "conmon"), "60")
    until(lambda: (process := processes.read_process(monitor.pid)) is not None and process.name == "conmon")
    assert processes.end_run(RUN) == []
    assert monitor.poll() is None


def test_neither_this_process_nor_its_parents_nor_the_protected_are_found(spawn: Spawn) -> None:
    script = (
        "import os, sys; sys.path.insert(0, 'collections');"
        "from ansible_collections.devenv.lab.plugins.plugin_utils.core import processes;"
        f"print(processes.end_run({RUN!r}))"
    )
    env = {**os.environ, "DEVENV_RUN": RUN}
    done = subprocess.run(
        ["sh", "-c", f'{sys.executable} -c "{script}"; echo on'], env=env, capture_output=True, text=True
    )
    assert done.stdout == "[]\non\n", done.stderr
    child = spawn("sh", "-c", "sleep 60 & wait")
    until(lambda: len(processes.of_run(RUN)) == 2)
    assert processes.of_run(RUN, protect=[child.pid]) == []


# A parent that forks workers as Ansible does: detached, same memory image, a shared pipe, no marker in the initial
# environment.
FORKER = """
import os, sys, time
reader, writer = os.pipe()
for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        os.setsid()
        time.sleep(60)
        os._exit(0)
time.sleep(60)
"""


def test_orphaned_workers_are_recognised_by_image_and_pipe(spawn: Spawn) -> None:
    main = spawn(sys.executable, "-c", FORKER, "2", run=None)
    # The same command again in the same environment; it differs only in its pipes.
    twin = spawn(sys.executable, "-c", FORKER, "2", run=None)
    until(lambda: len(children(main.pid)) == 2 and len(children(twin.pid)) == 2)
    origin = processes.origin(main.pid)
    assert origin is not None
    assert origin.pipes
    workers, strangers = children(main.pid), children(twin.pid)
    main.kill()
    main.wait()
    try:
        assert {process.pid for process in processes.of_run("", origin)} == workers
        assert processes.end_run("", origin) == []
        assert twin.poll() is None
        assert all(working(pid) for pid in strangers)
    finally:
        for pid in workers | strangers:
            if working(pid):
                os.kill(pid, signal.SIGKILL)


def test_a_living_main_is_ended_with_its_workers(spawn: Spawn) -> None:
    main = spawn(sys.executable, "-c", FORKER, "1", run=None)
    until(lambda: len(children(main.pid)) == 1)
    workers = children(main.pid)
    assert processes.end_run("", processes.origin(main.pid), grace=0.5) == []
    main.wait(timeout=30)
    assert not any(working(pid) for pid in workers)


def working(pid: int) -> bool:
    process = processes.read_process(pid)
    return process is not None and process.state != "Z"


def children(pid: int) -> set[int]:
    """Return the children that lead a session and thus have started completely."""
    return {p.pid for p in processes.all_processes().values() if p.parent == pid and p.session == p.pid}


def test_ssh_masters_of_a_folder_are_ended(spawn: Spawn, tmp_path: Path) -> None:
    # OpenSSH's master replaces its command line by this title.
    ours = spawn("bash", "-c", f"exec -a 'ssh: {tmp_path}/cp/0123 [mux]' {link(tmp_path)} 60")
    others = spawn("bash", "-c", f"exec -a 'ssh: {tmp_path}/cp2/0123 [mux]' {link(tmp_path)} 60")
    until(
        lambda: (
            processes.command_line(ours.pid).startswith("ssh: ")
            and processes.command_line(others.pid).startswith("ssh: ")
        )
    )
    assert processes.end_ssh_masters(tmp_path / "cp") == []
    assert ours.wait(timeout=30) == -signal.SIGTERM
    assert others.poll() is None


def link(folder: Path) -> Path:
    target = folder / "ssh"
    if not target.exists():
        shutil.copy("/bin/sleep", target)
    return target
