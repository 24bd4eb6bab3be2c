"""Run the project's gates: stream their output, time them, keep their logs, count their tests.

Usage: run_gates.py NAME... where a name is a gate, a stage or ``all``. Stages run one after the other (lint and unit
count as one), the gates of one stage in parallel. Logs go to .cache/test-logs/. The output ends with a table, the
tests that failed and, as the last line, ``N passed, N failed``.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TextIO

import yaml

ROOT = Path(__file__).resolve().parents[1]
BIN = ROOT / ".venv" / "bin"
LOGS = ROOT / ".cache" / "test-logs"
TABLE = ROOT / "tools" / "gates.yml"

# Gates of a stage that run in parallel.
JOBS = min(os.cpu_count() or 1, 4)

# Seconds that an interrupted gate has for its cleanup: it removes the nodes that tests created.
GRACE = 90

COLOURS = re.compile(r"\x1b\[[0-9;]*m")

# pytest's exit code when it collected nothing.
NO_TESTS = 5

# The end of a log alone must show what failed: at most this many failures per gate, and characters per failure.
FAILURES = 10
WIDTH = 320

# After a failure in one of these, the expensive stages do not run: they cost much and reveal little.
CHEAP = ("lint", "unit", "artifact")
# One stage, since half of lint is a single long program, and half of unit is waiting.
TOGETHER = ("lint", "unit")


@dataclass(frozen=True)
class Gate:
    """One program to run, a row of tools/gates.yml."""

    name: str
    stage: str
    argv: tuple[str, ...]
    minutes: float
    junit: bool = False
    counts: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    scratch: str = ""


@dataclass(frozen=True)
class Outcome:
    """The result of a gate. ``reason`` is empty if it passed; ``failures`` are lines about tests, as far as known."""

    gate: Gate
    passed: int
    failed: int
    seconds: float
    reason: str = ""
    failures: tuple[str, ...] = ()


def gates(*, nightly: bool = False) -> list[Gate]:
    """Return all gates in the order in which they run."""
    data = yaml.safe_load(TABLE.read_text())
    words = {
        "usual": "" if nightly else " and not nightly",
        "scenarios": " ".join(f"--scenario-name {name}" for name in data["scenarios"]),
    }
    return [_gate(row, words, nightly) for row in data["gates"] if nightly or not row.get("nightly")]


def _gate(row: Mapping[str, Any], words: Mapping[str, str], nightly: bool) -> Gate:
    values = {key: value for key, value in row.items() if key not in ("run", "nightly", "nightly_minutes")}
    if nightly and "nightly_minutes" in row:
        values["minutes"] = row["nightly_minutes"]
    return Gate(**values, argv=tuple(shlex.split(row["run"].format_map(words))))


def chosen(all_gates: Sequence[Gate], names: Iterable[str]) -> list[Gate]:
    """Return the gates that ``names`` (gates, stages, ``all``) select, in order. Raises ValueError for other names."""
    selected = set(names)
    valid = {"all"} | {gate.name for gate in all_gates} | {gate.stage for gate in all_gates}
    if unknown := sorted(selected - valid):
        raise ValueError(f"unknown: {', '.join(unknown)} (valid: {', '.join(sorted(valid))})")
    return [gate for gate in all_gates if selected & {"all", gate.name, gate.stage}]


def environment(base: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of every gate: .venv first on PATH, no variables that change how Ansible runs."""
    ignored = ("ANSIBLE_", "MOLECULE_", "DEVENV_", "PYTHONUNBUFFERED")
    kept = {name: value for name, value in base.items() if not name.startswith(ignored)}
    return {**kept, "PATH": f"{BIN}:{base.get('PATH', '')}", "VIRTUAL_ENV": str(BIN.parent)}


def junit_counts(report: Path) -> tuple[int, int, int]:
    """Return the passed, failed and skipped tests of pytest's JUnit file (an xfail counts as skipped)."""
    suites = list(_elements(report, "testsuite"))
    total, failures, errors, skipped = (
        sum(int(suite.get(key, 0)) for suite in suites) for key in ("tests", "failures", "errors", "skipped")
    )
    return max(total - failures - errors - skipped, 0), failures + errors, skipped


def junit_failures(report: Path, *, strict: bool = False) -> tuple[str, ...]:
    """Return ``file::test: message``, shortened and in one line, for each test of a JUnit file that failed.

    With ``strict``, skipped tests are failures.
    """
    tags = ("failure", "error", "skipped") if strict else ("failure", "error")
    lines = []
    for case in _elements(report, "testcase"):
        for problem in (problem for tag in tags for problem in case.iter(tag)):
            message = " ".join((problem.get("message") or problem.text or "").split())
            if len(message) > WIDTH:
                # The command is at the beginning, its last message at the end.
                message = f"{message[: WIDTH // 3]} ... {message[-(WIDTH - WIDTH // 3) :]}"
            lines.append(f"{case.get('classname', '').replace('.', '/')}::{case.get('name', '')}: {message}")
    return tuple(lines)


def _elements(report: Path, tag: str) -> Iterator[ElementTree.Element]:
    return ElementTree.parse(report).getroot().iter(tag) if report.is_file() else iter(())


def judge(gate: Gate, code: int | None, output: str, report: Path, *, strict: bool) -> tuple[int, int, str]:
    """Return the passed and failed tests and the reason of a failure (empty: none).

    ``code`` is None after a timeout; with ``strict``, skipped tests are failures.
    """
    matches = len(re.findall(gate.counts, COLOURS.sub("", output))) if gate.counts else 1
    passed, failed, skipped = junit_counts(report) if gate.junit else (matches, 0, 0)
    reason = ""
    if code is None:
        reason = f"not finished within {gate.minutes:g} minutes"
    elif code not in (0, NO_TESTS) or (code != 0 and not gate.junit):
        reason = f"ended with code {code}"
    elif passed + failed + skipped == 0:
        reason = "no test ran"
    elif strict and skipped:
        reason = f"{skipped} skipped"
        failed += skipped
    if reason and not gate.junit:
        passed = 0
    return passed, max(failed, 1) if reason else failed, reason


def _end(child: subprocess.Popen[bytes]) -> None:
    """Interrupt the gate's process group as Ctrl-C does; kill it if it does not end."""
    for signum, patience in ((signal.SIGINT, GRACE), (signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        try:
            os.killpg(child.pid, signum)
            child.wait(patience)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _copy(stream: IO[bytes], log: Path, live: TextIO | None, prefix: str) -> None:
    with log.open("wb", buffering=0) as file:
        for line in iter(stream.readline, b""):
            file.write(line)
            if live is not None:
                live.write(prefix + line.decode(errors="replace"))
                live.flush()


def _wait(child: subprocess.Popen[bytes], seconds: float, stop: threading.Event) -> int | None:
    """Return the exit code; after a timeout, or if ``stop`` is set, end the gate's processes and return None."""
    deadline = time.monotonic() + seconds
    while not stop.is_set() and time.monotonic() < deadline:
        try:
            return child.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
    _end(child)
    return None


def run(
    gate: Gate,
    *,
    live: TextIO | None,
    env: Mapping[str, str],
    logs: Path,
    strict: bool,
    stop: threading.Event,
    cwd: Path = ROOT,
    prefix: str = "",
) -> Outcome:
    """Run one gate; its output goes to ``logs/<name>.log`` and, with ``prefix`` before each line, to ``live``."""
    report, log = logs / f"{gate.name}.xml", logs / f"{gate.name}.log"
    report.unlink(missing_ok=True)
    argv = [*gate.argv, *([f"--junitxml={report}"] if gate.junit else [])]
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"gate-{gate.name}-", ignore_cleanup_errors=True) as scratch:
        child = subprocess.Popen(
            argv,
            cwd=cwd,
            env={**env, **gate.env, **({gate.scratch: scratch} if gate.scratch else {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert child.stdout is not None
        copier = threading.Thread(target=_copy, args=(child.stdout, log, live, prefix), daemon=True)
        copier.start()
        code = _wait(child, gate.minutes * 60, stop)
        # A program that outlives the gate may still hold the pipe.
        copier.join(10)
    passed, failed, reason = judge(gate, code, log.read_text(errors="replace"), report, strict=strict)
    failures = junit_failures(report, strict=strict) if gate.junit else ()
    return Outcome(gate, passed, failed, time.monotonic() - begin, reason, failures)


def _stages(selected: Sequence[Gate]) -> list[list[Gate]]:
    batch = {gate.stage: TOGETHER[0] if gate.stage in TOGETHER else gate.stage for gate in selected}
    return [[gate for gate in selected if batch[gate.stage] == first] for first in dict.fromkeys(batch.values())]


def _report(outcome: Outcome, log: Path, out: TextIO, *, shown: bool) -> None:
    text = log.read_text(errors="replace").rstrip()
    if not shown and text and outcome.reason:
        print(text, file=out)
    verdict = f"FAILED: {outcome.reason} (log: {log.relative_to(ROOT)})" if outcome.reason else "ok"
    print(f"--- {outcome.gate.name}: {verdict} ({outcome.seconds:.1f} s)", file=out, flush=True)


def run_all(selected: Sequence[Gate], *, out: TextIO, env: Mapping[str, str], strict: bool) -> list[Outcome]:
    """Run the gates stage by stage; after a failure, expensive stages are skipped.

    An interrupt ends the running gates before it reaches the caller.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    stop = threading.Event()
    for stage in _stages(selected):
        cheap, alone = stage[0].stage in CHEAP, len(stage) == 1
        if not cheap and any(outcome.reason for outcome in outcomes):
            outcomes += [Outcome(gate, 0, 0, 0, "not run after the failures above") for gate in stage]
            continue
        # The output of long stages is shown while they run.
        live = out if alone or not cheap else None
        if live:
            print(f"=== {' and '.join(gate.name for gate in stage)}", file=out, flush=True)

        def start(gate: Gate, live: TextIO | None = live, alone: bool = alone) -> Outcome:
            prefix = "" if alone else f"{gate.name}: "
            return run(gate, live=live, env=env, logs=LOGS, strict=strict, stop=stop, prefix=prefix)

        with ThreadPoolExecutor(JOBS) as pool:
            try:
                for outcome in pool.map(start, stage):
                    outcomes.append(outcome)
                    _report(outcome, LOGS / f"{outcome.gate.name}.log", out, shown=bool(live))
            except BaseException:
                stop.set()
                raise
    return outcomes


def summary(outcomes: Sequence[Outcome], deferred: Iterable[str] = ()) -> str:
    """Return a table of all gates, the tests that failed, and what is ``deferred`` to nightly.

    The last line is ``N passed, N failed``.
    """
    rows = [f"{'gate':<14}{'passed':>8}{'failed':>8}{'seconds':>9}"]
    rows += [f"{o.gate.name:<14}{o.passed:>8}{o.failed:>8}{o.seconds:>9.1f}  {o.reason}".rstrip() for o in outcomes]
    for outcome in outcomes:
        rows += [f"FAILED {outcome.gate.name}: {line}" for line in outcome.failures[:FAILURES]]
        if len(outcome.failures) > FAILURES:
            rows.append(f"FAILED {outcome.gate.name}: and {len(outcome.failures) - FAILURES} more")
    rows += [f"left to nightly: {text}" for text in deferred]
    rows.append(f"{sum(o.passed for o in outcomes)} passed, {sum(o.failed for o in outcomes)} failed")
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run the project's gates.")
    parser.add_argument("names", nargs="+", metavar="NAME", help="a gate, a stage, or all")
    parser.add_argument("--nightly", action="store_true", help="add the tests that take too long for every change")
    options = parser.parse_args(arguments)
    try:
        selected = chosen(gates(nightly=options.nightly), options.names)
    except ValueError as error:
        parser.error(str(error))
    strict = os.environ.get("CI") == "true"
    # A shell starts background jobs with SIGINT ignored; gates would inherit that, and are ended with SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        outcomes = run_all(selected, out=sys.stdout, env=environment(os.environ), strict=strict)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    everything = "all" in options.names and not options.nightly
    print(summary(outcomes, yaml.safe_load(TABLE.read_text())["left_to_nightly"] if everything else []), flush=True)
    return 1 if any(outcome.reason or outcome.failed for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
