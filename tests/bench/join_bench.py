"""Measure whether workers join at the same time: seconds until one worker, and until two, have joined a cluster.

Usage: join_bench.py [--rounds N]. Needs root and podman. Prints one JSON document: seconds of each round from the start
of the first join to the end of the last, their medians and the ratio.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from command import devenv

NAME = "bench-join"
TASK = "join | Join the cluster (kubeadm join)"
# Options of ``up`` that leave one worker or both workers of the profile.
VARIANTS: dict[str, tuple[str, ...]] = {"one": ("--set", "nodes.worker-1=null"), "two": ()}


def joined(events: Path) -> float:
    """Return the seconds from the start of the first worker's join to the end of the last one's."""
    rows = [json.loads(line) for line in events.read_text().splitlines()]
    ends = [
        (datetime.fromisoformat(row["time"]).timestamp(), float(row["seconds"]))
        for row in rows
        if row.get("event") == "result" and row.get("task") == TASK
    ]
    return max(end for end, _ in ends) - min(end - seconds for end, seconds in ends)


def one_round(home: Path, words: Sequence[str]) -> float:
    try:
        devenv(home, "up", "--profile", "master-2pipe", "--name", NAME, *words)
        return joined(max((home / "environments" / NAME / "runs").iterdir()) / "events.jsonl")
    finally:
        devenv(home, "down", "--name", NAME)


def measure(rounds: int = 3) -> dict[str, Any]:
    """Measure all rounds, in turn with one worker and with two."""
    seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    with tempfile.TemporaryDirectory(prefix="join-bench-") as folder:
        for _ in range(rounds):
            for variant, words in VARIANTS.items():
                seconds[variant].append(round(one_round(Path(folder), words), 2))
    medians = {variant: statistics.median(values) for variant, values in seconds.items()}
    return {"seconds": seconds, "median": medians, "ratio": round(medians["two"] / medians["one"], 3)}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compare the join of two workers with the join of one.")
    parser.add_argument("--rounds", type=int, default=3)
    print(json.dumps(measure(parser.parse_args(arguments).rounds), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
