"""`devenv shell`, on an environment without machines."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from devenv.testing.shell import execute

Made = Callable[..., Path]
IPYTHON = """
def start_ipython(argv, user_ns, display_banner):
    print(">>>", argv, user_ns["hosts"].master_0, display_banner)
"""
ARGV = (sys.executable, "-m", "devenv", "shell")


def shell(*words: str, script: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ARGV, *words], input=script or "", env={**os.environ, **env}, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip


def typed(keys: str, until: str, env: Mapping[str, str]) -> str:
    """Type ``keys`` into a shell on a terminal; return what it showed up to ``until`` after the last of them."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        ARGV, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "dumb", **env}, close_fds=True,
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    shown, sent, end = "", False, time.monotonic() + 60
    try:
        while until not in shown.rpartition(">>> ")[2] and time.monotonic() < end:
            if select.select([ours], [], [], 1)[0]:
                shown += os.read(ours, 4096).decode(errors="replace")
            if not sent and ">>> " in shown:
                os.write(ours, keys.encode())
                sent = True
        return shown
    finally:
        child.kill()
        child.wait()
        os.close(ours)


def test_code_has_hosts_and_clusters_by_name(made: Made) -> None:
    made("lab", "ha")
    code = "print(*hosts, *clusters.main.masters); print(hosts.worker_0.cluster, environment.name, base_config)"
    done = shell("-n", "lab", "-c", code)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.split() == [
        *(f"master-{n}" for n in range(3)),
        "worker-0",
        "worker-1",
        *(f"master-{n}" for n in range(3)),
    ]
    assert second.startswith("main lab BaseConfig(hosts=['master-0',")


def test_code_is_compiled_as_python_does_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Not with the __future__ statements of the module that compiles it."""
    assert execute("def f(x: int): pass\nprint(f.__annotations__)", "<command>", {}) == 0
    assert capsys.readouterr().out == "{'x': <class 'int'>}\n"


def test_standard_input_is_a_script(made: Made) -> None:
    made("lab")
    done = shell(script="import sys\ndef f():\n    return hosts.master_0\nprint(f().name)\nsys.exit(3)\n")
    assert (done.returncode, done.stdout, done.stderr) == (3, "master-0\n", "")


@pytest.mark.parametrize(
    ("code", "exit_code", "last"),
    [
        ("1/0", 1, "ZeroDivisionError: division by zero"),
        ("x = = 1", 1, "SyntaxError: invalid syntax"),
        ("raise SystemExit('not today')", 1, "not today"),
        ("raise SystemExit", 0, ""),
    ],
)
def test_an_error_of_a_script_is_shown_as_python_shows_it(
    capsys: pytest.CaptureFixture[str], code: str, exit_code: int, last: str
) -> None:
    assert execute(code, "<command>", {}) == exit_code
    err = capsys.readouterr().err
    assert last in (err.splitlines() or [""])[-1]
    assert "shell.py" not in err


def test_errors_and_interruptions_end_the_command(made: Made) -> None:
    made("lab")
    failed = shell("-c", "hosts.nobody")
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1] == "AttributeError: 'nobody' does not exist; there are master-0"
    assert shell("-c", "raise KeyboardInterrupt").returncode == 130


def test_an_environment_without_nodes_is_refused(made: Made) -> None:
    done = shell("-c", "print(1)")
    assert (done.returncode, done.stdout) == (11, "")
    made("lab", claimed=False)
    done = shell("-c", "print(1)")
    assert (done.returncode, done.stdout) == (11, "")
    assert "error: environment lab has no nodes yet" in done.stderr


def test_pytest_is_not_needed(made: Made, tmp_path: Path) -> None:
    made("lab")
    (tmp_path / "pytest.py").write_text("raise ImportError('pytest')\n")
    assert shell("-c", "print(1)", PYTHONPATH=str(tmp_path)).stdout == "1\n"


def test_a_terminal_gets_a_shell_with_completion(made: Made, tmp_path: Path) -> None:
    made("lab")
    # Without IPython, whether or not it is installed.
    (tmp_path / "IPython.py").write_text("raise ImportError('IPython')\n")
    shown = typed("hosts.mas\t.name\nprint('en' + 'd')\n", "end", {"PYTHONPATH": str(tmp_path)})
    assert "environment lab: base_config, hosts, clusters, environment, on_all" in shown
    assert "hosts.master_0" in shown.split(">>> ", 1)[1]
    assert "'master-0'" in shown


def test_ipython_is_used_if_it_is_installed(made: Made, tmp_path: Path) -> None:
    made("lab")
    (tmp_path / "IPython.py").write_text(IPYTHON)
    assert "[] Host('master-0'," in typed("", "False", {"PYTHONPATH": str(tmp_path)})


def test_completion_knows_the_names_of_environments(made: Made) -> None:
    made("lab")
    env = {"_DEVENV_COMPLETE": "complete_bash", "COMP_WORDS": "devenv shell --name l", "COMP_CWORD": "3"}
    assert shell(**env).stdout.split() == ["lab"]
