"""The runner of programs: streams, timeouts, errors without secrets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
from ansible_collections.devenv.lab.plugins.module_utils.node import program as node_program
from ansible_collections.devenv.lab.plugins.plugin_utils.core import program
from ansible_collections.devenv.lab.plugins.plugin_utils.core.program import ProgramFailed, Result

# Starts a program in the background that holds the streams open, and prints its pid.
HELD = ["sh", "-c", "sleep 60 & echo $!; wait"]


def gone(pid: int) -> bool:
    """Wait up to 10 s for the end of a process; return whether it has ended."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            if "State:\tZ" in (Path("/proc") / str(pid) / "status").read_text():
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def test_both_streams_and_the_code() -> None:
    script = "echo out; echo err >&2; exit 3"
    assert program.run(["sh", "-c", script], check=False) == Result(3, "out\n", "err\n")
    assert program.run(["sh", "-c", script], check=False, merge_stderr=True) == Result(3, "out\nerr\n", "")
    with pytest.raises(ProgramFailed, match="sh ended with code 3: err") as caught:
        program.run(["sh", "-c", script])
    assert (caught.value.code, caught.value.last_line) == (3, "err")


def test_a_program_gets_variables_and_working_directory(tmp_path: Path) -> None:
    done = program.run(["sh", "-c", 'pwd; echo "$A $HOME"'], env={"A": "b"}, cwd=tmp_path)
    assert done.stdout.splitlines() == [str(tmp_path), f"b {os.environ['HOME']}"]


@pytest.mark.parametrize("run", [program.run, node_program.run])
def test_output_is_in_english_in_every_locale(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert run(["sh", "-c", "echo $LC_ALL"]).stdout == "C.UTF-8\n"


def test_stdin_takes_a_file_a_text_bytes_or_a_writer(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a file")
    with (tmp_path / "file").open("rb") as stream:
        assert program.run(["cat"], stdin=stream).stdout == "a file"
    big = "x" * (1 << 20)
    for given in (big, big.encode(), lambda pipe: pipe.write(big.encode())):
        assert program.run(["cat"], stdin=given).stdout == big
    assert program.run(["cat"]).stdout == ""


def test_a_program_that_does_not_read_its_input_reports_why() -> None:
    with pytest.raises(ProgramFailed, match="no such host"):
        program.run(["sh", "-c", "echo no such host >&2; exit 255"], stdin=b"x" * (1 << 20))


def test_output_is_read_while_the_program_runs(tmp_path: Path) -> None:
    seen: list[bytes] = []

    def read(pipe: IO[bytes]) -> None:
        seen.append(pipe.readline())
        (tmp_path / "go").touch()

    script = f"echo first; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; echo rest; echo err >&2"
    assert program.run(["sh", "-c", script], stdout=read, timeout=30) == Result(0, "", "err\n")
    assert seen == [b"first\n"]


def test_a_reader_that_has_enough_ends_the_program() -> None:
    began = time.monotonic()
    seen: list[int] = []

    def read(pipe: IO[bytes]) -> bool:
        seen.append(int(pipe.readline()))
        return True

    program.run(HELD, stdout=read, timeout=50)
    assert time.monotonic() - began < 30
    assert gone(seen[0])


@pytest.mark.parametrize("script", ["echo '{'; sleep 60", "echo '{'"])
def test_a_reader_that_fails_ends_the_program(script: str) -> None:
    with pytest.raises(ProgramFailed, match="JSONDecodeError") as caught:
        program.run(["sh", "-c", script], stdout=lambda pipe: json.loads(pipe.readline()), timeout=50)
    assert isinstance(caught.value.__cause__, ValueError)


def test_the_programs_error_takes_precedence_over_its_readers() -> None:
    with pytest.raises(ProgramFailed, match="no route to host") as caught:
        program.run(["sh", "-c", "echo no route to host >&2; exit 255"], stdout=lambda pipe: json.loads(pipe.read()))
    assert caught.value.last_line == "no route to host"


def test_a_writer_that_fails_ends_the_program(tmp_path: Path) -> None:
    with pytest.raises(ProgramFailed, match="No such file"):
        program.run(["sleep", "60"], stdin=lambda pipe: pipe.write((tmp_path / "none").read_bytes()), timeout=50)


def test_a_timeout_stops_the_whole_process_group() -> None:
    seen: list[int] = []

    def read(pipe: IO[bytes]) -> None:
        seen.append(int(pipe.readline()))
        pipe.read()

    began = time.monotonic()
    with pytest.raises(ProgramFailed, match="sh did not end in time") as caught:
        program.run(HELD, stdout=read, timeout=0.5, check=False)
    assert caught.value.code is None
    assert time.monotonic() - began < 30
    assert gone(seen[0])


CALLER = """
import sys
sys.path.insert(0, sys.argv[1])
from ansible_collections.devenv.lab.plugins.plugin_utils.core import program
def read(pipe):
    print(int(pipe.readline()), flush=True)
    pipe.read()
program.run(sys.argv[2:], stdout=read)
"""


def test_an_interrupted_caller_stops_the_whole_process_group() -> None:
    collections = Path(__file__).resolve().parents[2] / "collections"
    with subprocess.Popen(
        [sys.executable, "-c", CALLER, str(collections), *HELD],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as caller:
        assert caller.stdout is not None
        pid = int(caller.stdout.readline())
        caller.send_signal(signal.SIGINT)
        assert caller.wait(30) != 0
    assert gone(pid)


def test_errors_contain_no_secrets() -> None:
    with pytest.raises(ProgramFailed) as caught:
        program.run(["sh", "-c", "echo password=hunter22 token abcdef.0123456789abcdef >&2; exit 1"])
    for text in (str(caught.value), caught.value.stderr, caught.value.last_line):
        assert "hunter22" not in text
        assert "0123456789abcdef" not in text
        assert "redacted" in text


def test_an_unknown_program_raises_file_not_found() -> None:
    with pytest.raises(FileNotFoundError):
        program.run(["no-such-program"])
