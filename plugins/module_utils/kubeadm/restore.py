"""Start a control plane node from saved data: new keys and certificates around an etcd that knows its objects already.

All control plane nodes of a cluster do this at once: their etcd data name all members, so nobody has to be joined. What
they start from was laid down in `STAGING` by the controller: ``pki/`` (the new authorities) and ``etcd/``.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import api, create
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm.run import Configuration, kubeadm, wait_until
from ansible_collections.devenv.lab.plugins.module_utils.node import files, kubernetes
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import TAIL, Machine, StepFailed

STAGING = "/var/lib/devenv/restore"
PKI = "/etc/kubernetes/pki"
ETCD = "/var/lib/etcd"
ACTION = "init"  # whose patches the configuration names

# Phases of `kubeadm init` that make files, and those that need the API. kubeadm sends five requests a second once it
# has sent ten: so the latter run side by side.
FILES = ("certs", "kubeconfig", "etcd", "control-plane")
START = ("kubelet-start",)
CLUSTER = (("upload-config",), ("bootstrap-token",), ("addon",))
ALL = (
    "preflight",
    *FILES,
    *START,
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

ROOT_CA = "kube-root-ca.crt"
_REASON = "kubernetes_restore_failed"


def without(*phases: str) -> str:
    """Return the flag with which kubeadm runs ``phases`` alone."""
    return "--skip-phases=" + ",".join(phase for phase in ALL if phase not in phases)


def place(machine: Machine) -> None:
    """Put authorities and etcd's data where kubeadm and etcd look for them. Raises `StepFailed` when the controller
    has not brought them.
    """
    staging = machine.path(STAGING)
    if not os.path.isfile(os.path.join(staging, "pki", "ca.key")) or not os.path.isdir(
        os.path.join(staging, "etcd", "member")
    ):
        raise StepFailed(_REASON, "there is nothing to start from in " + STAGING)
    _move(os.path.join(staging, "pki"), machine.path(PKI))
    _move(os.path.join(staging, "etcd"), machine.path(ETCD))
    shutil.rmtree(staging)


def _move(source: str, target: str) -> None:
    """Move what is in a folder into another, which may be another disk's."""
    os.makedirs(target, mode=0o700, exist_ok=True)
    for name in os.listdir(source):
        goal = os.path.join(target, name)
        if os.path.isdir(goal) and not os.path.ismount(goal):
            shutil.rmtree(goal)
        shutil.move(os.path.join(source, name), goal)


def finalize_kubelet(machine: Machine) -> None:
    """Let kubelet read its certificate from where it keeps and renews it, as kubeadm's phase ``kubelet-finalize`` does.

    That phase starts kubelet again, whose pods of the saved cluster are starting at that moment: here it is done
    before kubelet runs. Raises `StepFailed` for a kubeconfig without a certificate in it.
    """
    path = machine.path(kubernetes.KUBELET)
    text, pem = files.read_text(path), ""
    for name in ("certificate", "key"):
        pattern = re.compile(rf"^(\s*client-{name})-data:\s*(\S+)$", re.MULTILINE)
        match = pattern.search(text)
        if match is None:
            raise StepFailed(_REASON, f"{kubernetes.KUBELET} holds no client {name}")
        pem += base64.b64decode(match[2]).decode("ascii")
        text = pattern.sub(rf"\g<1>: {kubernetes.KUBELET_CERTIFICATE}", text)
    # kubelet takes only a link for the current one, and makes files of this name by itself.
    held = kubernetes.KUBELET_CERTIFICATE.replace("-current", time.strftime("-%Y-%m-%d-%H-%M-%S", time.gmtime()))
    current = machine.path(kubernetes.KUBELET_CERTIFICATE)
    files.write(machine.path(held), pem)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(current)
    os.symlink(held, current)
    files.write(path, text)


def root_ca_maps(namespaces: Sequence[str], certificate: str) -> dict[str, Any]:
    """Return a List of the ConfigMaps by which pods of ``namespaces`` know the API server."""
    return {
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": ROOT_CA, "namespace": namespace},
                "data": {"ca.crt": certificate},
            }
            for namespace in namespaces
        ],
    }


def publish_root_ca(machine: Machine, folder: str) -> None:
    """Give every namespace the new authority. The controller manager does so by itself, once it is elected: kubelet
    would have tried to start the saved pods without it, and tries again at ever longer intervals.

    ``folder`` is a private one for the call. Raises `StepFailed`.
    """
    namespaces = api.parse(api.kubectl(machine, "get", "namespaces", "--output=json"), "namespaces cannot be listed")
    names = [row["metadata"]["name"] for row in namespaces.get("items", [])]
    path = os.path.join(folder, "root-ca.json")
    files.write(path, json.dumps(root_ca_maps(names, files.read_text(machine.path(kubernetes.CA)))))
    words = ("--server-side", "--force-conflicts", "--validate=ignore", f"--filename={path}")
    api.check(api.kubectl(machine, "apply", *words), "the authority cannot be published")


def wait_for_api(machine: Machine, address: str, timeout: float) -> None:
    """Wait until the API server at this address is ready. Raises `StepFailed`."""
    wait_until(
        machine,
        lambda: machine.http_ok(address, 6443, api.JOINED, ca=machine.path(kubernetes.CA)),
        machine.now() + timeout,
        _REASON,
        f"the API server at {address} is not ready after {timeout:g} s",
        POLL,
    )


def perform(machine: Machine, params: dict[str, Any], only_check: bool = False) -> dict[str, Any]:
    """Make this node a control plane node from what lies in STAGING; nothing when it is one and nothing lies there.

    The node that is ``first`` also writes what belongs to the new cluster: its configuration, cluster-info, add-ons.
    """
    state = kubernetes.state(machine.root)["state"]
    if state == "control_plane" and not machine.exists(STAGING):
        return {"changed": False, "ca_hash": kubernetes.ca_hash(machine.root)}
    if only_check:
        return {"changed": True}
    timeout = params["timeout"]
    if state != "absent":
        create.clean(machine, "init")
    place(machine)
    with Configuration(machine, ACTION, params["config"], params["patches"]) as config:
        output = _phases(machine, config, FILES, "node", timeout)
        finalize_kubelet(machine)
        output += _phases(machine, config, START, "kubelet", timeout)
        wait_for_api(machine, kubernetes.apiserver_address(machine.root) or "127.0.0.1", timeout)
        if params["first"]:
            # By the cluster's name a request reaches any of them, and one that is not ready forbids all.
            for address in params["peers"]:
                wait_for_api(machine, address, timeout)
            output += _write_cluster(machine, config, timeout)
    kubernetes.mark("control_plane", {"node": params["node"], "action": "restore"}, machine.root)
    return {"changed": True, "output": output[-TAIL:], "ca_hash": kubernetes.ca_hash(machine.root)}


def _write_cluster(machine: Machine, config: Configuration, timeout: float) -> list[str]:
    with ThreadPoolExecutor(max_workers=len(CLUSTER) + 1) as pool:
        published = pool.submit(publish_root_ca, machine, config.folder)
        jobs = [pool.submit(_phases, machine, config, phases, phases[0], timeout) for phases in CLUSTER]
        published.result()
        return [line for job in jobs for line in job.result()]


def _phases(machine: Machine, config: Configuration, phases: tuple[str, ...], name: str, timeout: float) -> list[str]:
    return kubeadm(
        machine,
        ["init", without(*phases), "--skip-token-print"],
        name="restore-" + name,
        timeout=timeout,
        reason=_REASON,
        config=config,
        what=f"init ({', '.join(phases)})",
    )
