"""A folder in a node's place, for code that takes a Machine."""

from __future__ import annotations

import stat
import time
from collections.abc import Callable
from pathlib import Path

from ansible_collections.devenv.lab.plugins.module_utils.node.machine import Machine
from ansible_collections.devenv.lab.plugins.module_utils.node.wait import Clock


def write(path: Path, text: str = "x") -> None:
    """A file with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


class Node(Machine):
    """A machine whose files and programs (on PATH) are in a folder, and whose API server answers as ``ready``."""

    def __init__(self, root: Path) -> None:
        (root / "bin").mkdir(parents=True)
        (root / "proc").mkdir()  # without processes: no test ends what runs on this machine
        super().__init__(str(root), http_ok=lambda *words, **more: self.ready(*words, **more))
        self.folder = root
        self.ready: Callable[..., bool] = lambda *_, **__: False

    def __truediv__(self, path: str) -> Path:
        return self.folder / path.lstrip("/")

    def at(self, seconds: float) -> Node:
        """The same node at another time of day, on which nobody waits."""
        self.clock = Clock(time.monotonic, lambda _seconds: None, lambda: seconds)
        return self

    def advertise(self, address: str) -> None:
        """A manifest of the API server, and one of etcd."""
        host = f"[{address}]" if ":" in address else address
        write(self / "etc/kubernetes/manifests/kube-apiserver.yaml", f"    - --advertise-address={address}\n")
        write(self / "etc/kubernetes/manifests/etcd.yaml", f"    - --listen-client-urls=https://{host}:2379\n")

    def program(self, name: str, text: str) -> None:
        """A shell script in a program's place."""
        path = self / "bin" / name
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
