"""Run kubeadm: configuration in memory for the time of a call, redacted output, explained failures.

Configuration formats: kubeadm.k8s.io/v1beta4 (https://kubernetes.io/docs/reference/config-api/kubeadm-config.v1beta4/).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.node import files, wait
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import RUNTIME, TAIL, Machine, StepFailed

# A bootstrap token, and a certificate key (64 hexadecimal digits that are not part of a digest).
TOKEN = re.compile(r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b")
KEY = re.compile(r"(?<!sha256:)(?<![0-9A-Fa-f])[0-9a-f]{64}(?![0-9A-Fa-f])")

PHASE = ("init", "phase")
_ERRORS = re.compile(
    r"^error|\[ERROR |^E\d{4} |error execution phase|timed out|connection refused|unable to|couldn't|cannot "
)


class Configuration:
    """Configuration and patches in a private folder of memory-backed /run, which is always removed."""

    def __init__(self, machine: Machine, action: str, config: str, patches: dict[str, str]) -> None:
        self.folder = machine.path(f"{RUNTIME}/kubeadm-{action}")
        self.path = os.path.join(self.folder, "config.yml")
        self.secrets = [*TOKEN.findall(config), *KEY.findall(config)]
        self._texts = {self.path: config}
        self._texts.update({os.path.join(self.folder, "patches", name): text for name, text in patches.items()})

    def __enter__(self) -> Configuration:
        shutil.rmtree(self.folder, ignore_errors=True)  # of a killed run
        os.makedirs(os.path.join(self.folder, "patches"), mode=0o700)
        os.chmod(self.folder, 0o700)
        for path, text in self._texts.items():
            files.write(path, text)
        return self

    def __exit__(self, *_: Any) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def kubeadm(
    machine: Machine,
    words: Sequence[str],
    *,
    timeout: float,
    reason: str | Callable[[Sequence[str]], str],
    name: str = "",
    config: Configuration | None = None,
    what: str = "",
) -> list[str]:
    """Run kubeadm with ``config`` and the log ``kubeadm-<name>``; return its output as redacted lines.

    Raises `StepFailed` if its exit code is not 0, with ``reason`` or what that returns for the lines.
    """
    result = machine.run(
        ["kubeadm", *words, *(["--config", config.path] if config else [])],
        timeout=timeout,
        log=machine.log("kubeadm-" + name) if name else "",
        secrets=config.secrets if config else (),
        merged=True,
    )
    if not result.started:
        raise StepFailed("node_program_missing", "the program kubeadm is not installed on the node")
    lines = result.lines
    if result.code != 0:
        what = what or " ".join(itertools.takewhile(lambda word: not word.startswith("-"), words))
        reason = reason if isinstance(reason, str) else reason(lines)
        raise StepFailed(reason, f"kubeadm {what}: {explain(lines)}", [*lines[-TAIL:], *kubelet_tail(machine)])
    return lines


def explain(lines: Sequence[str]) -> str:
    """Return the lines of kubeadm's output that state why it failed, at most the last eight."""
    causes = [line.strip() for line in lines if _ERRORS.search(line) and "Preflight errors are fatal" not in line]
    return "; ".join(list(dict.fromkeys(causes))[-8:])


def kubelet_tail(machine: Machine, count: int = 15) -> list[str]:
    """Return kubelet's last log lines, redacted: most failures of kubeadm have their cause there."""
    result = machine.run(["journalctl", "--no-pager", "-q", "-o", "cat", "-n", str(count), "-u", "kubelet.service"])
    return ["kubelet: " + line for line in result.lines] if result.code == 0 else []


def wait_until(
    machine: Machine, check: Callable[[], object], deadline: float, reason: str, text: str, pause: float = 0.5
) -> None:
    """Wait until ``check`` is true. Raises `StepFailed` with ``reason``, ``text`` and kubelet's last log lines."""
    wait.until(check, deadline, lambda: StepFailed(reason, text, kubelet_tail(machine)), pause, machine.clock)


@contextlib.contextmanager
def in_background(work: Callable[[threading.Event], None]) -> Iterator[threading.Thread]:
    """Run ``work`` in a thread during a ``with`` block; its event is set when the block ends."""
    over = threading.Event()
    thread = threading.Thread(target=work, args=(over,), daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        over.set()
        thread.join(timeout=30)
