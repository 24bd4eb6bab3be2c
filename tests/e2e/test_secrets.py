"""No key, token or certificate key is in a log, event, argument list or artifact, even at the highest verbosity."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support.commands import Typed
from support.seen import inside

pytestmark = pytest.mark.cluster

# Forbidden patterns: bootstrap tokens (the public names of their Secrets are fine) and private keys.
SHAPES = [
    re.compile(rb"(?<![a-z0-9-])[a-z0-9]{6}\.[a-z0-9]{16}(?![a-z0-9])"),
    re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    re.compile(rb"certificate[-_ ]?[kK]ey[\"':= ]+[0-9a-f]{64}"),
    re.compile(rb"client-key-data: [A-Za-z0-9+/=]{40}"),
]


class Watcher:
    """Collects the argument lists of every process while a command runs."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.is_set():
            for folder in Path("/proc").iterdir():
                if folder.name.isdigit():
                    try:
                        self.seen.add((folder / "cmdline").read_bytes())
                    except OSError:
                        continue
            time.sleep(0.05)


def secrets_of(state: Path) -> list[bytes]:
    """Return the secrets themselves: bodies of the private keys, and the kubeconfig's key."""
    keys = []
    for path in (state / "ssh").rglob("*_ed25519*"):
        if path.is_file() and path.suffix != ".pub":
            keys.append(path.read_bytes().splitlines()[1])
    kubeconfig = yaml.safe_load((state / "kubeconfig").read_text())
    for user in kubeconfig["users"]:
        data = user["user"]["client-key-data"]
        keys += [data.encode()[:60], base64.b64decode(data).splitlines()[1]]
    return keys


def contents(*folders: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the path and content of every file below ``folders``."""
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                yield str(path), path.read_bytes()


def containing(texts: Iterator[tuple[str, bytes]], secrets: list[bytes]) -> list[str]:
    """Return the names of the texts that contain a secret or match a forbidden pattern."""
    return [
        name
        for name, text in texts
        if any(secret in text for secret in secrets) or any(shape.search(text) for shape in SHAPES)
    ]


def test_nothing_secret_is_written_or_shown(user: Typed, environment: str, tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    with Watcher() as watcher:
        done = user.devenv(
            "up", "--profile", "master-2pipe", "--name", environment, "--artifacts", str(artifacts), "-vvv"
        )
        assert user.objects("up", "--name", environment)[-1]["exit"] == 0
    state = user.home / "environments" / environment
    secrets = secrets_of(state)
    assert len(secrets) >= 6

    # The search works: it matches the files of the secrets themselves, and a log line of each pattern.
    assert containing(contents(state / "ssh", state / "clusters"), secrets)
    for shape in (
        b"using token abcdef.0123456789abcdef here",
        b"-----BEGIN OPENSSH PRIVATE KEY-----",
        b'"certificate_key": "' + b"a" * 64,
        b"client-key-data: " + b"A" * 60,
    ):
        assert containing(iter([("line", shape)]), [b"no such thing"]) == ["line"]

    assert containing(iter([("stdout", done.stdout.encode()), ("stderr", done.stderr.encode())]), secrets) == []
    assert containing(contents(state / "runs", artifacts), secrets) == []
    files = [state / name for name in ("ledger.jsonl", "inventory.yml", "profile.yml", "network.yml")]
    assert containing(((str(path), path.read_bytes()) for path in files), secrets) == []
    assert containing(((repr(argv)[:80], argv) for argv in watcher.seen), secrets) == []
    for node in ("master-0", "worker-0", "worker-1"):
        journal = inside(f"{environment}-{node}", "sh", "-c", "journalctl --no-pager; cat /var/log/devenv/* || :")
        assert containing(iter([(node, journal.encode())]), secrets) == []
    shown = user.run("/usr/bin/podman", "inspect", f"{environment}-master-0").stdout
    assert containing(iter([("podman inspect", shown.encode())]), secrets) == []

    # What remains is private, and the join secret is gone.
    assert not (state / "clusters" / "main" / "join.json").exists()
    open_ = [
        str(path)
        for path in (state, state / "ssh", state / "ssh" / "id_ed25519", (state / "kubeconfig").resolve())
        if path.stat().st_mode & 0o77
    ]
    assert open_ == []
    assert json.loads((state / "ledger.jsonl").read_text().splitlines()[0])["stage"] == "preflight"
