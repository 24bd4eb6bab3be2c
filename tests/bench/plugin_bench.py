"""What the pytest plugin costs a suite that uses no hardware, beside the same suite without it.

Usage: plugin_bench.py [--tests N] [--rounds N]. Prints one JSON document: seconds of each round, wall and CPU, in turn
with and without the plugin; medians, their difference in milliseconds and their ratio. Nothing here is a pass or a
failure.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WITHOUT = ("-p", "no:devenv")
KINDS = ("wall", "cpu")


def suite(folder: Path, tests: int) -> None:
    """``tests`` functions that do nothing, ten a file."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    for place in range(0, tests, 10):
        lines = [f"def test_{number}():\n    pass\n" for number in range(place, min(place + 10, tests))]
        (folder / f"test_{place}.py").write_text("\n\n".join(lines))


def one_run(folder: Path, words: Sequence[str]) -> tuple[float, float]:
    """Wall and CPU seconds of a run of the suite."""
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
    begin = time.monotonic()
    child = subprocess.Popen(argv, cwd=folder, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    seconds = time.monotonic() - begin
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(argv)} failed")
    return seconds, used.ru_utime + used.ru_stime


def measure(tests: int = 200, rounds: int = 11) -> dict[str, Any]:
    """All rounds; the first pair, which warms caches, does not count."""
    found: dict[str, dict[str, list[float]]] = {way: {kind: [] for kind in KINDS} for way in ("with", "without")}
    with tempfile.TemporaryDirectory(prefix="plugin-bench-") as place:
        folder = Path(place)
        suite(folder, tests)
        for number in range(rounds + 1):
            for way, words in (("with", ()), ("without", WITHOUT)):
                seconds = one_run(folder, words)
                if number:
                    for kind, value in zip(KINDS, seconds, strict=True):
                        found[way][kind].append(round(value, 4))
    medians = {kind: {way: statistics.median(found[way][kind]) for way in found} for kind in KINDS}
    return {
        "tests": tests,
        "rounds": rounds,
        "seconds": found,
        "overhead_ms": {kind: round((one["with"] - one["without"]) * 1000, 1) for kind, one in medians.items()},
        "ratio": {kind: round(one["with"] / one["without"], 3) for kind, one in medians.items()},
        "load": os.getloadavg(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure the pytest plugin on tests that do not use it.")
    parser.add_argument("--tests", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=11)
    asked = parser.parse_args(arguments)
    print(json.dumps(measure(asked.tests, asked.rounds), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
