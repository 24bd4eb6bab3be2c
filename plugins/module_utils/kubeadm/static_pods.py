"""Restart the control plane's static pods, and wait until they are well."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping, Sequence

from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import api
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm.run import wait_until
from ansible_collections.devenv.lab.plugins.module_utils.node import processes
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import Machine

MANIFESTS = "/etc/kubernetes/manifests"
# Each as kubeadm names it, with the programs that read it when they start.
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
ELECTED = COMPONENTS[2:]
# Seconds that a program has to end by itself. An API server whose etcd went waits a minute for requests that nobody
# answers, and all that watch it look for it at ever longer intervals meanwhile.
PATIENCE = 5.0


def restart(machine: Machine, timeout: float, reason: str) -> None:
    """End the control plane's programs; kubelet starts them again at once. Returns when the API server is ready.

    etcd first and by itself: the API server gives up when it does not find it. Raises `StepFailed`.
    """
    deadline = machine.now() + timeout
    for group in (COMPONENTS[:1], COMPONENTS[1:]):
        _restart(machine, group, deadline, reason)
    wait_until(machine, lambda: api.apiserver_ready(machine), deadline, reason, "the API server is not ready again")


def _restart(machine: Machine, group: Sequence[str], deadline: float, reason: str) -> None:
    proc = machine.path("/proc")
    old = processes.running(group, proc)
    _end(old, signal.SIGTERM, proc)
    ending = machine.now()

    def started() -> bool:
        if machine.now() - ending > PATIENCE:
            _end(old, signal.SIGKILL, proc)
        now = processes.running(group, proc)
        return all(pids and not set(pids) & set(old[name]) for name, pids in now.items())

    wait_until(machine, started, deadline, reason, f"{', '.join(group)} did not start again")


def _end(programs: Mapping[str, Sequence[int]], how: signal.Signals, proc: str) -> None:
    """Signal those of ``programs`` (process ids by name) that still run: a number may be another process' by now."""
    now = processes.running(list(programs), proc)
    for name, pids in programs.items():
        for pid in set(pids) & set(now[name]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, how)


def wait_until_well(machine: Machine, timeout: float, reason: str) -> None:
    """Wait until this node's API server and etcd are well, and the cluster's API answers. Raises `StepFailed`."""
    deadline = machine.now() + timeout
    text = "the API server of the node is not ready"
    wait_until(machine, lambda: api.apiserver_ready(machine), deadline, reason, text)
    wait_until(machine, lambda: api.etcd_healthy(machine), deadline, reason, "etcd is not healthy")
    api.wait_for_api(machine, max(1.0, deadline - machine.now()))
