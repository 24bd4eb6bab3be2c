"""Run the project's gates: stream what they print, time them, keep their logs, count their tests.

Usage: run_gates.py NAME... where a name is a gate, a stage or ``all``. Stages run one after the other, the gates of one
stage (lint and unit are one) side by side. Logs go to .cache/test-logs/. At the end stand a table, the tests that
failed and, as the last line, ``N passed, N failed``.
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
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TextIO

import yaml

ROOT = Path(__file__).resolve().parents[1]
BIN = ROOT / ".venv" / "bin"
LOGS = ROOT / ".cache" / "test-logs"
TABLE = ROOT / "tools" / "gates.yml"

# How long a gate that was asked to end may clean up (nodes that tests made are taken down), in seconds.
GRACE = 90

COLOURS = re.compile(r"\x1b\[[0-9;]*m")

# pytest's exit code when it collected nothing.
NO_TESTS = 5

# Who reads the end of a log alone must see what broke: so many failures of a gate, each in so many characters.
NAMED = 10
WIDTH = 320


@dataclass(frozen=True)
class Gate:
    """One program to run, a row of tools/gates.yml."""

    name: str
    stage: str
    argv: tuple[str, ...]
    minutes: float
    junit: bool = False
    counts: str = ""
    env: tuple[tuple[str, str], ...] = ()
    scratch: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a gate gave. ``reason`` is empty when it passed; ``failures`` are lines on tests, where these are known."""

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


def _gate(row: dict[str, Any], words: Mapping[str, str], nightly: bool) -> Gate:
    return Gate(
        row["name"],
        row["stage"],
        tuple(shlex.split(row["run"].format_map(words))),
        row.get("nightly_minutes", row["minutes"]) if nightly else row["minutes"],
        junit=row.get("junit", False),
        counts=row.get("counts", ""),
        env=tuple(row.get("env", {}).items()),
        scratch=row.get("scratch", ""),
    )


# After a failure in one of these the rest costs much and tells little.
CHEAP = ("lint", "unit", "artifact")
# Side by side, as one stage: half of the one is a single long program, half of the other is waiting.
TOGETHER = ("lint", "unit")


def chosen(all_gates: Sequence[Gate], names: Iterable[str]) -> list[Gate]:
    """The gates that ``names`` (gates, stages, ``all``) mean, in order. Raises ValueError for an unknown name."""
    wanted = set(names)
    known = {"all"} | {g.name for g in all_gates} | {g.stage for g in all_gates}
    if unknown := sorted(wanted - known):
        raise ValueError(f"unknown: {', '.join(unknown)} (known: {', '.join(sorted(known))})")
    return [g for g in all_gates if "all" in wanted or g.name in wanted or g.stage in wanted]


def environment(base: Mapping[str, str]) -> dict[str, str]:
    """What every gate sees: the tools of .venv first, nothing that changes how Ansible runs."""
    kept = {
        k: v
        for k, v in base.items()
        if not k.startswith(("ANSIBLE_", "MOLECULE_", "DEVENV_")) and k != "PYTHONUNBUFFERED"
    }
    return {**kept, "PATH": f"{BIN}:{base.get('PATH', '')}", "VIRTUAL_ENV": str(BIN.parent)}


def junit_counts(path: Path) -> tuple[int, int, int]:
    """Passed, failed and skipped of a JUnit file as pytest writes it (an xfail counts as skipped)."""
    if not path.is_file():
        return 0, 0, 0
    suites = ElementTree.parse(path).getroot().iter("testsuite")
    total = failed = skipped = 0
    for suite in suites:
        total += int(suite.get("tests", 0))
        failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped += int(suite.get("skipped", 0))
    return max(total - failed - skipped, 0), failed, skipped


def junit_failures(path: Path) -> tuple[str, ...]:
    """``file::test: message``, in one line and cut, for each test of a JUnit file that failed or broke off."""
    if not path.is_file():
        return ()
    found = []
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        for problem in (*case.iter("failure"), *case.iter("error")):
            message = " ".join((problem.get("message") or problem.text or "").split())
            if len(message) > WIDTH:
                # What was run stands first; what it said in the end comes last.
                message = f"{message[: WIDTH // 3]} ... {message[-(WIDTH - WIDTH // 3) :]}"
            found.append(f"{case.get('classname', '').replace('.', '/')}::{case.get('name', '')}: {message}")
    return tuple(found)


def judge(gate: Gate, code: int | None, output: str, report: Path, *, strict: bool) -> tuple[int, int, str]:
    """Passed, failed and the reason of a failure (empty: none).

    ``code`` is None when the time was over; ``strict``: nothing may be skipped.
    """
    found = len(re.findall(gate.counts, COLOURS.sub("", output))) if gate.counts else 1
    passed, failed, skipped = junit_counts(report) if gate.junit else (found, 0, 0)
    reason = ""
    if code is None:
        reason = f"not done within {gate.minutes:g} minutes"
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
    """Ask the gate's process group to end, as Ctrl-C would; then make it."""
    for signum, patience in ((signal.SIGINT, GRACE), (signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        try:
            os.killpg(child.pid, signum)
        except ProcessLookupError:
            return
        try:
            child.wait(patience)
        except subprocess.TimeoutExpired:
            continue


def _copy(stream: IO[bytes], log: Path, live: TextIO | None, prefix: str) -> None:
    with log.open("wb") as file:
        for line in iter(stream.readline, b""):
            file.write(line)
            file.flush()
            if live is not None:
                live.write(prefix + line.decode(errors="replace"))
                live.flush()


def _wait(child: subprocess.Popen[bytes], seconds: float, stop: threading.Event) -> int | None:
    """The exit code, or None when the time is over or ``stop`` is set; the gate's processes are ended then."""
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
    """Run one gate; its output goes to ``logs/<name>.log`` and, each line behind ``prefix``, to ``live`` if given."""
    report, log = logs / f"{gate.name}.xml", logs / f"{gate.name}.log"
    report.unlink(missing_ok=True)
    argv = [*gate.argv, *([f"--junitxml={report}"] if gate.junit else [])]
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"gate-{gate.name}-", ignore_cleanup_errors=True) as scratch:
        child = subprocess.Popen(
            argv,
            cwd=cwd,
            env={**env, **dict(gate.env), **({gate.scratch: scratch} if gate.scratch else {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert child.stdout is not None
        copier = threading.Thread(target=_copy, args=(child.stdout, log, live, prefix), daemon=True)
        copier.start()
        code = _wait(child, gate.minutes * 60, stop)
        # A program that the gate left behind may still hold the pipe.
        copier.join(10)
    passed, failed, reason = judge(gate, code, log.read_text(errors="replace"), report, strict=strict)
    failures = junit_failures(report) if gate.junit else ()
    return Outcome(gate, passed, failed, time.monotonic() - begin, reason, failures)


def _stages(wanted: Sequence[Gate]) -> list[list[Gate]]:
    batch = {stage: TOGETHER[0] if stage in TOGETHER else stage for stage in (g.stage for g in wanted)}
    return [[g for g in wanted if batch[g.stage] == first] for first in dict.fromkeys(batch.values())]


def _tell(outcome: Outcome, log: Path, out: TextIO, *, shown: bool) -> None:
    text = log.read_text(errors="replace").rstrip()
    if not shown and text and outcome.reason:
        print(text, file=out)
    verdict = f"FAILED: {outcome.reason} (log: {log.relative_to(ROOT)})" if outcome.reason else "ok"
    print(f"--- {outcome.gate.name}: {verdict} ({outcome.seconds:.1f} s)", file=out, flush=True)


def run_all(wanted: Sequence[Gate], *, jobs: int, out: TextIO, env: Mapping[str, str], strict: bool) -> list[Outcome]:
    """Run the gates stage by stage; an expensive stage does not begin after a failure.

    An interrupt ends what runs before it goes on to the caller.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    stop = threading.Event()
    for stage in _stages(wanted):
        if stage[0].stage not in CHEAP and any(o.reason for o in outcomes):
            outcomes += [Outcome(g, 0, 0, 0, "not run after the failures above") for g in stage]
            continue
        alone = len(stage) == 1
        # What takes minutes is shown as it goes.
        live = out if alone or stage[0].stage not in CHEAP else None
        if live:
            print(f"=== {' and '.join(gate.name for gate in stage)}", file=out, flush=True)
        with ThreadPoolExecutor(1 if alone else jobs) as pool:
            running = [
                pool.submit(
                    run,
                    g,
                    live=live,
                    env=env,
                    logs=LOGS,
                    strict=strict,
                    stop=stop,
                    prefix="" if alone else f"{g.name}: ",
                )
                for g in stage
            ]
            try:
                for future in running:
                    outcome = future.result()
                    outcomes.append(outcome)
                    _tell(outcome, LOGS / f"{outcome.gate.name}.log", out, shown=bool(live))
            except BaseException:
                stop.set()
                raise
    return outcomes


def summary(outcomes: Sequence[Outcome], left: Iterable[str] = ()) -> str:
    """Return a table of all gates, the tests that failed, what was ``left`` to nightly and, as the last line,
    ``N passed, N failed``.
    """
    rows = [f"{'gate':<14}{'passed':>8}{'failed':>8}{'seconds':>9}"]
    rows += [f"{o.gate.name:<14}{o.passed:>8}{o.failed:>8}{o.seconds:>9.1f}  {o.reason}".rstrip() for o in outcomes]
    for outcome in outcomes:
        rows += [f"FAILED {outcome.gate.name}: {line}" for line in outcome.failures[:NAMED]]
        if len(outcome.failures) > NAMED:
            rows.append(f"FAILED {outcome.gate.name}: and {len(outcome.failures) - NAMED} more")
    rows += [f"left to nightly: {text}" for text in left]
    rows.append(f"{sum(o.passed for o in outcomes)} passed, {sum(o.failed for o in outcomes)} failed")
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run the project's gates.")
    parser.add_argument("names", nargs="+", metavar="NAME", help="a gate, a stage, or all")
    parser.add_argument("--nightly", action="store_true", help="also the tests that take too long for every change")
    parser.add_argument(
        "--jobs", type=int, default=min(os.cpu_count() or 1, 4), help="gates of a stage that run side by side"
    )
    parser.add_argument("--list", action="store_true", help="show the gates, run nothing")
    options = parser.parse_args(arguments)
    try:
        wanted = chosen(gates(nightly=options.nightly), options.names)
    except ValueError as error:
        parser.error(str(error))
    if options.list:
        for gate in wanted:
            print(f"{gate.stage:<10}{gate.name:<14}{' '.join(gate.argv)}")
        return 0
    strict = os.environ.get("CI") == "true"
    # A shell starts background jobs with SIGINT ignored, and what we start would inherit it: gates end by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        outcomes = run_all(wanted, jobs=options.jobs, out=sys.stdout, env=environment(os.environ), strict=strict)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    left = [] if options.nightly or "all" not in options.names else yaml.safe_load(TABLE.read_text())["left_to_nightly"]
    print(summary(outcomes, left), flush=True)
    return 1 if any(o.reason or o.failed for o in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
