"""Start a control plane node from a snapshot: new keys and certificates, and an etcd that already has the objects.

All control plane nodes of a cluster do this at once: their etcd data name all members, so none has to join. The
controller delivers what they start from to `STAGING`: ``pki/`` (the new CAs) and ``etcd/``.
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
ACTION = "init"  # the configuration names the patches folder of this action

# Phases of `kubeadm init` that create files, and those that use the API. The latter run in parallel, because kubeadm
# sends only five requests per second after the first ten.
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

ROOT_CA = "kube-root-ca.crt"
_REASON = "kubernetes_restore_failed"


def only(*phases: str) -> str:
    """Return the flag that makes kubeadm run only ``phases``."""
    return "--skip-phases=" + ",".join(phase for phase in ALL if phase not in phases)


def place(machine: Machine) -> None:
    """Move the CAs and etcd's data to the folders of kubeadm and etcd. Raises `StepFailed` if they are not complete."""
    staging = machine.path(STAGING)
    if not machine.exists(STAGING + "/pki/ca.key") or not machine.exists(STAGING + "/etcd/member"):
        raise StepFailed(_REASON, f"{STAGING} does not contain a complete snapshot")
    _move(os.path.join(staging, "pki"), machine.path(PKI))
    _move(os.path.join(staging, "etcd"), machine.path(ETCD))
    shutil.rmtree(staging)


def _move(source: str, target: str) -> None:
    """Move the content of a folder to another, which may be on another disk."""
    os.makedirs(target, mode=0o700, exist_ok=True)
    for name in os.listdir(source):
        path = os.path.join(target, name)
        if os.path.isdir(path) and not os.path.ismount(path):
            shutil.rmtree(path)
        shutil.move(os.path.join(source, name), path)


def finalize_kubelet(machine: Machine) -> None:
    """Make kubelet read its certificate from the file in which it renews it, like kubeadm's phase ``kubelet-finalize``.

    That phase restarts kubelet while it is starting the pods of the snapshot; this function runs before kubelet starts.
    Raises `StepFailed` for a kubeconfig without a certificate.
    """
    path = machine.path(kubernetes.KUBELET)
    text, pem = files.read_text(path), ""
    for name in ("certificate", "key"):
        pattern = re.compile(rf"^(\s*client-{name})-data:\s*(\S+)$", re.MULTILINE)
        match = pattern.search(text)
        if match is None:
            raise StepFailed(_REASON, f"{kubernetes.KUBELET} does not contain a client {name}")
        pem += base64.b64decode(match[2]).decode("ascii")
        text = pattern.sub(rf"\g<1>: {kubernetes.KUBELET_CERTIFICATE}", text)
    # kubelet accepts the current certificate only as a link, and names its files like this.
    target = kubernetes.KUBELET_CERTIFICATE.replace("-current", time.strftime("-%Y-%m-%d-%H-%M-%S", time.gmtime()))
    current = machine.path(kubernetes.KUBELET_CERTIFICATE)
    files.write(machine.path(target), pem)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(current)
    os.symlink(target, current)
    files.write(path, text)


def root_ca_maps(namespaces: Sequence[str], certificate: str) -> dict[str, Any]:
    """Return a List of the ConfigMaps with which pods of ``namespaces`` verify the API server."""
    maps = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": ROOT_CA, "namespace": namespace},
            "data": {"ca.crt": certificate},
        }
        for namespace in namespaces
    ]
    return {"apiVersion": "v1", "kind": "List", "items": maps}


def publish_root_ca(machine: Machine, folder: str) -> None:
    """Write the new CA to every namespace. Raises `StepFailed`.

    The controller manager would do so once it is elected, but kubelet would have tried to start the saved pods without
    it by then, and retries at ever longer intervals. ``folder`` is a private one for the call.
    """
    namespaces = api.get(machine, "the list of namespaces", "namespaces").get("items", [])
    names = [namespace["metadata"]["name"] for namespace in namespaces]
    path = os.path.join(folder, "root-ca.json")
    files.write(path, json.dumps(root_ca_maps(names, files.read_text(machine.path(kubernetes.CA)))))
    words = ("--server-side", "--force-conflicts", "--validate=ignore", f"--filename={path}")
    api.check(api.kubectl(machine, "apply", *words), "the new CA cannot be published")


def _wait_for_apiserver(machine: Machine, address: str, timeout: float) -> None:
    wait_until(
        machine,
        lambda: machine.http_ok(address, 6443, api.JOINED, ca=machine.path(kubernetes.CA)),
        machine.now() + timeout,
        _REASON,
        f"the API server at {address} is not ready after {timeout:g} s",
        0.1,
    )


def perform(machine: Machine, params: dict[str, Any], only_check: bool = False) -> dict[str, Any]:
    """Turn this node into a control plane node with the content of STAGING; changes nothing once that is done.

    The node that is ``first`` also writes the new cluster's configuration, cluster-info and add-ons.
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
        _wait_for_apiserver(machine, kubernetes.apiserver_address(machine.root) or "127.0.0.1", timeout)
        if params["first"]:
            # Requests by the cluster's name may reach any API server, and one that is not ready denies all.
            for address in params["peers"]:
                _wait_for_apiserver(machine, address, timeout)
            with ThreadPoolExecutor(max_workers=len(CLUSTER) + 1) as pool:
                published = pool.submit(publish_root_ca, machine, config.folder)
                jobs = [pool.submit(_phases, machine, config, phases, phases[0], timeout) for phases in CLUSTER]
                published.result()
                output += [line for job in jobs for line in job.result()]
    kubernetes.mark("control_plane", {"node": params["node"], "action": "restore"}, machine.root)
    return {"changed": True, "output": output[-TAIL:], "ca_hash": kubernetes.ca_hash(machine.root)}


def _phases(machine: Machine, config: Configuration, phases: tuple[str, ...], name: str, timeout: float) -> list[str]:
    return kubeadm(
        machine,
        ["init", only(*phases), "--skip-token-print"],
        name="restore-" + name,
        timeout=timeout,
        reason=_REASON,
        config=config,
        what=f"init ({', '.join(phases)})",
    )
