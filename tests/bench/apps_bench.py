"""What a snapshot saves when there is an application in it: PostgreSQL of Debian's packages, with a database.

Usage: apps_bench.py [--profile NAME] [--rounds N] [--scale N]. Needs root and podman. Seconds until a client counts the
rows of the database: from nothing (up, image, deployment, rows written by pgbench), and from a snapshot of that.
The image is made before anything is measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import command
from command import devenv

NAME = "bench-apps"
IMAGE = "example.test/postgres:15"
ROWS_PER_SCALE = 100_000
SERVER = """
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: postgres}
spec:
  serviceName: postgres
  selector: {matchLabels: {app: postgres}}
  template:
    metadata: {labels: {app: postgres}}
    spec:
      containers:
        - name: postgres
          image: example.test/postgres:15
          imagePullPolicy: Never
          args:
            - sh
            - -ec
            - |
              install -d -m 700 -o postgres /data/15 /run/postgresql
              run="setpriv --reuid=postgres --regid=postgres --clear-groups"
              test -s /data/15/PG_VERSION || $run /usr/lib/postgresql/15/bin/initdb -D /data/15 >/dev/null
              exec $run /usr/lib/postgresql/15/bin/postgres -D /data/15
          readinessProbe: {exec: {command: [pg_isready, -q]}, periodSeconds: 1}
          volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
    - metadata: {name: data}
      spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 2Gi}}}
"""
AS_POSTGRES = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")


def make_image(folder: Path) -> None:
    """PostgreSQL in podman's local store, as ``IMAGE``."""
    root = folder / "postgres.tar"
    # Otherwise the package creates its own database while it is installed.
    settings = 'install -D /dev/stdin "$1/etc/postgresql-common/createcluster.conf" <<<"create_main_cluster = false"'
    hook = f"--essential-hook=bash -c '{settings}' -- \"$1\""
    made = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=postgresql-15", hook, "bookworm", str(root)]
    subprocess.run(made, check=True, capture_output=True)
    subprocess.run(["podman", "import", "--quiet", str(root), IMAGE], check=True, capture_output=True)
    root.unlink()


def kubectl(home: Path, *words: str, data: str | None = None) -> subprocess.CompletedProcess[str]:
    return command.kubectl(home / "environments" / NAME / "kubeconfig", *words, data=data, check=False)


def wait_for_rows(home: Path, rows: int, begin: float, limit: float = 300) -> None:
    """Wait until a query of the database counts all rows."""
    query = ("psql", "--no-align", "--tuples-only", "--command=select count(*) from pgbench_accounts")
    while True:
        done = kubectl(home, "exec", "postgres-0", "--", *AS_POSTGRES, *query)
        if done.stdout.strip() == str(rows):
            return
        if time.monotonic() - begin > limit:
            raise SystemExit(f"{rows} rows did not appear within {limit:g} s: {done.stdout}{done.stderr}")
        time.sleep(0.2)


def deploy(home: Path, scale: int) -> None:
    """Install the application and its rows in a cluster without them."""
    commands: tuple[tuple[tuple[str, ...], str | None], ...] = (
        (("apply", "--filename=-"), SERVER),
        (("wait", "--for=create", "pod/postgres-0", "--timeout=60s"), None),
        (("wait", "--for=condition=Ready", "pod/postgres-0", "--timeout=120s"), None),
        (("exec", "postgres-0", "--", *AS_POSTGRES, "pgbench", "--initialize", "--quiet", f"--scale={scale}"), None),
    )
    devenv(home, "image", "load", IMAGE, "--name", NAME)
    for words, data in commands:
        done = kubectl(home, *words, data=data)
        if done.returncode:
            raise SystemExit(f"kubectl {' '.join(words)}: {done.stderr}")


def measure(profile: str = "aio", rounds: int = 3, scale: int = 20) -> dict[str, Any]:
    """Return seconds of each round, medians, and the ratio of a start from the snapshot to a new installation."""
    rows = scale * ROWS_PER_SCALE
    fresh: list[dict[str, float]] = []
    saved: list[float] = []
    with command.scratch("apps-bench-") as folder:
        home = folder / "home"
        make_image(folder)
        try:
            for number in range(rounds):
                begin = time.monotonic()
                devenv(home, "up", "--profile", profile, "--set", "storage.enabled=true", "--name", NAME)
                up = time.monotonic() - begin
                deploy(home, scale)
                wait_for_rows(home, rows, begin)
                fresh.append({"up": round(up, 2), "rows": round(time.monotonic() - begin, 2)})
                devenv(home, "snapshot", "save", f"apps-{number}", "--name", NAME)
                devenv(home, "down", "--name", NAME)
                begin = time.monotonic()
                devenv(home, "up", "--snapshot", f"apps-{number}", "--name", NAME)
                wait_for_rows(home, rows, begin)
                saved.append(round(time.monotonic() - begin, 2))
                devenv(home, "down", "--name", NAME)
        finally:
            devenv(home, "down", "--name", NAME, check=False)
            subprocess.run(["podman", "rmi", "--ignore", IMAGE], check=False, capture_output=True)
    medians = {"fresh": statistics.median(times["rows"] for times in fresh), "snapshot": statistics.median(saved)}
    return {
        "profile": profile,
        "rows": rows,
        "seconds": {"fresh": fresh, "snapshot": saved},
        "median": medians,
        "ratio": round(medians["snapshot"] / medians["fresh"], 3),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure a start from a snapshot with an application in it.")
    parser.add_argument("--profile", default="aio")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=int, default=20, help=f"of pgbench: {ROWS_PER_SCALE} rows each")
    options = parser.parse_args(arguments)
    print(json.dumps(measure(options.profile, options.rounds, options.scale), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
