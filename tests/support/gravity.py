"""A lab of nodes with the test double of Gravity, with folders instead of machines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from doubles.gravity import tarball

MASTER = "10.0.0.10"


class Node:
    """A node: call it with the arguments of a `gravity` command."""

    def __init__(self, root: Path, environment: dict[str, str], folder: Path) -> None:
        self.root, self._environment, self._folder = root, environment, folder

    def __call__(self, *words: str, timeout: float = 20) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-S", str(self._folder / "gravity"), *words]
        try:
            return subprocess.run(
                argv,
                env=self._environment,
                cwd=self._folder,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise TimeoutError((error.stdout or b"").decode()) from None

    def exists(self, name: str) -> bool:
        return (self.root / name).exists()


class Lab:
    """Nodes that can reach each other."""

    def __init__(self, folder: Path, gravity: str = "7.0.40") -> None:
        self.folder = folder
        self.paper = folder / "paper"
        self.unpacked = folder / "unpacked"
        self.unpacked.mkdir()
        self.tarball = folder / "lab.tar"
        self.sha256 = tarball.make(self.tarball, gravity=gravity)
        subprocess.run(["tar", "-xf", self.tarball, "-C", self.unpacked], check=True)
        self._installed: Node | None = None

    def environment(self, name: str, addresses: str, hostname: str = "") -> dict[str, str]:
        return {
            **os.environ,
            "GRAVITY_DOUBLE_ROOT": str(self.folder / name),
            "GRAVITY_DOUBLE_PAPER": str(self.paper),
            "GRAVITY_DOUBLE_PAUSE": "0.05",
            "GRAVITY_DOUBLE_HOSTNAME": hostname or name,
            "GRAVITY_DOUBLE_ADDRESSES": addresses,
        }

    def node(self, name: str, addresses: str, hostname: str = "") -> Node:
        return Node(self.folder / name, self.environment(name, addresses, hostname), self.unpacked)

    def install(self) -> Node:
        """The first master, installed once."""
        if self._installed is None:
            node = self.node("master-0", MASTER)
            words = ("--flavor=one", "--role=aio", "--cluster=lab.example", "--cloud-provider=generic")
            answer = node("install", f"--advertise-addr={MASTER}", *words)
            assert answer.returncode == 0, answer.stderr
            self._installed = node
        return self._installed

    def join(
        self, name: str, address: str, role: str, token: str, timeout: float = 20, hostname: str = ""
    ) -> subprocess.CompletedProcess[str]:
        node = self.node(name, address, hostname)
        words = (f"--advertise-addr={address}", f"--token={token}", f"--role={role}")
        return node("join", MASTER, *words, timeout=timeout)

    def state(self) -> dict[str, Any]:
        return dict(json.loads((self.paper / "cluster.json").read_text()))

    def _change(self, **keys: Any) -> None:
        (self.paper / "cluster.json").write_text(json.dumps({**self.state(), **keys}))

    def health(self, reported: dict[str, str]) -> None:
        self._change(health=reported)

    def down(self, is_down: bool) -> None:
        """Whether the masters cannot be reached."""
        self._change(down=is_down)

    def begin_join(self, address: str, role: str) -> None:
        """Begin a join that never ends."""
        operation = {
            "type": "operation_expand",
            "id": "00000000-0000-4000-8000-000000000000",
            "state": "expand_initiated",
            "created": "",
            "progress": {},
            "server": {"ip": address, "role": role, "hostname": address},
        }
        self._change(operations=[*self.state()["operations"], operation])

    def faults(self, rows: Sequence[dict[str, Any]], name: str) -> None:
        """Rows of faults for the node ``name``."""
        path = self.folder / name / "etc" / "gravity-double.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"faults": list(rows)}))
