"""Start a control plane node from saved data: new keys and certificates around an etcd that knows its objects already.

All control plane nodes of a cluster do this at once: their etcd data name all members, so nobody has to be joined. What
they start from was laid down in `STAGING` by the controller: ``pki/`` (the new authorities) and ``etcd/``.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils import kubeadm, kubernetes_state

STAGING = "/var/lib/devenv/restore"
PKI = "/etc/kubernetes/pki"
ETCD = "/var/lib/etcd"
ACTION = "init"  # whose patches the configuration names

# Phases of `kubeadm init` that make files and start kubelet, and those that need the API. kubeadm sends five requests a
# second once it has sent ten, and what is there already takes two or three each: so these run side by side.
FILES = ("preflight", "certs", "kubeconfig", "etcd", "control-plane", "kubelet-start")
FINALIZE = ("kubelet-finalize",)
CLUSTER = (("upload-config",), ("bootstrap-token",), ("addon",))
ALL = (
    *FILES,
    "wait-control-plane",
    "upload-config",
    "upload-certs",
    "mark-control-plane",
    "bootstrap-token",
    "kubelet-finalize",
    "addon",
    "show-join-command",
)
POLL = 0.1


def without(*phases: str) -> str:
    """The flag with which kubeadm runs ``phases`` alone."""
    return "--skip-phases=" + ",".join(phase for phase in ALL if phase not in phases)


def place(root: str = "/") -> None:
    """Put authorities and etcd's data where kubeadm and etcd look for them. Raises `kubeadm.Failed` when the controller
    has not brought them.
    """
    staging = os.path.join(root, STAGING.lstrip("/"))
    if not os.path.isfile(os.path.join(staging, "pki", "ca.key")) or not os.path.isdir(
        os.path.join(staging, "etcd", "member")
    ):
        raise kubeadm.Failed("kubernetes_restore_failed", "there is nothing to start from in " + STAGING)
    _move(os.path.join(staging, "pki"), os.path.join(root, PKI.lstrip("/")))
    _move(os.path.join(staging, "etcd"), os.path.join(root, ETCD.lstrip("/")))
    shutil.rmtree(staging)


def _move(source: str, target: str) -> None:
    """Move what is in a folder into another, which may be another disk's."""
    os.makedirs(target, mode=0o700, exist_ok=True)
    for name in os.listdir(source):
        goal = os.path.join(target, name)
        if os.path.isdir(goal) and not os.path.ismount(goal):
            shutil.rmtree(goal)
        shutil.move(os.path.join(source, name), goal)


def wait_for_api(address: str, timeout: float) -> None:
    """Wait until the API server of this node is ready. Raises `kubeadm.Failed`."""
    kubeadm.wait_until(
        lambda: kubernetes_state.http_ok(address, 6443, kubeadm.JOINED, ca=kubernetes_state.CA),
        time.monotonic() + timeout,
        "kubernetes_restore_failed",
        f"the API server of this node is not ready after {timeout:g} s",
        POLL,
    )


def perform(params: dict[str, Any], only_check: bool = False) -> dict[str, Any]:
    """Make this node a control plane node from what lies in STAGING; nothing when it is one and nothing lies there.

    The node that is ``first`` also writes what belongs to the new cluster: its configuration, cluster-info, add-ons.
    """
    state = kubernetes_state.state()["state"]
    staged = os.path.isdir(STAGING)
    if state == "control_plane" and not staged:
        return {"changed": False, "ca_hash": kubernetes_state.ca_hash()}
    if only_check:
        return {"changed": True}
    os.makedirs(kubeadm.LOGS, mode=0o755, exist_ok=True)
    if state != "absent":
        kubeadm.clean("init", os.path.join(kubeadm.LOGS, "kubeadm-reset.log"))
    place()
    wanted = [FINALIZE, *(CLUSTER if params["first"] else ())]
    with kubeadm._Files(ACTION, params["config"], params["patches"]) as files:
        output = _kubeadm(files.config, FILES[1:], "restore-node", params["timeout"])
        wait_for_api(kubernetes_state.apiserver_address() or "127.0.0.1", params["timeout"])
        output += _side_by_side(files.config, wanted, params["timeout"])
    kubernetes_state.mark("control_plane", {"node": params["node"], "action": "restore"})
    return {"changed": True, "output": output[-kubeadm.TAIL :], "ca_hash": kubernetes_state.ca_hash()}


def _side_by_side(config: str, groups: Sequence[tuple[str, ...]], timeout: float) -> list[str]:
    with ThreadPoolExecutor(max_workers=len(groups)) as pool:
        jobs = [pool.submit(_kubeadm, config, phases, f"restore-{phases[0]}", timeout) for phases in groups]
    return [line for job in jobs for line in job.result()]


def _kubeadm(config: str, phases: tuple[str, ...], name: str, timeout: float) -> list[str]:
    argv = ["kubeadm", "init", "--config", config, without(*phases), "--skip-token-print"]
    answer = kubeadm.run(argv, os.path.join(kubeadm.LOGS, f"kubeadm-{name}.log"), timeout=timeout)
    if answer.code != 0:
        raise kubeadm.Failed(
            "kubernetes_restore_failed",
            f"kubeadm init ({', '.join(phases)}): {kubeadm.explain(answer.lines)}",
            answer.lines[-kubeadm.TAIL :] + kubeadm.kubelet_tail(),
        )
    return answer.lines
