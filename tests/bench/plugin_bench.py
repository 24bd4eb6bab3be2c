"""Measure what the pytest plugin costs a suite that uses no hardware, compared with the same suite without it.

Usage: plugin_bench.py [--tests N] [--rounds N]. Prints one JSON document: seconds of each round, wall and CPU, in turn
with and without the plugin; medians, their difference in milliseconds and their ratio.
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
    """Write ``tests`` test functions that do nothing, ten per file."""
    (folder / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    for place in range(0, tests, 10):
        lines = [f"def test_{number}():\n    pass\n" for number in range(place, min(place + 10, tests))]
        (folder / f"test_{place}.py").write_text("\n\n".join(lines))


def one_run(folder: Path, words: Sequence[str]) -> tuple[float, float]:
    """Run the suite; return wall and CPU seconds."""
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
    begin = time.monotonic()
    child = subprocess.Popen(argv, cwd=folder, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    seconds = time.monotonic() - begin
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(argv)} failed")
    return seconds, used.ru_utime + used.ru_stime


def measure(tests: int = 200, rounds: int = 11) -> dict[str, Any]:
    """Measure all rounds; the first pair only warms the caches and does not count."""
    values: dict[str, dict[str, list[float]]] = {
        variant: {kind: [] for kind in KINDS} for variant in ("with", "without")
    }
    with tempfile.TemporaryDirectory(prefix="plugin-bench-") as place:
        folder = Path(place)
        suite(folder, tests)
        for number in range(rounds + 1):
            for variant, words in (("with", ()), ("without", WITHOUT)):
                seconds = one_run(folder, words)
                if number:
                    for kind, value in zip(KINDS, seconds, strict=True):
                        values[variant][kind].append(round(value, 4))
    medians = {kind: {variant: statistics.median(values[variant][kind]) for variant in values} for kind in KINDS}
    return {
        "tests": tests,
        "rounds": rounds,
        "seconds": values,
        "overhead_ms": {
            kind: round((median["with"] - median["without"]) * 1000, 1) for kind, median in medians.items()
        },
        "ratio": {kind: round(median["with"] / median["without"], 3) for kind, median in medians.items()},
        "load": os.getloadavg(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure the pytest plugin on tests that do not use it.")
    parser.add_argument("--tests", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args(arguments)
    print(json.dumps(measure(options.tests, options.rounds), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
