"""Real runs of scripts: each parameter, the guards, and what remains after which kill."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.devenv.lab.plugins.module_utils.node import files, processes
from ansible_collections.devenv.lab.plugins.module_utils.script import request as script_request
from ansible_collections.devenv.lab.plugins.module_utils.script import run as script
from ansible_collections.devenv.lab.plugins.module_utils.script.control import Interrupted
from ansible_collections.devenv.lab.plugins.module_utils.script.values import Invalid
from ansible_collections.devenv.lab.plugins.modules.script import ARGUMENTS
from support.waits import until

ROOT = Path(__file__).resolve().parents[2]
SECRET = "s3cr3t-0815-value"

Run = Callable[..., dict[str, Any]]


def parameters(given: dict[str, Any]) -> dict[str, Any]:
    return {**{name: spec.get("default", "") for name, spec in ARGUMENTS.items()}, **given}


def module(params: dict[str, Any], check: bool, diff: bool, runtime: str) -> dict[str, Any]:
    """Do what the module does between its arguments and its result."""
    try:
        call = script_request.prepare(params)
    except Invalid as error:
        return {"failed": True, "msg": str(error), "devenv_reason": "script_invalid"}
    try:
        return script.supervised(call, params, check, diff, runtime)
    except Interrupted:
        return {"failed": True, "ended": "interrupted"}


class Started:
    """A run in its own process, like that of a module."""

    def __init__(self, params: dict[str, Any], check: bool, diff: bool, runtime: str) -> None:
        self._answer, reply = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setsid()
                os.dup2(reply, 1)
                os.close(reply)
                os.write(1, json.dumps(module(params, check, diff, runtime)).encode())
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        os.close(reply)

    def result(self) -> dict[str, Any]:
        data = b""
        while more := os.read(self._answer, 1 << 16):
            data += more
        os.close(self._answer)
        os.waitpid(self.pid, 0)
        return dict(json.loads(data or b"{}"))


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Started]]:
    """Start the run of a script with the given text, or of ``path``."""
    monkeypatch.delenv("BASH_ENV", raising=False)
    runtime = tmp_path / "runtime"
    runtime.mkdir()

    def begin(text: str = "", *, check: bool = False, diff: bool = False, mode: int = 0o755, **given: Any) -> Started:
        file = tmp_path / "work" / "install.sh"
        file.parent.mkdir(exist_ok=True)
        if text:
            file.write_text(text)
            file.chmod(mode)
        path = {} if "content" in given else {"path": str(file)}
        params = {"state": str(tmp_path / "state"), "name": "it", "grace": 0.5, **path, **given}
        return Started(parameters(params), check, diff, str(runtime))

    yield begin
    assert list(runtime.iterdir()) == [], "a private folder remains"


@pytest.fixture
def run(start: Callable[..., Started]) -> Run:
    return lambda *args, **given: start(*args, **given).result()


def ok(result: dict[str, Any]) -> dict[str, Any]:
    assert not result.get("failed"), result
    return result


def out(result: dict[str, Any]) -> list[str]:
    return list(ok(result)["output"])


def alive(pid: int) -> bool:
    return not processes.gone(pid)


def pids(path: Path, count: int) -> list[int]:
    """Return the process IDs that a script wrote to a file."""
    return [int(word) for word in until(lambda: len(read(path).split()) >= count and read(path)).split()]


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


# -- path, content, interpreter, arguments, chdir --


def test_a_script_runs_as_it_is(run: Run, tmp_path: Path) -> None:
    result = run('#!/bin/bash -e\necho "$0 in $PWD: $-" >&2\nread line || echo no input\n')
    work = tmp_path / "work"
    assert out(result)[0].startswith(f"{work}/install.sh in {work}: ")
    assert "e" in out(result)[0].split()[-1]
    assert out(result)[1] == "no input"
    assert (result["changed"], result["ran"], result["rc"], result["ended"]) == (True, True, 0, "done")


@pytest.mark.parametrize(
    ("text", "mode", "line"),
    [
        ("echo ${BASH_VERSION:+bash}", 0o644, "bash"),
        ("#!/bin/sh\necho ${BASH_VERSION:-sh}", 0o644, "sh"),
        ("#!/usr/bin/env python3\nprint('py')", 0o755, "py"),
    ],
)
def test_the_first_line_determines_the_interpreter(run: Run, text: str, mode: int, line: str) -> None:
    assert out(run(text, mode=mode)) == [line]


def test_an_interpreter_with_options_runs_the_script(run: Run) -> None:
    assert "f" in out(run("#!/bin/sh\necho $-", interpreter=["bash", "-f"]))[0]


def test_a_binary_runs(run: Run) -> None:
    assert out(run(path="/bin/echo", arguments=["a"])) == ["a"]


def test_a_script_given_as_text_runs(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    result = run(content='#!/bin/sh\necho "${0##*/} $1 $PWD"', name="given.sh", arguments=["x"])
    assert out(result) == [f"given.sh x {tmp_path}"]


def test_arguments_are_passed_unchanged(run: Run) -> None:
    assert out(run('printf "%s|" "$@"', arguments=["a b", "", "$HOME", "it's"])) == ["a b||$HOME|it's|"]


def test_chdir_is_the_working_directory(run: Run, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert out(run("pwd", chdir=str(tmp_path / "other"))) == [str(tmp_path / "other")]


# -- variables, values, secrets --


def test_declared_variables_are_in_the_environment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNSET", "inherited")
    monkeypatch.setenv("OTHER", "inherited")
    declared = {"A": "str", "N": {"type": "int", "default": 2}, "UNSET": "str"}
    result = run('echo "$A|$N|${UNSET-unset}|$OTHER"', variables=declared, values={"A": 'it\'s "a"\nb $HOME'})
    assert out(result) == ['it\'s "a"', "b $HOME|2|unset|inherited"]


@pytest.mark.parametrize("delivery", ["file", "fd"])
def test_a_secret_is_in_a_private_file_or_in_none(run: Run, delivery: str) -> None:
    text = """
        [ "$(cat "$S"; cat "$S")" = "VALUEVALUE" ] && echo twice
        (cat "$S" | wc -c)
        stat -Lc '%a' "$S"
        tr '\\0' '\\n' < /proc/$$/environ | grep -c VALUE
        tr '\\0' '\\n' < /proc/$$/cmdline | grep -c VALUE
        ls -A "$(dirname "$S")"
    """.replace("VALUE", SECRET)
    script_text = text.replace(SECRET, "$(echo s3cr3t-0815-'value')").replace(
        "grep -c $(echo s3cr3t-0815-'value')", "grep -c 0815-v"
    )
    result = run(script_text, variables={"S": {"type": "secret", "by": delivery}}, secrets={"S": SECRET})
    lines = out(result)
    assert lines[:5] == ["twice", str(len(SECRET)), "600", "0", "0"]
    assert ("S" in lines[5:]) == (delivery == "file")


def test_names_of_secrets_do_not_collide_with_other_files(run: Run) -> None:
    names = ["exported", "prelude", "script", "secrets", "it"]
    given = {"variables": dict.fromkeys(names, "secret"), "secrets": dict.fromkeys(names, SECRET)}
    text = 'for file in "$exported" "$prelude" "$script" "$secrets" "$it"; do wc -c < "$file"; done; export A=1'
    result = run(content=text, name="it", exports={"A": "int"}, **given)
    assert out(result) == [str(len(SECRET))] * 5
    assert result["exported"] == {"a": 1}


def test_a_secret_by_env_is_the_value(run: Run) -> None:
    result = run('echo "${#S}"', variables={"S": {"type": "secret", "by": "env"}}, secrets={"S": SECRET})
    assert out(result) == [str(len(SECRET))]


@pytest.mark.parametrize("delivery", ["file", "fd", "env"])
def test_a_secret_is_in_no_result_and_no_file(run: Run, tmp_path: Path, delivery: str) -> None:
    text = """set -x
        v=$S; [ -e "$S" ] && v=$(cat "$S")
        echo "$v"; echo "$v" | base64; echo "x$v" >&2
        export URL="https://user:$v@host/"
        exit 3"""
    given = {"variables": {"S": {"type": "secret", "by": delivery}, "U": "str"}, "secrets": {"S": SECRET}}
    result = run(text, **given, values={"U": f"https://u:{SECRET}@h/"}, exports={"URL": "str"}, diff=True)
    assert result["rc"] == 3
    kept = json.dumps(result) + "".join(p.read_text() for p in (tmp_path / "state").rglob("*") if p.is_file())
    assert "[secret redacted]" in kept
    assert SECRET not in kept
    assert "czNjcjN0LTA4MTUtdmFsdWU" not in kept


def test_record_and_difference_contain_no_secret(run: Run, tmp_path: Path) -> None:
    given = {"variables": {"S": "secret", "U": "str"}, "secrets": {"S": SECRET}, "values": {"U": f"x{SECRET}"}}
    ok(run("true", **given))
    other = {"secrets": {"S": f"other-{SECRET}"}, "values": {"U": f"xother-{SECRET}"}}
    result = ok(run("true", **{**given, **other}, diff=True))
    kept = json.dumps(result) + "".join(p.read_text() for p in (tmp_path / "state").rglob("*") if p.is_file())
    assert SECRET not in kept
    before, after = (yaml.safe_load(result["diff"][key]) for key in ("before", "after"))
    assert before["secret S"] != after["secret S"]
    assert before["variable U"].startswith("(secret ")
    assert before["script"] == after["script"]


@pytest.mark.parametrize("parameter", ["arguments", "check_arguments", "unless"])
def test_a_secret_on_a_command_line_is_refused(run: Run, tmp_path: Path, parameter: str) -> None:
    word: Any = f"--token={SECRET}"
    given = {
        "variables": {"S": "secret"},
        "secrets": {"S": SECRET},
        parameter: word if parameter == "unless" else [word],
    }
    result = run("touch ran", **given)
    assert result["devenv_reason"] == "script_invalid"
    assert SECRET not in json.dumps(result)
    assert not (tmp_path / "work" / "ran").exists()


# -- source --


def test_sourced_variables_are_exported(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.conf").write_text(
        "A=from file\\ a\nB=from-a\nexport C='x\ny'\n[ 1 = 2 ]\n".replace("from file\\ a", "'from a'")
    )
    (tmp_path / "b.sh").write_text('B="$B and b"\nD=$GIVEN\n')
    result = run(
        'echo "$A|$B|$C|$D|$GIVEN|$__files$__file|$#"',
        source=[str(tmp_path / "a.conf"), str(tmp_path / "b.sh")],
        variables={"A": "str", "GIVEN": "str"},
        values={"A": "declared", "GIVEN": "g"},
    )
    assert out(result) == ["declared|from-a and b|x", "y|g|g||0"]


@pytest.mark.parametrize("text", ["if\n", "exit 3\n", "A=(\n"])
def test_a_file_that_cannot_be_sourced_prevents_the_run(run: Run, tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.sh").write_text(text)
    result = run("touch ran", source=[str(tmp_path / "bad.sh")])
    assert (result["failed"], result["ended"], result["ran"], result["changed"]) == (True, "failed", False, False)
    assert "files to source" in result["msg"]
    assert not (tmp_path / "work" / "ran").exists()


def test_what_looks_secret_in_a_sourced_file_is_redacted(run: Run, tmp_path: Path) -> None:
    (tmp_path / "openrc").write_text("export OS_PASSWORD=hunter2hunter\nOS_USER=somebody\n")
    assert out(run('echo "$OS_USER $OS_PASSWORD"', source=[str(tmp_path / "openrc")])) == ["somebody [secret redacted]"]


# -- exports --

BASH_ENDS = {
    "falls off its end": "export URL=u N=2",
    "exits": "export URL=u N=2; exit 0",
    "a trap of its own": "trap 'echo bye' EXIT; export URL=u N=2; exit 0",
    "a trap by number, twice": "trap 'echo one' 0; trap 'echo \"bye $?\"' EXIT; export URL=u N=2; (exit 0)",
    "a trap taken back": "trap 'echo no' EXIT; trap - EXIT; export URL=u N=2",
    "a trap in a function": "f() { trap 'echo bye' EXIT; }; f; export URL=u N=2",
    "strict": "set -euo pipefail; export URL=u N=2",
    "a subshell before": "(export URL=sub; exit 0); export N=2; (trap 'echo sub' EXIT); export URL=u",
    "a pipe before": "export URL=u N=2; echo x | (trap 'true' EXIT; cat)",
}


@pytest.mark.parametrize("text", BASH_ENDS.values(), ids=list(BASH_ENDS))
def test_exports_of_bash_become_facts(run: Run, text: str) -> None:
    result = run(f"#!/bin/bash\n{text}\n", exports={"URL": "str", "N": {"type": "int", "fact": "node_count"}})
    assert ok(result)["ansible_facts"] == {"url": "u", "node_count": 2} == result["exported"]
    assert ("bye" in str(result["output"])) == ("bye" in text)


@pytest.mark.parametrize(
    "text", ["export URL='a\nb'", "export URL='a\nb'; exit 0", "set -eu; export URL='a\nb'; f() { exit; }; f"]
)
def test_exports_of_sh_become_facts(run: Run, text: str) -> None:
    result = run(f'#!/bin/sh\n[ "$1" = x ] && echo "${{0##*/}}"\n{text}\n', arguments=["x"], exports={"URL": "str"})
    assert out(result) == ["install.sh"]
    assert result["exported"] == {"url": "a\nb"}


def test_exports_keep_the_exit_code(run: Run) -> None:
    for first in ("#!/bin/bash", "#!/bin/sh"):
        assert run(f"{first}\nexit 7\n", exports={"A": "str"})["rc"] == 7
        assert run(f"{first}\nfalse\n", exports={"A": "str"})["rc"] == 1
    assert run("#!/bin/bash\ntrap 'exit 9' EXIT\nexit 7\n", exports={"A": "str"})["rc"] == 9
    assert out(run("#!/bin/bash\ntrap 'echo $?' EXIT\nexit 7\n", exports={}, ok_codes=[7])) == ["7"]
    result = run("#!/bin/bash\ntrap 'echo $?' EXIT\nexport A=1\nexit 7\n", exports={"A": "str"}, ok_codes=[7])
    assert out(result) == ["7"]


def test_bash_env_of_the_caller_is_sourced_too(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rc").write_text("echo rc\n")
    monkeypatch.setenv("BASH_ENV", str(tmp_path / "rc"))
    result = run('#!/bin/bash\nexport A="$BASH_ENV"\nbash -c :\n', exports={"A": "path"})
    assert out(result) == ["rc", "rc"]
    assert result["exported"] == {"a": str(tmp_path / "rc")}


@pytest.mark.parametrize(
    ("text", "given", "words"),
    [
        ("A=set-but-not-exported", {"exports": {"A": "str"}}, "did not export A"),
        ("export A=x", {"exports": {"A": "int"}}, "is not a valid int"),
        ("export A=1; exec true", {"exports": {"A": "str"}}, "did not end in its own shell"),
        (
            "export A=$(cat $S)",
            {"exports": {"A": "str"}, "variables": {"S": "secret"}, "secrets": {"S": SECRET}},
            "A contains a secret",
        ),
    ],
)
def test_invalid_exports_fail(run: Run, tmp_path: Path, text: str, given: dict[str, Any], words: str) -> None:
    result = run(text, **given)
    assert words in result["msg"]
    assert (result["failed"], result["changed"], result["ran"]) == (True, True, True)
    assert "ansible_facts" not in result
    assert not (tmp_path / "state" / "it" / "last.json").exists()


def test_an_optional_export_may_be_missing(run: Run) -> None:
    assert "exported" not in ok(run("true", exports={"A": {"required": False}}))


def test_exports_are_refused_without_a_shell(run: Run, tmp_path: Path) -> None:
    result = run("#!/usr/bin/env python3\nopen('ran', 'w')", exports={"A": "str"})
    assert result["devenv_reason"] == "script_invalid"
    assert not (tmp_path / "work" / "ran").exists()


# -- timeout, grace --

STUBBORN = """
    echo $$ >> PIDS
    trap '' TERM
    sh -c 'trap "" TERM; echo $$ >> PIDS; for n in $(seq 900); do sleep 0.1; done' &
    setsid env -i sh -c 'trap "" TERM; echo $$ >> PIDS; for n in $(seq 900); do sleep 0.1; done' &
    (setsid sh -c 'trap "" TERM; echo $$ >> PIDS; for n in $(seq 900); do sleep 0.1; done' &)
    for n in $(seq 900); do sleep 0.1; done
"""


def test_a_timeout_terminates_all_processes(run: Run, tmp_path: Path) -> None:
    began = time.monotonic()
    result = run(STUBBORN.replace("PIDS", str(tmp_path / "pids")), timeout=3)
    assert (result["ended"], result["rc"], result["changed"]) == ("timeout", 124, True)
    assert "did not end in 3 s" in result["msg"]
    assert 3.5 <= time.monotonic() - began < 30
    assert [pid for pid in pids(tmp_path / "pids", 4) if alive(pid)] == []


@pytest.mark.parametrize(("grace", "cleaned"), [(5, True), (0, False)])
def test_grace_lets_a_script_clean_up(run: Run, tmp_path: Path, grace: float, cleaned: bool) -> None:
    text = f"trap 'sleep 0.5; echo cleaned; touch {tmp_path}/cleaned; exit 1' TERM; sleep 90 & wait"
    result = run(text, timeout=2, grace=grace)
    assert result["ended"] == "timeout"
    assert (tmp_path / "cleaned").exists() == cleaned == ("cleaned" in result["output"])


def test_a_stopped_script_is_terminated_and_can_clean_up(run: Run, tmp_path: Path) -> None:
    result = run("trap 'touch cleaned; exit 1' TERM; kill -STOP $$; sleep 90", timeout=2, grace=5)
    assert result["ended"] == "timeout"
    assert (tmp_path / "work" / "cleaned").exists()


def test_processes_that_survive_a_success_are_left_alone(run: Run, tmp_path: Path) -> None:
    began = time.monotonic()
    assert out(run(f"sleep 30 & echo $! > {tmp_path}/pids; echo done")) == ["done"]
    assert time.monotonic() - began < 15
    (pid,) = pids(tmp_path / "pids", 1)
    assert alive(pid)
    os.kill(pid, signal.SIGKILL)


def test_processes_that_survive_a_failure_are_terminated(run: Run, tmp_path: Path) -> None:
    assert run(f"sleep 30 & echo $! > {tmp_path}/pids; exit 1")["rc"] == 1
    (pid,) = pids(tmp_path / "pids", 1)
    assert not alive(pid)


# -- log, keep_logs, output_lines, show_pattern --


def test_a_log_is_private_and_complete(run: Run, tmp_path: Path) -> None:
    result = run("echo one; echo two >&2; printf three", log=str(tmp_path / "logs" / "my.log"))
    log = tmp_path / "logs" / "my.log"
    assert result["log"] == str(log)
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    lines = log.read_text().splitlines()
    assert [line.split()[1] for line in lines[1:4]] == ["one", "two", "three"]
    assert lines[-1].endswith("end: code 0")


def test_a_run_that_is_skipped_leaves_the_log_alone(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "my.log"
    ok(run("echo worked; touch done", creates="done", log=str(log)))
    assert not ok(run("echo worked; touch done", creates="done", log=str(log)))["ran"]
    assert "worked" in log.read_text()


def test_a_failed_guard_is_in_the_log(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.sh").write_text("echo why; exit 3\n")
    result = run("true", source=[str(tmp_path / "bad.sh")])
    assert result["output"] == ["why"]
    assert "why" in Path(result["log"]).read_text()


def test_a_log_that_is_a_link_is_not_followed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "target").write_text("mine")
    (tmp_path / "my.log").symlink_to(tmp_path / "target")
    assert run("true", log=str(tmp_path / "my.log"))["failed"]
    assert (tmp_path / "target").read_text() == "mine"


def test_the_state_folder_is_private_and_named(run: Run, tmp_path: Path) -> None:
    result = run("true", state=str(tmp_path / "here"), name="mine")
    folder = tmp_path / "here" / "mine"
    assert Path(result["log"]).parent == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_the_default_name_depends_on_the_path(run: Run, tmp_path: Path) -> None:
    folder = Path(run("true", name="")["log"]).parent.name
    assert folder.startswith("install.sh-")
    assert Path(run(path="/bin/true", name="")["log"]).parent.name != folder


@pytest.mark.parametrize("keep", [1, 3])
def test_only_the_newest_logs_are_kept(run: Run, tmp_path: Path, keep: int) -> None:
    logs = [run("true", keep_logs=keep)["log"] for _number in range(5)]
    assert sorted(str(path) for path in (tmp_path / "state" / "it").glob("*.log")) == logs[-keep:]


@pytest.mark.parametrize(("lines", "output"), [(2, ["4", "5"]), (0, []), (50, ["1", "2", "3", "4", "5"])])
def test_the_result_has_the_last_lines(run: Run, lines: int, output: list[str]) -> None:
    assert out(run("seq 5", output_lines=lines)) == output


def test_matching_lines_are_shown(run: Run) -> None:
    assert ok(run("seq 20", show_pattern="^1.$", output_lines=1))["shown"] == [str(number) for number in range(10, 20)]
    assert ok(run("seq 20"))["shown"] == []


# -- guards --


@pytest.mark.parametrize("pattern", ["ABS/work/done", "done", "do*"])
def test_an_existing_file_prevents_the_run(run: Run, tmp_path: Path, pattern: str) -> None:
    pattern = pattern.replace("ABS", str(tmp_path))
    assert ok(run("touch done", creates=pattern))["ran"]
    result = run("touch done; touch again", creates=pattern)
    assert (result["changed"], result["ran"], result["skipped_by"]) == (False, False, "creates")
    assert not (tmp_path / "work" / "again").exists()


def test_a_successful_command_prevents_the_run(run: Run, tmp_path: Path) -> None:
    (tmp_path / "rc").write_text("WANTED=yes\n")
    given = {"source": [str(tmp_path / "rc")], "variables": {"FILE": "str"}, "values": {"FILE": "done"}}
    unless = '[ "$(cat "$FILE" 2>/dev/null)" = "$WANTED" ]'
    assert ok(run("echo $WANTED > $FILE", unless=unless, **given))["ran"]
    result = run("touch again", unless=unless, **given)
    assert (result["changed"], result["ran"], result["skipped_by"]) == (False, False, "unless")
    assert not (tmp_path / "work" / "again").exists()


def test_a_guard_that_hangs_is_a_timeout(run: Run) -> None:
    assert run("true", unless="sleep 30", timeout=0.3)["ended"] == "timeout"


def test_unchanged_inputs_prevent_the_run(run: Run, tmp_path: Path) -> None:
    (tmp_path / "rc").write_text("A=1\n")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x").write_text("1")
    base: dict[str, Any] = {
        "rerun": "changed",
        "source": [str(tmp_path / "rc")],
        "inputs": [str(tmp_path / "in")],
        "variables": {"V": "str", "S": "secret", "SS": {"type": "secret", "by": "fd"}},
        "values": {"V": "1"},
        "secrets": {"S": SECRET},
        "arguments": ["a"],
        "exports": {"E": "str"},
    }
    text = "export E=fact"
    assert ok(run(text, **base))["ran"]
    result = ok(run(text, **base))
    assert (result["changed"], result["ran"], result["skipped_by"]) == (False, False, "rerun")
    assert result["ansible_facts"] == {"e": "fact"}
    assert "log" not in result
    for changed in (
        {"values": {"V": "2"}},
        {"secrets": {"S": SECRET + "x"}},
        {"secrets": {"SS": SECRET}},
        {"arguments": []},
        {"chdir": str(tmp_path)},
        {"interpreter": ["bash", "-e"]},
        {"exports": {}},
    ):
        assert ok(run(text, **{**base, **changed}))["ran"], changed
        assert not ok(run(text, **{**base, **changed}))["ran"], changed
    assert ok(run(text + " ", **base))["ran"]
    (tmp_path / "rc").write_text("A=2\n")
    assert ok(run(text + " ", **base))["ran"]
    (tmp_path / "in" / "x").write_text("2")
    assert ok(run(text + " ", **base))["ran"]
    (tmp_path / "in" / "x").rename(tmp_path / "in" / "y")
    assert ok(run(text + " ", **base))["ran"]
    assert not ok(run(text + " ", **base))["ran"]
    assert ok(run(text + " ", **{**base, "rerun": "always"}))["ran"]
    assert ok(run(text + " ", **{**base, "name": "other"}))["ran"]


def test_a_failed_run_does_not_count_as_unchanged(run: Run) -> None:
    assert run("exit 1", rerun="changed")["rc"] == 1
    assert run("exit 1", rerun="changed")["rc"] == 1


# -- changed, codes, retries --


@pytest.mark.parametrize(
    ("text", "given", "changed"),
    [
        ("true", {}, True),
        ("true", {"changed_when": "never"}, False),
        ("exit 0", {"changed_when": "code", "changed_codes": [2]}, False),
        ("exit 2", {"changed_when": "code", "changed_codes": [2]}, True),
        ("exit 0", {"changed_when": "code", "changed_codes": [0]}, True),
        ("echo created x", {"changed_when": "pattern", "changed_pattern": "^created"}, True),
        ("echo not created x", {"changed_when": "pattern", "changed_pattern": "^created"}, False),
        ("echo created; seq 99", {"changed_when": "pattern", "changed_pattern": "created", "output_lines": 1}, True),
    ],
)
def test_changed_follows_the_rule(run: Run, text: str, given: dict[str, Any], changed: bool) -> None:
    assert ok(run(text, **given))["changed"] is changed


def test_other_codes_than_ok_codes_fail(run: Run) -> None:
    assert ok(run("exit 3", ok_codes=[0, 3]))["rc"] == 3
    assert run("exit 0", ok_codes=[3])["failed"]
    result = run("echo why; exit 3")
    assert (result["failed"], result["rc"], result["changed"], result["output"]) == (True, 3, True, ["why"])
    assert "install.sh ended with code 3: why (log: " in result["msg"]


def test_a_signal_is_a_negative_code(run: Run) -> None:
    assert run("kill -9 $$")["rc"] == -9


COUNT = "echo x >> tries; [ $(wc -l < tries) -ge 3 ] && exit 0; exit "


def test_a_script_is_retried_until_it_succeeds(run: Run) -> None:
    began = time.monotonic()
    result = ok(run(COUNT + "75", retry_codes=[75], retries=5, retry_delay=0.3))
    assert result["attempts"] == 3
    assert 0.6 <= time.monotonic() - began < 4


def test_retries_are_limited(run: Run, tmp_path: Path) -> None:
    assert run(COUNT + "75", retry_codes=[75], retries=1, retry_delay=0)["rc"] == 75
    assert read(tmp_path / "work" / "tries") == "x\nx\n"


def test_other_codes_are_not_retried(run: Run, tmp_path: Path) -> None:
    assert run(COUNT + "1", retry_codes=[75], retries=5, retry_delay=0)["rc"] == 1
    assert read(tmp_path / "work" / "tries") == "x\n"


def test_a_timeout_can_be_retried(run: Run) -> None:
    text = "[ -e tried ] && exit 0; touch tried; sleep 30"
    assert ok(run(text, timeout=0.5, retry_codes=[124], retries=1, retry_delay=0))["attempts"] == 2


def test_each_attempt_can_read_a_secret_by_fd(run: Run) -> None:
    text = '[ "$(cat <&"${S##*/}" | wc -c)" = 17 ] || exit 1; [ -e tried ] && exit 0; touch tried; exit 75'
    given = {"variables": {"S": {"type": "secret", "by": "fd"}}, "secrets": {"S": SECRET}}
    assert ok(run(text, **given, retry_codes=[75], retries=1, retry_delay=0))["attempts"] == 2


# -- check mode --


def test_check_mode_changes_nothing(run: Run, tmp_path: Path) -> None:
    result = ok(run("touch ran", check=True, diff=True, variables={"A": "str"}, values={"A": "x"}))
    assert (result["changed"], result["ran"]) == (True, False)
    assert 'variable A: "x"' in result["diff"]["after"]
    assert result["diff"]["before"] == ""
    assert ok(run("touch ran", check=True, changed_when="never"))["changed"] is False
    assert not (tmp_path / "work" / "ran").exists()
    assert not (tmp_path / "state").exists()


def test_check_mode_evaluates_the_guards(run: Run) -> None:
    ok(run("export E=1; touch done", exports={"E": "int"}))
    for guard in ({"creates": "done"}, {"unless": "[ -e done ]"}, {"rerun": "changed"}):
        result = ok(run("export E=1; touch done", check=True, exports={"E": "int"}, **guard))
        assert (result["changed"], result["skipped_by"]) == (False, next(iter(guard)))
        assert result["ansible_facts"] == {"e": 1}


def test_check_arguments_run_the_script_in_check_mode(run: Run, tmp_path: Path) -> None:
    text = 'echo "$@"; [ "$2" = --dry-run ] && exit 4; touch ran'
    given = {"changed_when": "code", "changed_codes": [4], "arguments": ["a"], "check_arguments": ["--dry-run"]}
    result = ok(run(text, check=True, **given))
    assert (result["changed"], result["ran"], result["output"]) == (True, True, ["a --dry-run"])
    assert not (tmp_path / "work" / "ran").exists()
    assert out(run(text, **given)) == ["a"]


def test_check_mode_accepts_a_script_that_does_not_exist_yet(run: Run, tmp_path: Path) -> None:
    result = ok(run(check=True, path=str(tmp_path / "later.sh"), exports={"A": "str"}))
    assert (result["changed"], result["ran"]) == (True, False)


def test_an_input_that_cannot_be_read_does_not_count_as_unchanged(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = files.sha256

    def digest(path: str) -> str:
        if path == str(tmp_path / "in"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return whole(path)

    (tmp_path / "in").write_text("x")
    monkeypatch.setattr(files, "sha256", digest)
    result = run("true", inputs=[str(tmp_path / "in")], rerun="changed")
    assert (result["failed"], result["msg"]) == (True, f"{tmp_path}/in: Permission denied")


@pytest.mark.parametrize("parameter", ["path", "chdir", "source", "inputs"])
def test_a_missing_file_is_reported(run: Run, tmp_path: Path, parameter: str) -> None:
    nowhere = str(tmp_path / "nowhere")
    result = run("true", **{parameter: [nowhere] if parameter in ("source", "inputs") else nowhere})
    assert result["devenv_reason"] == "script_invalid"
    assert nowhere in result["msg"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"path": "", "content": ""}, "either path or src"),
        ({"path": "/bin/true", "content": "true"}, "either path or src"),
        ({"path": "bin/true"}, "relative"),
        ({"content": "true", "name": ""}, "name: required"),
        ({"name": "a/b"}, "directory name"),
        ({"name": ".."}, "directory name"),
        ({"changed_pattern": "x"}, "require each other"),
        ({"changed_when": "code"}, "changed_codes"),
        ({"changed_when": "pattern", "changed_pattern": "("}, "not a valid regular expression"),
        ({"show_pattern": "("}, "not a valid regular expression"),
        ({"values": {"A": 1}}, "A is not declared"),
    ],
)
def test_invalid_parameters_are_refused(given: dict[str, Any], words: str) -> None:
    params = parameters({"name": "it", **({} if {"path", "content"} & set(given) else {"path": "/bin/true"}), **given})
    with pytest.raises(Invalid, match=words):
        script_request.prepare(params)


# -- interruption --


def children(pid: int) -> list[int]:
    return [int(word) for word in read(Path(f"/proc/{pid}/task/{pid}/children")).split()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_an_interrupted_module_terminates_its_script(
    start: Callable[..., Started], tmp_path: Path, number: signal.Signals
) -> None:
    started = start(STUBBORN.replace("PIDS", str(tmp_path / "pids")))
    started_pids = pids(tmp_path / "pids", 4)
    os.kill(started.pid, number)
    result = started.result()
    until(lambda: [pid for pid in started_pids if alive(pid)] == [])
    assert result.get("ended") == (None if number == signal.SIGKILL else "interrupted")
    until(lambda: not (tmp_path / "state" / "it" / "running.json").exists())
    until(lambda: list((tmp_path / "runtime").iterdir()) == [])
    assert not (tmp_path / "state" / "it" / "last.json").exists()


def test_a_killed_supervisor_leaves_no_script(start: Callable[..., Started], tmp_path: Path) -> None:
    started = start(STUBBORN.replace("PIDS", str(tmp_path / "pids")))
    started_pids = pids(tmp_path / "pids", 4)
    (supervisor,) = children(started.pid)
    os.kill(supervisor, signal.SIGKILL)
    os.waitpid(started.pid, 0)
    assert [pid for pid in started_pids if alive(pid)] == []


def test_the_next_run_terminates_what_two_kills_left(start: Callable[..., Started], run: Run, tmp_path: Path) -> None:
    text = STUBBORN.replace("setsid env -i", "setsid").replace("PIDS", str(tmp_path / "pids"))
    started = start(text, variables={"S": "secret"}, secrets={"S": SECRET})
    started_pids = pids(tmp_path / "pids", 4)
    (supervisor,) = children(started.pid)
    os.kill(started.pid, signal.SIGSTOP)
    os.kill(supervisor, signal.SIGKILL)
    os.kill(started.pid, signal.SIGKILL)
    os.waitpid(started.pid, 0)
    assert [pid for pid in started_pids if alive(pid)] == started_pids
    assert list((tmp_path / "runtime").iterdir()) != []
    assert out(run("echo next")) == ["next"]
    assert [pid for pid in started_pids if alive(pid)] == []
    assert list((tmp_path / "runtime").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_script_that_must_finish_survives_an_interruption(
    start: Callable[..., Started], run: Run, tmp_path: Path, number: signal.Signals
) -> None:
    text = f"touch {tmp_path}/begun; sleep 4; echo still there; export E=1; touch {tmp_path}/finished"
    given: dict[str, Any] = {"on_interrupt": "finish", "rerun": "changed", "exports": {"E": "int"}}
    started = start(text, **given)
    until((tmp_path / "begun").exists)
    os.kill(started.pid, number)
    started.result()
    assert not (tmp_path / "finished").exists()
    result = ok(run(text, **given))
    assert (tmp_path / "finished").exists()
    assert (result["skipped_by"], result["ansible_facts"]) == ("rerun", {"e": 1})
    (log,) = (tmp_path / "state" / "it").glob("*.log")
    assert "still there" in log.read_text()


def test_runs_of_one_name_wait_for_each_other(start: Callable[..., Started], run: Run, tmp_path: Path) -> None:
    started = start(f"touch {tmp_path}/begun; sleep 3")
    until((tmp_path / "begun").exists)
    assert run("", timeout=0.2)["ended"] == "busy"
    assert out(run(path="/bin/echo", arguments=["other"], name="other")) == ["other"]
    ok(started.result())


def test_a_wait_for_another_run_can_be_interrupted(start: Callable[..., Started], tmp_path: Path) -> None:
    started = start(f"touch {tmp_path}/begun; sleep 4; touch {tmp_path}/finished")
    until((tmp_path / "begun").exists)
    second = start("")
    time.sleep(1)
    os.kill(second.pid, signal.SIGTERM)
    assert second.result()["ended"] == "interrupted"
    ok(started.result())
    assert (tmp_path / "finished").exists()


def test_a_broken_connection_terminates_the_script(tmp_path: Path) -> None:
    """The reader of the result is gone, and no signal arrives."""
    program = tmp_path / "module.py"
    program.write_text(
        "import sys\n"
        f"sys.path[:0] = {[str(ROOT / 'collections')]!r}\n"
        "from ansible_collections.devenv.lab.plugins.module_utils.script import request, run\n"
        "import json\n"
        "params = json.loads(sys.argv[1])\n"
        "run.supervised(request.prepare(params), params, False, False)\n"
    )
    file = tmp_path / "long.sh"
    file.write_text(STUBBORN.replace("PIDS", str(tmp_path / "pids")))
    params = parameters({"path": str(file), "state": str(tmp_path / "state"), "grace": 0.5})
    module = subprocess.Popen([sys.executable, str(program), json.dumps(params)], stdout=subprocess.PIPE)
    started_pids = pids(tmp_path / "pids", 4)
    assert module.stdout is not None
    module.stdout.close()
    module.wait(10)
    assert [pid for pid in started_pids if alive(pid)] == []


# -- the role passes all parameters --


def test_the_role_has_each_parameter_of_the_module() -> None:
    role = ROOT / "roles" / "script"
    (task,) = yaml.safe_load((role / "tasks" / "main.yml").read_text())
    given = task["devenv.lab.script"]
    assert given == {name: f"{{{{ script_{name} }}}}" for name in given}
    assert set(given) == set(ARGUMENTS) - {"content"}
    defaults = yaml.safe_load((role / "defaults" / "main.yml").read_text())
    assert defaults == {f"script_{name}": ARGUMENTS[name].get("default", "") for name in given}
    specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    for name in given:
        declared = {key: specs[f"script_{name}"].get(key) for key in ("type", "elements", "choices", "no_log")}
        assert declared == {key: ARGUMENTS[name].get(key) for key in declared}, name
