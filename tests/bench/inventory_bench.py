"""What the inventory of a big profile costs beside the same hosts written as static YAML. Prints one JSON document.

Usage: inventory_bench.py [--nodes N] [--rounds N]. Needs neither root nor podman and makes no environment. The two are
listed in turn by ``ansible-inventory --list``; ``ratio`` is that of the medians.
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

import yaml

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(sys.executable).with_name("ansible-inventory")
sys.path.insert(0, str(ROOT / "collections"))


def big_profile(nodes: int) -> dict[str, Any]:
    """A profile of one master and workers, with pools that hold them."""
    workers = {f"worker-{number}": {"labels": {"pipe": "true"}} for number in range(nodes - 1)}
    return {
        "network": {"node_prefix": 20, "pods": {"ipv4": "10.128.0.0/12"}},
        "nodes": {"master-0": {}, **workers},
    }


def listed(home: Path, *arguments: str) -> tuple[float, dict[str, Any]]:
    """Seconds that a listing takes, and what it says."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    env.pop("PYTHONUNBUFFERED", None)
    begin = time.monotonic()
    done = subprocess.run(
        [PROGRAM, "--list", *arguments],
        cwd=ROOT,
        env={**env, "DEVENV_HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    return time.monotonic() - begin, json.loads(done.stdout)


def measure(nodes: int = 1000, rounds: int = 3) -> dict[str, Any]:
    """``{nodes, rounds, profile: [seconds], static: [seconds], ratio}``. Raises SystemExit when the two say different
    things: then the comparison is none.
    """
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve

    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        wanted, static = home / "big.yml", home / "static.yml"
        wanted.write_text(yaml.safe_dump(big_profile(nodes)))
        resolved = resolve(str(wanted))
        static.write_text(inventory.to_yaml(inventory.build(resolved, None, home / "environments" / "big")))
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(rounds):
            seconds, said = listed(home, "-i", "inventories/profile", "-e", f"profile={wanted}")
            ours.append(seconds)
            seconds, same = listed(home, "-i", str(static))
            theirs.append(seconds)
            if hosts(said) != hosts(same):
                raise SystemExit("the two listings differ")
    return {
        "nodes": nodes,
        "rounds": rounds,
        "profile": ours,
        "static": theirs,
        "ratio": statistics.median(ours) / statistics.median(theirs),
    }


def hosts(said: dict[str, Any]) -> dict[str, Any]:
    """Variables of the hosts, without those that only name the profile given on the command line."""
    found = said["_meta"]["hostvars"]
    return {host: {key: value for key, value in own.items() if key != "profile"} for host, own in found.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure the inventory of a big profile.")
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args(arguments)
    print(json.dumps(measure(asked.nodes, asked.rounds), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
