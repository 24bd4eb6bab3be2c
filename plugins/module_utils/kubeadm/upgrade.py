"""Upgrade a node of a running cluster to another version of Kubernetes, in kubeadm's order.

Actions of one node: ``control_plane`` on it, ``drain`` on a control plane node, ``binaries`` on it, ``uncordon`` on a
control plane node. After all nodes of the cluster: ``cleanup`` on each. Every action can be repeated, so the next call
completes a killed one.

kubeadm's procedure: https://kubernetes.io/docs/tasks/administer-cluster/kubeadm/kubeadm-upgrade/.
"""

from __future__ import annotations

import functools
import glob
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import api, dns, members, static_pods
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm.run import (
    PHASE,
    Configuration,
    kubeadm,
    kubelet_tail,
    wait_until,
)
from ansible_collections.devenv.lab.plugins.module_utils.node import files, kubernetes, processes, wait
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import TAIL, Machine, StepFailed

PROGRAMS = "/usr/local/bin"
# The controller delivers new binaries to this folder.
STAGE = "/var/lib/devenv/upgrade"
# kubeadm keeps the previous manifests and etcd's data in this folder.
BACKUPS = "/etc/kubernetes/tmp"
# Annotation of a Node that the upgrade has cordoned. A node that somebody else has cordoned stays cordoned.
MARK = "devenv.lab/upgrade"
CTR = ("ctr", "--namespace", "k8s.io")
DNS_PATIENCE = 60.0  # seconds until the next node is drained although pods of CoreDNS are not ready

_REASON = "kubernetes_upgrade"


def install(machine: Machine, binaries: Mapping[str, str]) -> list[str]:
    """Install delivered binaries (name to sha256); return the names of those that were replaced. Raises `StepFailed` if
    one was not delivered.
    """
    changed = []
    for name, checksum in binaries.items():
        target, source = machine.path(f"{PROGRAMS}/{name}"), machine.path(f"{STAGE}/{name}")
        if files.digest(target) == checksum:
            continue
        if files.digest(source) != checksum:
            raise StepFailed("upgrade_delivery", f"the new version of the binary {name} is not on the node")
        files.install(source, target)
        changed.append(name)
    return changed


def is_outdated(program: str, proc: str = "/proc") -> bool:
    """Return whether a process of ``program`` runs a file that has been replaced (proc(5), exe)."""
    pids = processes.running([program], proc)[program]
    return any(processes.executable(pid, proc).endswith(" (deleted)") for pid in pids)


# --- control_plane: files that kubeadm created on the node -----------------------------------------------------------


def restore_manifests(machine: Machine) -> list[str]:
    """Restore static pod manifests that a killed kubeadm had moved away and not replaced; return their names.

    kubeadm moves each manifest to a new folder in BACKUPS first.
    """
    restored = []
    for component in static_pods.COMPONENTS:
        target = machine.path(f"{static_pods.MANIFESTS}/{component}.yaml")
        backups = sorted(glob.glob(machine.path(f"{BACKUPS}/kubeadm-backup-manifests-*/{component}.yaml")))
        if backups and not os.path.exists(target):
            files.install(backups[-1], target, 0o600)
            restored.append(component)
    return restored


def control_plane(machine: Machine, params: dict[str, Any], only_check: bool = False) -> dict[str, Any]:
    """Run `kubeadm upgrade apply` on the node that is ``first``, `kubeadm upgrade node` on any other, once. Raises
    `StepFailed`.
    """
    before = kubernetes.state(machine.root)
    role = "control_plane" if params["control_plane"] else "worker"
    if before["state"] == role and before["marker"].get("version") == params["version"]:
        return {"changed": False}
    if only_check:
        return {"changed": True}
    if params["control_plane"] and before["marker"]:
        restore_manifests(machine)
        before = kubernetes.state(machine.root)
    if before["state"] != role:
        missing = f"; missing: {', '.join(before['missing'])}" if before["missing"] else ""
        text = f"the node is not a complete {role.replace('_', ' ')} node{missing}"
        raise StepFailed("kubernetes_damaged", text)
    install(machine, {"kubeadm": params["programs"]["kubeadm"]})
    if params["control_plane"]:
        static_pods.wait_until_healthy(machine, params["timeout"], _REASON)
    if params["first"]:
        # kubeadm generates manifests from the cluster's configuration, which must be that of a new cluster of this
        # version.
        with Configuration(machine, "init", params["config"], {}) as config:
            words = [*PHASE, "upload-config", "kubeadm"]
            kubeadm(machine, words, name="upload-config", timeout=120, reason=_REASON, config=config)
    words = ["upgrade", "apply", "--yes"] if params["first"] else ["upgrade", "node"]
    with Configuration(machine, "upgrade", params["upgrade_config"], params["patches"]) as config:
        lines = kubeadm(machine, words, name="upgrade", timeout=params["timeout"], reason=_REASON, config=config)
    kubernetes.mark(role, dict(before["marker"], version=params["version"]), machine.root)
    return {"changed": True, "output": lines[-TAIL:]}


# --- drain and uncordon: on a control plane node, for any node --------------------------------------------------------


def _node(machine: Machine, name: str) -> dict[str, Any]:
    return api.get(machine, f"the node {name}", "node", name)


def kubelet_version(node: Mapping[str, Any]) -> str:
    """Return the version that the kubelet of a Node object reports, without ``v``."""
    return str(node.get("status", {}).get("nodeInfo", {}).get("kubeletVersion", "")).removeprefix("v")


def drain(machine: Machine, params: dict[str, Any], only_check: bool = False) -> dict[str, Any]:
    """Drain a node, unless its kubelet already has the new version."""
    if not only_check:
        api.wait_for_api(machine, params["timeout"])
    node = _node(machine, params["node"])
    if kubelet_version(node) == params["version"]:
        return {"changed": False}
    if not only_check:
        if not node.get("spec", {}).get("unschedulable"):
            _annotate(machine, params["node"], f"{MARK}={params['version']}")
        members.drain(machine, [params["node"]], params["drain_timeout"])
    return {"changed": True}


def uncordon(machine: Machine, params: dict[str, Any], only_check: bool = False) -> dict[str, Any]:
    """Wait until a node and its static pods are Ready with the new version, then uncordon it if the upgrade cordoned
    it. Raises `StepFailed`.
    """
    name = params["node"]
    if only_check:
        return {"changed": _is_marked(machine, name)}
    deadline = machine.now() + params["timeout"]
    api.wait_for_api(machine, params["timeout"])
    current: list[str] = []

    def is_upgraded() -> bool:
        try:
            current[:] = problems(_node(machine, name), _static_pods(machine, name), params)
        except StepFailed as failure:
            current[:] = [str(failure)]
        return not current

    def late() -> StepFailed:
        return StepFailed(_REASON, f"{name} is not ready after its upgrade: {', '.join(current)}")

    wait.until(is_upgraded, deadline, late, clock=machine.clock)
    if not _is_marked(machine, name):
        return {"changed": False}
    api.check(api.kubectl(machine, "uncordon", name), f"{name} cannot be uncordoned")
    _annotate(machine, name, f"{MARK}-")
    dns.wait_until_ready(machine, DNS_PATIENCE)
    return {"changed": True}


def problems(node: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], params: Mapping[str, Any]) -> list[str]:
    """Return why a node and its static pods are not ready with the new version, [] if they are."""
    texts = []
    version = kubelet_version(node)
    if version != params["version"]:
        texts.append(f"its kubelet has {version or 'no version'}")
    if not api.is_ready(node):
        texts.append("it is not Ready")
    if not params["control_plane"]:
        return texts
    by_name = {pod["metadata"].get("labels", {}).get("component"): pod for pod in pods}
    for component in static_pods.COMPONENTS:
        pod = by_name.get(component)
        image = str(pod["spec"]["containers"][0]["image"]) if pod else ""
        if pod is None or not api.is_ready(pod):
            texts.append(f"{component} is not Ready")
        elif component != "etcd" and not image.endswith(f":v{params['version']}"):
            texts.append(f"{component} is {image}")
    return texts


def _is_marked(machine: Machine, name: str) -> bool:
    return MARK in _node(machine, name)["metadata"].get("annotations", {})


def _static_pods(machine: Machine, node: str) -> list[dict[str, Any]]:
    words = ["pods", "-n", "kube-system", "-l", "tier=control-plane", f"--field-selector=spec.nodeName={node}"]
    return list(api.get(machine, "the list of static pods", *words).get("items", []))


def _annotate(machine: Machine, node: str, text: str) -> None:
    api.check(api.kubectl(machine, "annotate", "node", node, "--overwrite", text), f"{node} cannot be annotated")


# --- binaries, cleanup -----------------------------------------------------------------------------------------------


def binaries(machine: Machine, params: dict[str, Any], only_check: bool = False) -> dict[str, Any]:
    """Replace the node's binaries and restart the services that run an older one. Raises `StepFailed`."""
    desired = params["programs"]
    if only_check:
        return {"changed": desired != {name: files.digest(machine.path(f"{PROGRAMS}/{name}")) for name in desired}}
    changed, proc = install(machine, desired), machine.path("/proc")
    units = ["containerd.service"] if is_outdated("containerd", proc) else []
    units += ["kubelet.service"] if params["restart"] or is_outdated("kubelet", proc) else []
    for unit in units:
        result = machine.run(["systemctl", "restart", unit], timeout=120)
        if result.code != 0:
            raise StepFailed(_REASON, f"{unit} does not start: {result.complaint}", kubelet_tail(machine))
    deadline = machine.now() + params["timeout"]
    is_healthy = functools.partial(kubernetes.kubelet_healthy, machine.http_ok)
    wait_until(machine, is_healthy, deadline, _REASON, "kubelet is not healthy", 0.2)
    if params["control_plane"]:
        static_pods.wait_until_healthy(machine, params["timeout"], _REASON)
    return {"changed": bool(changed or units), "installed": changed, "restarted": units}


def cleanup(machine: Machine, params: dict[str, Any], only_check: bool = False) -> dict[str, Any]:
    """Remove the delivered binaries, kubeadm's copies of etcd's data and manifests, and images of the old version."""
    paths = [machine.path(STAGE)] if machine.exists(STAGE) else []
    copies = sorted(glob.glob(machine.path(BACKUPS + "/kubeadm-*")))
    paths += [path for path in copies if re.search(r"/kubeadm-(backup|upgraded|kubelet)", path)]
    stored = machine.run([*CTR, "images", "list", "--quiet"]).stdout.split()
    images = [name for name in params["images"] if name in stored]
    if not only_check:
        for path in paths:
            shutil.rmtree(path, ignore_errors=True)
        if images:
            machine.run([*CTR, "images", "remove", *images], timeout=120)
    return {"changed": bool(paths or images), "removed": [*paths, *images]}


ACTIONS: dict[str, Callable[[Machine, dict[str, Any], bool], dict[str, Any]]] = {
    "control_plane": control_plane,
    "drain": drain,
    "binaries": binaries,
    "uncordon": uncordon,
    "cleanup": cleanup,
}
# Names in earlier versions of the module.
FORMER = {"control": "control_plane", "programs": "binaries", "back": "uncordon", "tidy": "cleanup"}


def perform(machine: Machine, action: str, params: dict[str, Any], only_check: bool = False) -> dict[str, Any]:
    """Perform one of ACTIONS; with ``only_check``, predict the result. Raises `StepFailed`."""
    return ACTIONS[FORMER.get(action, action)](machine, params, only_check)
