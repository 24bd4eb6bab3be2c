"""Asking a cluster with several masters, by programs that are not ours."""

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
    """network.yml of the environment."""
    return dict(yaml.safe_load((state(user, name) / "network.yml").read_text()))


def virtual(user: Typed, name: str) -> list[str]:
    """The virtual addresses of its first cluster, in the families' order."""
    return list(network(user, name)["clusters"]["main"]["virtual"].values())


def url(address: str, path: str = "/readyz") -> str:
    return f"https://{f'[{address}]' if ':' in address else address}:6443{path}"


def authority(user: Typed, name: str, folder: Path) -> Path:
    """The cluster's CA in a file, from the kubeconfig."""
    document = yaml.safe_load((state(user, name) / "kubeconfig").read_text())
    path = folder / f"{name}.crt"
    path.write_bytes(base64.b64decode(document["clusters"][0]["cluster"]["certificate-authority-data"]))
    return path


def client(user: Typed, name: str, folder: Path) -> Path:
    """The certificate and key of the kubeconfig's user in a file that only its owner reads."""
    document = yaml.safe_load((state(user, name) / "kubeconfig").read_text())
    held = document["users"][0]["user"]
    path = folder / f"{name}.pem"
    path.touch(mode=0o600)
    path.write_bytes(b"".join(base64.b64decode(held[f"client-{part}-data"]) for part in ("certificate", "key")))
    return path


def etcdctl(container: str, *words: str) -> subprocess.CompletedProcess[str]:
    """etcdctl on a master, by a name that is its own address in each family."""
    keys = [
        "--endpoints=https://localhost:2379",
        f"--cacert={PKI}/ca.crt",
        f"--cert={PKI}/healthcheck-client.crt",
        f"--key={PKI}/healthcheck-client.key",
    ]
    argv = ["podman", "exec", container, "etcdctl", "--command-timeout=10s", *keys, *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


def members(name: str, masters: list[str]) -> dict[str, bool]:
    """Health by name of the members that etcd itself knows and that vote, asked on the first of ``masters``."""
    container = f"{name}-{masters[0]}"
    listed = json.loads(etcdctl(container, "member", "list", "-w=json").stdout)["members"]
    # A member that is ill makes the program end with 1, with all lines all the same.
    told = json.loads(etcdctl(container, "endpoint", "health", "--cluster", "-w=json").stdout)
    healthy = {row["endpoint"]: row["health"] for row in told}
    return {
        member.get("name", ""): healthy.get(member["clientURLs"][0], False)
        for member in listed
        if not member.get("isLearner")
    }


def wait_for_members(name: str, masters: list[str], seconds: float = 60) -> dict[str, bool]:
    """Their health once all of ``masters`` and nobody else are healthy, or the last that was seen."""
    deadline = time.monotonic() + seconds
    wanted = dict.fromkeys(masters, True)
    while True:
        try:
            seen = members(name, masters)
        except (ValueError, KeyError):
            seen = {}
        if seen == wanted or time.monotonic() >= deadline:
            return seen
        time.sleep(0.5)


def holders(user: Typed, name: str, masters: list[str]) -> list[str]:
    """Masters that have a virtual address."""
    found = []
    for master in masters:
        shown = subprocess.run(
            ["podman", "exec", f"{name}-{master}", "ip", "-oneline", "address", "show"], capture_output=True, text=True
        ).stdout
        if any(f" {address}/" in shown for address in virtual(user, name)):
            found.append(master)
    return found


@dataclass
class Asker:
    """Reads a namespace at an address each 0.2 s with curl, in a thread: a request that goes as far as etcd's quorum.
    ``answers``: when it asked, HTTP status (000: none).
    """

    address: str
    authority: Path
    client: Path
    answers: list[tuple[float, str]] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Asker:
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread:
            self._thread.join(timeout=30)

    def _ask(self) -> None:
        argv = ["curl", "--silent", "--cacert", str(self.authority), "--cert", str(self.client)]
        argv += ["--max-time", "2", "--output", "/dev/null", "--write-out", "%{http_code}"]
        asked = url(self.address, "/api/v1/namespaces/kube-system")
        while not self._over.is_set():
            began = time.monotonic()
            done = subprocess.run([*argv, asked], capture_output=True, text=True)
            self.answers.append((began, done.stdout))
            self._over.wait(max(0.0, 0.2 - (time.monotonic() - began)))

    def failures(self) -> list[tuple[float, str]]:
        return [answer for answer in self.answers if answer[1] != "200"]

    def outage(self, since: float) -> tuple[float, float]:
        """Seconds from ``since`` (monotonic) to the first answer after a failure, and to the last failure; 0 and 0
        when there was none."""
        failed = [at for at, status in self.failures() if at >= since]
        if not failed:
            return 0.0, 0.0
        again = [at for at, status in self.answers if status == "200" and at > failed[0]]
        return (again[0] - since if again else float("inf")), failed[-1] - since
