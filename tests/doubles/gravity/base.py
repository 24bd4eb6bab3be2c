"""What the parts of the test double share: its version, its faults, files of the node, other programs."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import time
from typing import Any

VERSION = "7.0.40"
# Rows of {"command", "text", "code", "times", "host"}, and {"fault": NAME, ...}; inserted when a tarball is packed.
FAULTS: list[dict[str, Any]] = []

ROOT = os.environ.get("GRAVITY_DOUBLE_ROOT", "/")
PAPER = os.environ.get("GRAVITY_DOUBLE_PAPER", "")
PAUSE = float(os.environ.get("GRAVITY_DOUBLE_PAUSE", "2"))

LOCAL = "var/lib/gravity/local/node.json"
COUNTERS = "var/lib/gravity-double/counters.json"
BEGUN = "var/lib/gravity-double/install.json"
FAULTS_FILE = "etc/gravity-double.json"
PLANET = f"etc/systemd/system/gravity__gravitational.io__planet__{VERSION}.service"
PORT = 32009
REGISTRY = "leader.telekube.local:5000"
MASTERS = 3
# Number of nodes that may join at once.
EXPANDS = 4

Json = dict[str, Any]


class Error(Exception):
    """An error that ends the program: the text after [ERROR], and the exit code."""

    def __init__(self, text: str, code: int = 255) -> None:
        self.code = code
        super().__init__(text)


def path(name: str) -> str:
    return os.path.join(ROOT, name)


def read(name: str) -> Json:
    try:
        with open(path(name), encoding="utf-8") as stream:
            return dict(json.load(stream))
    except (OSError, ValueError):
        return {}


def write(name: str, content: str, mode: int = 0o600) -> None:
    os.makedirs(os.path.dirname(path(name)), exist_ok=True)
    with os.fdopen(os.open(path(name) + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as stream:
        stream.write(content)
    os.replace(path(name) + ".new", path(name))


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def emit(text: str) -> None:
    print(text, flush=True)


def addresses() -> list[str]:
    """Return the IPv4 addresses of this machine."""
    if PAPER:
        return os.environ.get("GRAVITY_DOUBLE_ADDRESSES", "10.0.0.1").split(",")
    shown = json.loads(sh("ip", "-4", "-json", "address", "show"))
    return [entry["local"] for link in shown for entry in link.get("addr_info", []) if entry.get("scope") == "global"]


def hostname() -> str:
    return os.environ.get("GRAVITY_DOUBLE_HOSTNAME") or socket.gethostname()


def sh(*argv: str, stdin: str | None = None, timeout: float = 300) -> str:
    """Return the standard output of a program. Raises Error if it fails."""
    done = subprocess.run(
        argv,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
    )
    if done.returncode != 0:
        raise Error(f"{' '.join(argv[:4])}: {(done.stderr or done.stdout).strip()[-1500:]}")
    return done.stdout


# --- faults ----------------------------------------------------------------------------------------------------------


def faults() -> list[Json]:
    more = read(FAULTS_FILE).get("faults") or []
    return [*FAULTS, *more]


def named_fault(name: str) -> Json | None:
    """Return the fault with this name for this host that has not occurred often enough yet."""
    for place, row in enumerate(faults()):
        if row.get("fault") == name and _is_due(row, place):
            return row
    return None


def fail_on_demand(command: str) -> None:
    for place, row in enumerate(faults()):
        if row.get("command") != command or not _is_due(row, place):
            continue
        if row.get("hang"):
            if row.get("text"):
                emit(row["text"])
            while True:
                time.sleep(3600)
        raise Error(row["text"], int(row.get("code", 255)))


def _is_due(row: Json, place: int) -> bool:
    if row.get("host") not in (None, hostname(), *addresses()):
        return False
    if "times" not in row:
        return True
    counters = read(COUNTERS)
    key = hashlib.sha256(json.dumps([place, row], sort_keys=True).encode()).hexdigest()[:12]
    counters[key] = counters.get(key, 0) + 1
    write(COUNTERS, json.dumps(counters))
    return bool(counters[key] <= int(row["times"]))
