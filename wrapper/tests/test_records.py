"""Whatever happens to the terminal, stdout and the working directory, a run leaves one complete record, and the command
one line that states what is wrong.
"""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import lock, runs
from support.plays import PREFLIGHT
from support.sleepers import sleepers
from support.waits import until

Made = Callable[..., Path]

PLAYS = f"""{PREFLIGHT}\
- name: prepare | Work long
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Work
      ansible.builtin.command:
        argv: [sleep, "SECONDS"]
"""

# The command `stop` with this test's playbook in place of its own.
DRIVER = """
import sys
from devenv import cli
from devenv.runs import runner
runner.playbook_path = lambda name: {path!r}
sys.argv[1:] = {words!r}
sys.exit(cli.main())
"""


@pytest.fixture
def folder(made: Made) -> Path:
    return made("lab")


# pytest itself may run under nohup.
HANGUP = ["/usr/bin/env", "--default-signal=HUP"]


def _driver(tmp_path: Path, seconds: str, *words: str) -> list[str]:
    path = tmp_path / "plays.yml"
    path.write_text("---" + PLAYS.replace("SECONDS", seconds))
    return [sys.executable, "-c", textwrap.dedent(DRIVER).format(path=str(path), words=["stop", "-n", "lab", *words])]


def _documents(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return summary and failure of the only run, after checking that its record is complete and the lock free."""
    (place,) = runs.folders(folder)
    assert lock.read(folder) is None
    assert {"summary.json", "junit.xml", "events.jsonl", "log.txt"} <= {entry.name for entry in place.iterdir()}
    summary = json.loads((place / "summary.json").read_text())
    failure = place / "failure.json"
    return summary, json.loads(failure.read_text()) if failure.exists() else {}


def _stage_results(folder: Path) -> list[tuple[str, str]]:
    return [(line["stage"], line["result"]) for line in runs.ledger(folder) if line["result"] != "begun"]


@pytest.mark.parametrize(("number", "times"), [(signal.SIGINT, 2), (signal.SIGTERM, 2), (signal.SIGHUP, 1)])
def test_an_interrupted_run_has_a_complete_record(
    folder: Path, tmp_path: Path, marker: str, number: signal.Signals, times: int
) -> None:
    child = subprocess.Popen([*HANGUP, *_driver(tmp_path, marker)], stderr=subprocess.PIPE, text=True)
    until(lambda: sleepers(marker))
    for _ in range(times):
        child.send_signal(number)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 128 + number, err
    summary, failure = _documents(folder)
    assert [stage["result"] for stage in summary["stages"]] == ["done", "interrupted"]
    assert (failure["stage"], failure["exit"] >= 129) == ("prepare", True)
    assert _stage_results(folder)[-1] == ("prepare", "interrupted")
    assert sleepers(marker) == []


def test_a_run_whose_terminal_is_closed_has_a_complete_record(folder: Path, tmp_path: Path, marker: str) -> None:
    command = [*HANGUP, *_driver(tmp_path, marker)]
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm"
        os.execv(command[0], command)
    until(lambda: sleepers(marker))
    os.close(terminal)  # the kernel sends SIGHUP, and writing fails from now on
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    _, failure = _documents(folder)
    assert failure["stage"] == "prepare"
    assert sleepers(marker) == []


def test_nohup_protects_a_run(folder: Path, tmp_path: Path, marker: str) -> None:
    child = subprocess.Popen(["nohup", *_driver(tmp_path, "3")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: sleepers("3"))
    child.send_signal(signal.SIGHUP)
    assert child.wait(timeout=60) == 0
    assert _documents(folder)[1] == {}


def test_a_run_whose_ansible_is_killed_has_a_complete_record(folder: Path, tmp_path: Path, marker: str) -> None:
    child = subprocess.Popen(_driver(tmp_path, marker), stderr=subprocess.PIPE, text=True)
    until(lambda: sleepers(marker))
    holder = lock.read(folder)
    assert holder is not None
    os.kill(holder.pid, signal.SIGKILL)
    _, err = child.communicate(timeout=60)
    assert (child.returncode, "error: ansible-playbook was killed" in err) == (1, True), err
    summary, failure = _documents(folder)
    assert (summary["exit"], failure["reason"], failure["stage"]) == (1, "unexpected", "prepare")


FULL = "exec {}>/dev/full; "
CLOSED = "exec 0<&- 1>&- 2>&-; "


@pytest.mark.parametrize(
    ("prefix", "words"),
    [(FULL.format(1), ()), (FULL.format(1), ("--json",)), (FULL.format(2), ("--verbose",)), (CLOSED, ())],
)
def test_broken_streams_do_not_stop_a_run(folder: Path, tmp_path: Path, prefix: str, words: tuple[str, ...]) -> None:
    command = ["sh", "-c", f'{prefix}exec "$@"', "sh", *_driver(tmp_path, "0", *words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    full = prefix == FULL.format(1)
    assert done.returncode == (1 if full else 0), done.stderr
    assert ("cannot write to stdout: No space left on device [output_failed]" in done.stderr) == full
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    summary, failure = _documents(folder)
    assert (summary["exit"], failure) == (0, {})


@pytest.mark.parametrize("words", [["list"], ["status"], ["inventory"], ["profile", "list"]])
def test_data_that_cannot_be_written_is_an_error_of_one_line(folder: Path, words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "devenv", *words]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "error: cannot write to stdout: No space left on device [output_failed]"
    assert len(done.stderr.splitlines()) == 2


def _in_removed_directory(tmp_path: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    script = 'mkdir "$0" && cd "$0" && rmdir "$0" && exec "$@"'
    words = ["sh", "-c", script, str(tmp_path / "removed"), *command]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def test_a_run_works_in_a_removed_directory(folder: Path, tmp_path: Path) -> None:
    done = _in_removed_directory(tmp_path, _driver(tmp_path, "0"))
    assert done.returncode == 0, done.stderr
    assert _documents(folder)[0]["exit"] == 0


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["list"], 0, "lab"),
        (["status"], 16, "lab"),
        (["up", "--profile", "./mine.yml"], 2, "no such file (/mine.yml)"),
        (["gather"], 2, "error: the working directory was removed"),
        (["down", "-n", "other"], 0, "environment other does not exist"),
    ],
)
def test_commands_work_in_a_removed_directory(
    folder: Path, tmp_path: Path, words: list[str], code: int, text: str
) -> None:
    done = _in_removed_directory(tmp_path, [sys.executable, "-m", "devenv", *words])
    assert done.returncode == code, done.stderr
    assert text in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_the_python_api_works_in_a_removed_directory(folder: Path, tmp_path: Path) -> None:
    code = """
    from devenv import Environment
    from devenv.runs import runner
    runner.playbook_path = lambda name: {path!r}
    Environment.open("lab").stop()
    """
    path = tmp_path / "plays.yml"
    path.write_text("---" + PLAYS.replace("SECONDS", "0"))
    done = _in_removed_directory(tmp_path, [sys.executable, "-c", textwrap.dedent(code).format(path=str(path))])
    assert done.returncode == 0, done.stderr
