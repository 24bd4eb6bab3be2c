"""The runner of programs on nodes: time limits and redaction, with real programs."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.module_utils.gravity import cli as gravity
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import run as kubeadm
from ansible_collections.devenv.lab.plugins.module_utils.node import processes, program
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import Machine, StepFailed
from ansible_collections.devenv.lab.plugins.module_utils.node.redact import RedactedLines
from ansible_collections.devenv.lab.plugins.module_utils.script import output

HEX = "9555b74008f24687eb964bd90a164ecb5760a89481d9c55a77c129b7db438168"
# Assembled here, so that secret scanners do not report this file.
KIND = "RSA PRIVATE " + "KEY"
PEM = f"-----BEGIN {KIND}-----\nMIIEpAIBAAKCAQEAxQfZ0m7r1Jq8\nvGmMzv5Jb0Z1nqXhM1c4b7d9e2f0==\n-----END {KIND}-----"
GIVEN = "correct horse battery"

# Output of a program, and the texts in it that must not appear anywhere.
SECRETS = {
    "bootstrap token": ("[bootstrap-token] Using token: abcdef.0123456789abcdef", ["0123456789abcdef"]),
    "join command": (
        "kubeadm join lab:6443 --token abcdef.0123456789abcdef \\\n"
        f"\t--discovery-token-ca-cert-hash sha256:{HEX[::-1]} \\\n\t--control-plane --certificate-key {HEX}",
        ["0123456789abcdef", HEX],
    ),
    "certificate key on a line of its own": (f"[upload-certs] Using certificate key:\n{HEX}", [HEX]),
    "join of Gravity": ("gravity join 10.0.0.1 --token=k7Xq2mNf --role=node", ["k7Xq2mNf"]),
    "token of Gravity": ('"token": {"token": "k7Xq2mNf"}\nJoin token:\tp4Rt9sWz', ["k7Xq2mNf", "p4Rt9sWz"]),
    "bearer": ("> Authorization: Bearer c2VjcmV0LXRva2VuLXZhbHVl", ["c2VjcmV0LXRva2VuLXZhbHVl"]),
    "password in a URL": ("proxy is http://user:pa55word@proxy.example:3128", ["pa55word"]),
    "password": ("PGPASSWORD=hunter2hunter2 psql", ["hunter2hunter2"]),
    "private key over several lines": (f"key:\n{PEM}\nend", PEM.splitlines()[1:3]),
    "private key in a kubeconfig": (
        f"    client-key-data: {base64.b64encode(PEM.encode()).decode()}",
        [base64.b64encode(PEM.encode()).decode()[:40]],
    ),
    "given": (f"it is {GIVEN}", [GIVEN]),
    "given, in base64": (base64.b64encode(GIVEN.encode()).decode(), [base64.b64encode(GIVEN.encode()).decode()]),
}


def argv(text: str, code: int = 0) -> list[str]:
    """A program that prints ``text`` to both streams, piece by piece."""
    return ["sh", "-c", f't={shlex.quote(text)}; echo before; echo "$t"; echo "$t" >&2; echo after; exit {code}']


def through_run(tmp_path: Path, text: str) -> str:
    result = program.run(argv(text), log=str(tmp_path / "log"), secrets=[GIVEN])
    return result.text + result.complaint


def through_kubeadm(tmp_path: Path, text: str) -> str:
    """Return the arguments of fail_json and the log on the node; the arguments of kubeadm are an unknown command."""

    def run(_words: list[str], **more: Any) -> program.ProgramResult:
        return program.run(argv(text, 1), **more)

    machine = Machine(str(tmp_path), run=run)
    config = kubeadm.Configuration(machine, "init", f"certificateKey: {HEX}\ntoken: abcdef.0123456789abcdef\n", {})
    config.secrets.append(GIVEN)
    with config, pytest.raises(StepFailed) as failed:
        kubeadm.kubeadm(machine, ["init"], name="init", timeout=20, reason="kubernetes_init_failed", config=config)
    log = tmp_path / "var/log/devenv/kubeadm-init.log"
    return json.dumps(failed.value.result(), ensure_ascii=False) + log.read_text()


def through_gravity(tmp_path: Path, text: str) -> str:
    log = tmp_path / "gravity-join.log"
    result = gravity.run(argv(text, 1), timeout=20, secrets=[GIVEN], log=str(log))
    failure = StepFailed("gravity_failed", gravity.explain(result.lines), result.lines)
    return json.dumps(failure.result(), ensure_ascii=False) + log.read_text()


def through_script(tmp_path: Path, text: str) -> str:
    """Return the result and the log of a script."""
    log = tmp_path / "script.log"
    number = os.open(log, os.O_WRONLY | os.O_CREAT)
    screen = output.Screen(RedactedLines([GIVEN]), number, 50, ".", "")
    for piece in re.findall(r"(?s).{1,7}", program.run(argv(text)).output):
        screen.write(piece.encode())
    screen.end()
    os.close(number)
    return json.dumps([screen.output, screen.shown], ensure_ascii=False) + log.read_text()


@pytest.mark.parametrize("through", [through_run, through_kubeadm, through_gravity, through_script])
@pytest.mark.parametrize("kind", SECRETS)
def test_no_secret_is_kept(kind: str, through: Callable[[Path, str], str], tmp_path: Path) -> None:
    text, parts = SECRETS[kind]
    assert all(part in text for part in parts)
    kept = through(tmp_path, text)
    assert "before" in kept
    assert "after" in kept
    assert not [part for part in parts if part in kept]
    for log in tmp_path.rglob("*log"):
        if log.is_file():
            assert "after" in log.read_text()
            assert not [part for part in parts if part in log.read_text()]


def test_a_digest_is_not_a_certificate_key(tmp_path: Path) -> None:
    assert f"sha256:{HEX}" in program.run(argv(f"--discovery-token-ca-cert-hash sha256:{HEX}")).text


def test_a_result_has_both_streams_and_the_code() -> None:
    result = program.run(["sh", "-c", "cat; echo no >&2; exit 3"], data="x" * 300_000)
    assert (result.code, result.stdout, result.stderr, result.started) == (3, "x" * 300_000, "no\n", True)
    merged = program.run(["sh", "-c", "echo a; echo b >&2; echo c"], merged=True)
    assert (merged.stdout, merged.stderr, merged.lines) == ("a\nb\nc\n", "", ["a", "b", "c"])


def test_interleaved_streams_are_split_into_their_own_lines() -> None:
    result = program.ProgramResult(1, blocks=[("stdout", b"say corr"), ("stderr", b"x\n"), ("stdout", b"ect\n")])
    assert result.lines == ["x", "say correct"]
    assert result._replace(secrets=("correct",)).lines == ["x", "say [secret redacted]"]


def test_a_missing_program_is_reported() -> None:
    result = program.run(["devenv-no-such-program"])
    assert (result.code, result.started) == (program.NOT_STARTED, False)
    assert result.complaint == "devenv-no-such-program: No such file or directory"


def test_the_whole_group_is_killed_at_the_time_limit(tmp_path: Path) -> None:
    began = time.monotonic()
    result = program.run(["sh", "-c", f"sleep 97 & echo $! > {tmp_path}/pid; printf half; wait"], timeout=0.5)
    assert time.monotonic() - began < 10
    assert (result.code, result.lines) == (program.TIMED_OUT, ["half", "sh did not end within 0.5 s and was killed"])
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while not processes.gone(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert processes.gone(pid)


def test_a_process_left_by_a_program_is_not_awaited() -> None:
    began = time.monotonic()
    result = program.run(["sh", "-c", "sleep 20 & echo done"], timeout=60)
    assert time.monotonic() - began < 10
    assert (result.code, result.stdout) == (0, "done\n")


def test_a_program_that_closes_its_output_has_a_time_limit() -> None:
    assert program.run(["sh", "-c", "exec >&- 2>&-; sleep 20"], timeout=0.3).code == program.TIMED_OUT


def test_a_log_is_written_line_by_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program.run(["sh", "-c", "echo one; printf two"], log=str(log))
    assert [line.split(None, 1)[1] for line in log.read_text().splitlines()] == ["one", "two"]
    program.run(["echo", "three"], log=str(log), append=True)
    assert [line.split(None, 1)[1] for line in log.read_text().splitlines()] == ["one", "two", "three"]


def test_run_all_runs_programs_in_parallel() -> None:
    began = time.monotonic()
    results = program.run_all({str(number): ["sh", "-c", f"sleep 0.5; echo {number}"] for number in range(6)})
    assert {name: result.stdout for name, result in results.items()} == {str(n): f"{n}\n" for n in range(6)}
    assert time.monotonic() - began < 2.5


@pytest.mark.parametrize(("text", "value"), [('{"a": 1}', {"a": 1}), ("", "none"), ("{half", "none")])
def test_json_parses_standard_output(text: str, value: object) -> None:
    assert program.ProgramResult(0, text).json("none") == value


def test_programs_on_a_node_get_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A login may set them (/etc/environment), and kubeadm would write them into the control plane's manifests."""
    for variable in ("HTTP_PROXY", "https_proxy", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.setenv(variable, "http://192.0.2.1:3128")
    shown = program.run(["env"]).stdout
    assert "PATH=" in shown
    assert "192.0.2.1" not in shown
