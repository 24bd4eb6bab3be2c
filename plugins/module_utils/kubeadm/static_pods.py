"""Restart the control plane's static pods, and wait until they are healthy."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence

from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import api
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm.run import wait_until
from ansible_collections.devenv.lab.plugins.module_utils.node import processes
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import Machine

MANIFESTS = "/etc/kubernetes/manifests"
# kubeadm's names, which are also those of the programs.
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
ELECTED = COMPONENTS[2:]
# Seconds until SIGKILL follows SIGTERM. An API server without etcd waits a minute for requests that will not complete,
# and everything that watches it retries at ever longer intervals meanwhile.
PATIENCE = 5.0


def restart(machine: Machine, timeout: float, reason: str) -> None:
    """Stop the control plane's programs, which kubelet restarts at once, and wait until the API server is ready.

    etcd first and alone: an API server that starts before it exits. Raises `StepFailed`.
    """
    deadline = machine.now() + timeout
    for group in (COMPONENTS[:1], COMPONENTS[1:]):
        _restart(machine, group, deadline, reason)
    wait_until(machine, lambda: api.apiserver_ready(machine), deadline, reason, "the API server is not ready again")


def _restart(machine: Machine, group: Sequence[str], deadline: float, reason: str) -> None:
    proc = machine.path("/proc")
    old = processes.running(group, proc)
    _stop(old, signal.SIGTERM, proc)
    stopped_at = machine.now()

    def restarted() -> bool:
        if machine.now() - stopped_at > PATIENCE:
            _stop(old, signal.SIGKILL, proc)
        current = processes.running(group, proc)
        return all(pids and not set(pids) & set(old[name]) for name, pids in current.items())

    wait_until(machine, restarted, deadline, reason, f"{', '.join(group)} did not start again")


def _stop(programs: Mapping[str, Sequence[int]], number: signal.Signals, proc: str) -> None:
    """Signal those of ``programs`` (process ids by name) that still run; an id may have been reused by now."""
    current = processes.running(list(programs), proc)
    for name, pids in programs.items():
        processes.send(set(pids) & set(current[name]), number)


def wait_until_healthy(machine: Machine, timeout: float, reason: str) -> None:
    """Wait until this node's API server and etcd are healthy, and the cluster's API responds. Raises `StepFailed`."""
    deadline = machine.now() + timeout
    text = "the API server of the node is not ready"
    wait_until(machine, lambda: api.apiserver_ready(machine), deadline, reason, text)
    wait_until(machine, lambda: api.etcd_healthy(machine), deadline, reason, "etcd is not healthy")
    api.wait_for_api(machine, max(1.0, deadline - machine.now()))
