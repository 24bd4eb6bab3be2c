"""Query a cluster with several masters by independent programs: etcdctl, curl, ip."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from support.commands import Typed

PKI = "/etc/kubernetes/pki/etcd"


def state(user: Typed, name: str) -> Path:
    return user.home / "environments" / name


def network(user: Typed, name: str) -> dict[str, Any]:
    """Return network.yml of the environment."""
    return dict(yaml.safe_load((state(user, name) / "network.yml").read_text()))


def virtual(user: Typed, name: str) -> list[str]:
    """Return the virtual addresses of the cluster main, in the order of the families."""
    return list(network(user, name)["clusters"]["main"]["virtual"].values())


def url(address: str, path: str = "/readyz") -> str:
    return f"https://{f'[{address}]' if ':' in address else address}:6443{path}"


def ca_file(user: Typed, name: str, folder: Path) -> Path:
    """Write the cluster's CA from the kubeconfig to a file."""
    document = yaml.safe_load((state(user, name) / "kubeconfig").read_text())
    path = folder / f"{name}.crt"
    path.write_bytes(base64.b64decode(document["clusters"][0]["cluster"]["certificate-authority-data"]))
    return path


def client(user: Typed, name: str, folder: Path) -> Path:
    """Write the kubeconfig user's certificate and key to a file that only its owner can read."""
    document = yaml.safe_load((state(user, name) / "kubeconfig").read_text())
    credentials = document["users"][0]["user"]
    path = folder / f"{name}.pem"
    path.touch(mode=0o600)
    path.write_bytes(b"".join(base64.b64decode(credentials[f"client-{part}-data"]) for part in ("certificate", "key")))
    return path


def etcdctl(container: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run etcdctl on a master; localhost resolves in each address family."""
    keys = [
        "--endpoints=https://localhost:2379",
        f"--cacert={PKI}/ca.crt",
        f"--cert={PKI}/healthcheck-client.crt",
        f"--key={PKI}/healthcheck-client.key",
    ]
    argv = ["podman", "exec", container, "etcdctl", "--command-timeout=10s", *keys, *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


def members(name: str, masters: list[str]) -> dict[str, bool]:
    """Return the health by name of the voting members, as etcd on the first of ``masters`` reports them."""
    container = f"{name}-{masters[0]}"
    listed = json.loads(etcdctl(container, "member", "list", "-w=json").stdout)["members"]
    # An unhealthy member makes etcdctl exit with 1; the output is complete all the same.
    endpoints = json.loads(etcdctl(container, "endpoint", "health", "--cluster", "-w=json").stdout)
    healthy = {row["endpoint"]: row["health"] for row in endpoints}
    return {
        member.get("name", ""): healthy.get(member["clientURLs"][0], False)
        for member in listed
        if not member.get("isLearner")
    }


def wait_for_members(name: str, masters: list[str], seconds: float = 60) -> dict[str, bool]:
    """Wait until exactly ``masters`` are healthy members; return the last observed health."""
    deadline = time.monotonic() + seconds
    expected = dict.fromkeys(masters, True)
    while True:
        try:
            health = members(name, masters)
        except (ValueError, KeyError):
            health = {}
        if health == expected or time.monotonic() >= deadline:
            return health
        time.sleep(0.5)


def holders(user: Typed, name: str, masters: list[str]) -> list[str]:
    """Return the masters that have a virtual address."""
    holding = []
    for master in masters:
        shown = subprocess.run(
            ["podman", "exec", f"{name}-{master}", "ip", "-oneline", "address", "show"], capture_output=True, text=True
        ).stdout
        if any(f" {address}/" in shown for address in virtual(user, name)):
            holding.append(master)
    return holding


@dataclass
class Poller:
    """Reads a namespace at an address every 0.2 s with curl, in a thread; such a request needs etcd's quorum.

    ``answers``: time of the request, HTTP status (000: no answer). ``patience``: seconds to connect; a
    request that hangs delays the next one.
    """

    address: str
    ca: Path
    client: Path
    patience: float = 2.0
    answers: list[tuple[float, str]] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Poller:
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread:
            self._thread.join(timeout=30)

    def _poll(self) -> None:
        argv = ["curl", "--silent", "--cacert", str(self.ca), "--cert", str(self.client)]
        argv += [
            "--connect-timeout",
            str(self.patience),
            "--max-time",
            "2",
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code}",
        ]
        target = url(self.address, "/api/v1/namespaces/kube-system")
        while not self._over.is_set():
            began = time.monotonic()
            done = subprocess.run([*argv, target], capture_output=True, text=True)
            self.answers.append((began, done.stdout))
            self._over.wait(max(0.0, 0.2 - (time.monotonic() - began)))

    def failures(self) -> list[tuple[float, str]]:
        return [answer for answer in self.answers if answer[1] != "200"]

    def outage(self, since: float) -> tuple[float, float]:
        """Return the seconds from ``since`` (monotonic) to the first success after a failure, and to the last failure.

        Without a failure, both are 0.
        """
        failed = [at for at, status in self.failures() if at >= since]
        if not failed:
            return 0.0, 0.0
        again = [at for at, status in self.answers if status == "200" and at > failed[0]]
        return (again[0] - since if again else float("inf")), failed[-1] - since
