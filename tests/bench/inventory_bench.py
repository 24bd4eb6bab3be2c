"""Compare the inventory of a big profile with the same hosts in static YAML. Prints one JSON document.

Usage: inventory_bench.py [--nodes N] [--rounds N]. Needs neither root nor podman and creates no environment.
``ansible-inventory --list`` lists the two in turn; ``ratio`` is that of the medians.
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
    """Return a profile of one master and workers, with address pools that are large enough."""
    workers = {f"worker-{number}": {"labels": {"pipe": "true"}} for number in range(nodes - 1)}
    return {
        "network": {"node_prefix": 20, "pods": {"ipv4": "10.128.0.0/12"}},
        "nodes": {"master-0": {}, **workers},
    }


def listed(home: Path, *arguments: str) -> tuple[float, dict[str, Any]]:
    """List an inventory; return the seconds that it took and the result."""
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
    """Return ``{nodes, rounds, profile: [seconds], static: [seconds], ratio}``.

    Raises SystemExit if the two inventories differ, because the comparison would be worthless.
    """
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve

    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        profile, static = home / "big.yml", home / "static.yml"
        profile.write_text(yaml.safe_dump(big_profile(nodes)))
        resolved = resolve(str(profile))
        static.write_text(inventory.to_yaml(inventory.build(resolved, None, home / "environments" / "big")))
        profile_seconds: list[float] = []
        static_seconds: list[float] = []
        for _ in range(rounds):
            seconds, from_profile = listed(home, "-i", "inventories/profile", "-e", f"profile={profile}")
            profile_seconds.append(seconds)
            seconds, from_static = listed(home, "-i", str(static))
            static_seconds.append(seconds)
            if hosts(from_profile) != hosts(from_static):
                raise SystemExit("the two listings differ")
    return {
        "nodes": nodes,
        "rounds": rounds,
        "profile": profile_seconds,
        "static": static_seconds,
        "ratio": statistics.median(profile_seconds) / statistics.median(static_seconds),
    }


def hosts(listing: dict[str, Any]) -> dict[str, Any]:
    """Return the variables by host, without the one that repeats the profile of the command line."""
    return {
        host: {key: value for key, value in variables.items() if key != "profile"}
        for host, variables in listing["_meta"]["hostvars"].items()
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure the inventory of a big profile.")
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    print(json.dumps(measure(options.nodes, options.rounds), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
