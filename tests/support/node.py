"""A folder in place of a node, for code that takes a Machine."""

from __future__ import annotations

import stat
import time
from collections.abc import Callable
from pathlib import Path

from ansible_collections.devenv.lab.plugins.module_utils.node.machine import Machine
from ansible_collections.devenv.lab.plugins.module_utils.node.wait import Clock


def write(path: Path, text: str = "x") -> None:
    """Write a file and create its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


class Node(Machine):
    """A machine with files and programs (on PATH) in a folder, whose HTTP responses come from ``status``, and
    by default from ``ready``.
    """

    def __init__(self, root: Path) -> None:
        (root / "bin").mkdir(parents=True)
        (root / "proc").mkdir()  # empty, so that no test signals processes of this machine
        super().__init__(str(root), http_status=lambda *words, **more: self.status(*words, **more))
        self.folder = root
        self.ready: Callable[..., bool] = lambda *_, **__: False
        self.status: Callable[..., int | None] = lambda *words, **more: 200 if self.ready(*words, **more) else None

    def __truediv__(self, path: str) -> Path:
        return self.folder / path.lstrip("/")

    def at(self, seconds: float) -> Node:
        """Return this node with another wall time and without waiting."""
        self.clock = Clock(time.monotonic, lambda _seconds: None, lambda: seconds)
        return self

    def advertise(self, address: str) -> None:
        """Write manifests of the API server and of etcd."""
        host = f"[{address}]" if ":" in address else address
        write(self / "etc/kubernetes/manifests/kube-apiserver.yaml", f"    - --advertise-address={address}\n")
        write(self / "etc/kubernetes/manifests/etcd.yaml", f"    - --listen-client-urls=https://{host}:2379\n")

    def program(self, name: str, text: str) -> None:
        """Replace a program with a shell script."""
        path = self / "bin" / name
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
