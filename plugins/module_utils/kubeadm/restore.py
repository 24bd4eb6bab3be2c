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

from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import cluster
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import state as kubernetes_state
from ansible_collections.devenv.lab.plugins.module_utils.node import observe, private_file

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


def without(*phases: str) -> str:
    """The flag with which kubeadm runs ``phases`` alone."""
    return "--skip-phases=" + ",".join(phase for phase in ALL if phase not in phases)


def place(root: str = "/") -> None:
    """Put authorities and etcd's data where kubeadm and etcd look for them. Raises `kubeadm.Failed` when the controller
    has not brought them.
    """
    staging = observe.under(root, STAGING)
    if not os.path.isfile(os.path.join(staging, "pki", "ca.key")) or not os.path.isdir(
        os.path.join(staging, "etcd", "member")
    ):
        raise cluster.Failed("kubernetes_restore_failed", "there is nothing to start from in " + STAGING)
    _move(os.path.join(staging, "pki"), observe.under(root, PKI))
    _move(os.path.join(staging, "etcd"), observe.under(root, ETCD))
    shutil.rmtree(staging)


def _move(source: str, target: str) -> None:
    """Move what is in a folder into another, which may be another disk's."""
    os.makedirs(target, mode=0o700, exist_ok=True)
    for name in os.listdir(source):
        goal = os.path.join(target, name)
        if os.path.isdir(goal) and not os.path.ismount(goal):
            shutil.rmtree(goal)
        shutil.move(os.path.join(source, name), goal)


def finalize_kubelet(root: str = "/") -> None:
    """Let kubelet read its certificate from where it keeps and renews it, as kubeadm's phase ``kubelet-finalize`` does.

    That phase starts kubelet again, whose pods of the saved cluster are starting at that moment: here it is done
    before kubelet runs. Raises `kubeadm.Failed` for a kubeconfig without a certificate in it.
    """
    path = observe.under(root, kubernetes_state.KUBELET)
    text, pem = observe.read_text(path), ""
    for name in ("certificate", "key"):
        pattern = re.compile(rf"^(\s*client-{name})-data:\s*(\S+)$", re.MULTILINE)
        match = pattern.search(text)
        if match is None:
            raise cluster.Failed("kubernetes_restore_failed", f"{kubernetes_state.KUBELET} holds no client {name}")
        pem += base64.b64decode(match[2]).decode("ascii")
        text = pattern.sub(rf"\g<1>: {kubernetes_state.KUBELET_CERTIFICATE}", text)
    # kubelet takes only a link for the current one, and makes files of this name by itself.
    held = kubernetes_state.KUBELET_CERTIFICATE.replace("-current", time.strftime("-%Y-%m-%d-%H-%M-%S", time.gmtime()))
    current = observe.under(root, kubernetes_state.KUBELET_CERTIFICATE)
    os.makedirs(os.path.dirname(current), mode=0o755, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(current)
    private_file.write(observe.under(root, held), pem)
    os.symlink(held, current)
    private_file.write(path, text)


def root_ca_maps(namespaces: Sequence[str], certificate: str) -> dict[str, Any]:
    """A List of the ConfigMaps by which pods of ``namespaces`` know the API server."""
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


def publish_root_ca(folder: str) -> None:
    """Give every namespace the new authority. The controller manager does so by itself, once it is elected: kubelet
    would have tried to start the saved pods without it, and tries again at ever longer intervals.

    ``folder`` is a private one for the call. Raises `kubeadm.Failed`.
    """
    listed = cluster._json(cluster._kubectl("get", "namespaces", "--output=json"), "namespaces cannot be listed")
    namespaces = [row["metadata"]["name"] for row in listed.get("items", [])]
    with open(kubernetes_state.CA, encoding="ascii") as stream:
        maps = root_ca_maps(namespaces, stream.read())
    path = os.path.join(folder, "root-ca.json")
    private_file.write(path, json.dumps(maps))
    words = ("--server-side", "--force-conflicts", "--validate=ignore", f"--filename={path}")
    answer = cluster._kubectl("apply", *words)
    if answer.returncode != 0:
        raise cluster.Failed("kubernetes_api", f"the authority cannot be published: {answer.stderr.strip()}")


def wait_for_api(address: str, timeout: float) -> None:
    """Wait until the API server at this address is ready. Raises `kubeadm.Failed`."""
    cluster.wait_until(
        lambda: kubernetes_state.http_ok(address, 6443, cluster.JOINED, ca=kubernetes_state.CA),
        time.monotonic() + timeout,
        "kubernetes_restore_failed",
        f"the API server at {address} is not ready after {timeout:g} s",
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
    os.makedirs(cluster.LOGS, mode=0o755, exist_ok=True)
    if state != "absent":
        cluster.clean("init", os.path.join(cluster.LOGS, "kubeadm-reset.log"))
    place()
    with cluster._Files(ACTION, params["config"], params["patches"]) as files:
        output = _kubeadm(files.config, FILES, "restore-node", params["timeout"])
        finalize_kubelet()
        output += _kubeadm(files.config, START, "restore-kubelet", params["timeout"])
        wait_for_api(kubernetes_state.apiserver_address() or "127.0.0.1", params["timeout"])
        if params["first"]:
            # By the cluster's name a request reaches any of them, and one that is not ready forbids all.
            for address in params["peers"]:
                wait_for_api(address, params["timeout"])
            output += _write_cluster(files, params["timeout"])
    kubernetes_state.mark("control_plane", {"node": params["node"], "action": "restore"})
    return {"changed": True, "output": output[-cluster.TAIL :], "ca_hash": kubernetes_state.ca_hash()}


def _write_cluster(files: cluster._Files, timeout: float) -> list[str]:
    with ThreadPoolExecutor(max_workers=len(CLUSTER) + 1) as pool:
        published = pool.submit(publish_root_ca, files.folder)
        jobs = [pool.submit(_kubeadm, files.config, phases, f"restore-{phases[0]}", timeout) for phases in CLUSTER]
        published.result()
        return [line for job in jobs for line in job.result()]


def _kubeadm(config: str, phases: tuple[str, ...], name: str, timeout: float) -> list[str]:
    argv = ["kubeadm", "init", "--config", config, without(*phases), "--skip-token-print"]
    answer = cluster.run(argv, os.path.join(cluster.LOGS, f"kubeadm-{name}.log"), timeout=timeout)
    if answer.code != 0:
        raise cluster.Failed(
            "kubernetes_restore_failed",
            f"kubeadm init ({', '.join(phases)}): {cluster.explain(answer.lines)}",
            answer.lines[-cluster.TAIL :] + cluster.kubelet_tail(),
        )
    return answer.lines
