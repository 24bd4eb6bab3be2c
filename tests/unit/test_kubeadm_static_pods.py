"""Restarts of the control plane's programs: which processes are signalled, and how. The processes are real; a folder
serves as /proc.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import static_pods
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import StepFailed
from ansible_collections.devenv.lab.plugins.module_utils.node.program import ProgramResult
from ansible_collections.devenv.lab.plugins.module_utils.node.wait import Clock
from support.node import Node, write

STUBBORN = "kube-apiserver"
OTHER = "etcdctl"


class ControlPlane(Node):
    """A node whose programs are processes of the test. Only waiting moves the clock; programs that ended meanwhile are
    restarted, as kubelet does, and recorded in ``restarted``. The API server ignores SIGTERM.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.advertise("10.0.0.10")
        self.ready = lambda *_, **__: True
        self.seconds, self.restarted = 0.0, list[str]()
        self.clock = Clock(lambda: self.seconds, self.sleep)
        self.children = {name: self.start(name) for name in (*static_pods.COMPONENTS, OTHER)}

    def start(self, name: str) -> subprocess.Popen[bytes]:
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN if name == STUBBORN else signal.SIG_DFL)
        child = subprocess.Popen(["sleep", "60"])
        signal.signal(signal.SIGTERM, before)
        self.show(child.pid, name)
        return child

    def show(self, pid: int, name: str) -> None:
        write(self / f"proc/{pid}/cmdline", f"/usr/local/bin/{name}\0--flag\0")

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        ended = static_pods.ELECTED if self.restarted else ("etcd",)
        if self.seconds > static_pods.PATIENCE + 1:
            ended = (*ended, STUBBORN)
        for name in ended:
            if name not in self.restarted:
                self.children[name].wait(20)
                (self / f"proc/{self.children[name].pid}/cmdline").unlink()
                self.show(10_000_000 + len(self.restarted), name)
                self.restarted.append(name)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ControlPlane]:
    node = ControlPlane(tmp_path / "node")
    yield node
    for child in node.children.values():
        child.kill()
        child.wait()


def test_etcd_stops_first_and_a_program_that_ignores_sigterm_is_killed(node: ControlPlane) -> None:
    static_pods.restart(node, 60, "kubernetes_certificates")
    assert node.restarted == ["etcd", *static_pods.ELECTED, STUBBORN]
    codes = {name: child.poll() for name, child in node.children.items()}
    ended = dict.fromkeys(static_pods.COMPONENTS, -signal.SIGTERM)
    assert codes == {**ended, STUBBORN: -signal.SIGKILL, OTHER: None}


def test_a_program_that_does_not_start_again_is_named(node: ControlPlane) -> None:
    def wait(seconds: float) -> None:
        node.seconds += seconds

    node.clock = Clock(lambda: node.seconds, wait)
    node.run = lambda *_, **__: ProgramResult(0, "no image\n")
    with pytest.raises(StepFailed, match="etcd did not start again") as raised:
        static_pods.restart(node, 3, "kubernetes_certificates")
    assert raised.value.output == ["kubelet: no image"]
    assert node.children["etcd"].wait(20) == -signal.SIGTERM
    assert [name for name, child in node.children.items() if child.poll() is not None] == ["etcd"]
