"""Bring a node of a living cluster to another version of Kubernetes, in kubeadm's order.

Steps of one node: ``control_plane`` on it, ``drain`` on a control plane node, ``binaries`` on it, ``uncordon`` on a
control plane node. Once all nodes of the cluster have been through these: ``cleanup`` on each. Every step can be
repeated, so the next call finishes what was killed.

kubeadm's own account: https://kubernetes.io/docs/tasks/administer-cluster/kubeadm/kubeadm-upgrade/.
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
# Where the controller has laid down what is new.
STAGE = "/var/lib/devenv/upgrade"
# kubeadm keeps the former manifests and etcd's data in it.
BACKUPS = "/etc/kubernetes/tmp"
# On a Node that the upgrade has closed: one that somebody else had closed stays so.
MARK = "devenv.lab/upgrade"
CTR = ("ctr", "--namespace", "k8s.io")
DNS_PATIENCE = 60.0  # seconds for pods of CoreDNS to be back before the next node is closed

_REASON = "kubernetes_upgrade"


def install(machine: Machine, wanted: Mapping[str, str]) -> list[str]:
    """Put programs (name to sha256) in their place; return the names of those that were others. Raises `StepFailed`
    when one did not come.
    """
    changed = []
    for name, checksum in wanted.items():
        target, source = machine.path(f"{PROGRAMS}/{name}"), machine.path(f"{STAGE}/{name}")
        if files.digest(target) == checksum:
            continue
        if files.digest(source) != checksum:
            raise StepFailed("upgrade_delivery", f"the program {name} of the new version is not on the node")
        files.install(source, target)
        changed.append(name)
    return changed


def is_old(program: str, proc: str = "/proc") -> bool:
    """Return whether a process of ``program`` runs a file that was replaced since (proc(5), exe)."""
    pids = processes.running([program], proc)[program]
    return any(processes.executable(pid, proc).endswith(" (deleted)") for pid in pids)


# --- control_plane: what kubeadm made on the node --------------------------------------------------------------------


def restore_manifests(machine: Machine) -> list[str]:
    """Put back manifests of static pods that a killed kubeadm had taken away and not yet replaced; return their names.

    It moves the old one into a new folder of BACKUPS first.
    """
    back = []
    for component in static_pods.COMPONENTS:
        target = machine.path(f"{static_pods.MANIFESTS}/{component}.yaml")
        kept = sorted(glob.glob(machine.path(f"{BACKUPS}/kubeadm-backup-manifests-*/{component}.yaml")))
        if kept and not os.path.exists(target):
            files.install(kept[-1], target, 0o600)
            back.append(component)
    return back


def control_plane(machine: Machine, params: dict[str, Any], only_check: bool = False) -> dict[str, Any]:
    """Run `kubeadm upgrade apply` on the node that is ``first``, `kubeadm upgrade node` on any other, once. Raises
    `StepFailed`.
    """
    found = kubernetes.state(machine.root)
    role = "control_plane" if params["control_plane"] else "worker"
    if found["state"] == role and found["marker"].get("version") == params["version"]:
        return {"changed": False}
    if only_check:
        return {"changed": True}
    if params["control_plane"] and found["marker"]:
        restore_manifests(machine)
        found = kubernetes.state(machine.root)
    if found["state"] != role:
        lost = ", ".join(found["missing"])
        raise StepFailed(
            "kubernetes_damaged",
            f"the node is not a whole {role.replace('_', ' ')} node" + (f": it lacks {lost}" if lost else ""),
        )
    install(machine, {"kubeadm": params["programs"]["kubeadm"]})
    if params["control_plane"]:
        static_pods.wait_until_well(machine, params["timeout"], _REASON)
    if params["first"]:
        # The cluster's configuration as a new cluster of that version would have it; kubeadm makes manifests by it.
        with Configuration(machine, "init", params["config"], {}) as config:
            words = [*PHASE, "upload-config", "kubeadm"]
            kubeadm(machine, words, name="upload-config", timeout=120, reason=_REASON, config=config)
    words = ["upgrade", "apply", "--yes"] if params["first"] else ["upgrade", "node"]
    with Configuration(machine, "upgrade", params["upgrade_config"], params["patches"]) as config:
        lines = kubeadm(machine, words, name="upgrade", timeout=params["timeout"], reason=_REASON, config=config)
    kubernetes.mark(role, dict(found["marker"], version=params["version"]), machine.root)
    return {"changed": True, "output": lines[-TAIL:]}


# --- drain and uncordon: on a control plane node, for any node --------------------------------------------------------


def _node(machine: Machine, name: str) -> dict[str, Any]:
    return api.parse(api.kubectl(machine, "get", "node", name, "-o", "json"), f"{name} cannot be looked at")


def kubelet_version(node: Mapping[str, Any]) -> str:
    """Return the version that the kubelet of a Node object reports, without ``v``."""
    return str(node.get("status", {}).get("nodeInfo", {}).get("kubeletVersion", "")).removeprefix("v")


def drain(machine: Machine, params: dict[str, Any], only_check: bool = False) -> dict[str, Any]:
    """Close a node and move its pods away, unless its kubelet has the new version already."""
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
    """Wait until a node is Ready with the new version and its static pods are, then open it again if the upgrade had
    closed it. Raises `StepFailed`.
    """
    name = params["node"]
    if only_check:
        return {"changed": MARK in _node(machine, name)["metadata"].get("annotations", {})}
    deadline = machine.now() + params["timeout"]
    api.wait_for_api(machine, params["timeout"])
    missing: list[str] = []

    def is_whole() -> bool:
        try:
            missing[:] = lacking(_node(machine, name), _static_pods(machine, name), params)
        except StepFailed as failure:
            missing[:] = [str(failure)]
        return not missing

    wait.until(
        is_whole,
        deadline,
        lambda: StepFailed(_REASON, f"{name} is not whole again: {', '.join(missing)}"),
        clock=machine.clock,
    )
    if MARK not in _node(machine, name)["metadata"].get("annotations", {}):
        return {"changed": False}
    api.check(api.kubectl(machine, "uncordon", name), f"{name} cannot be opened")
    _annotate(machine, name, f"{MARK}-")
    dns.wait_until_back(machine, DNS_PATIENCE)
    return {"changed": True}


def lacking(node: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], params: Mapping[str, Any]) -> list[str]:
    """Return what a node and its static pods still lack, in words; nothing when it is whole with the new version."""
    found = []
    version = kubelet_version(node)
    if version != params["version"]:
        found.append(f"its kubelet has {version or 'no version'}")
    if not api.is_ready(node):
        found.append("it is not Ready")
    if not params["control_plane"]:
        return found
    by_name = {pod["metadata"].get("labels", {}).get("component"): pod for pod in pods}
    for component in static_pods.COMPONENTS:
        pod = by_name.get(component)
        image = str(pod["spec"]["containers"][0]["image"]) if pod else ""
        if pod is None or not api.is_ready(pod):
            found.append(f"{component} is not Ready")
        elif component != "etcd" and not image.endswith(f":v{params['version']}"):
            found.append(f"{component} is {image}")
    return found


def _static_pods(machine: Machine, node: str) -> list[dict[str, Any]]:
    words = ["get", "pods", "-o", "json", "-l", "tier=control-plane", f"--field-selector=spec.nodeName={node}"]
    listed = api.parse(api.kubectl(machine, "--namespace", "kube-system", *words), "its pods cannot be looked at")
    return list(listed.get("items", []))


def _annotate(machine: Machine, node: str, text: str) -> None:
    api.check(api.kubectl(machine, "annotate", "node", node, "--overwrite", text), f"{node} cannot be annotated")


# --- binaries, cleanup -----------------------------------------------------------------------------------------------


def binaries(machine: Machine, params: dict[str, Any], only_check: bool = False) -> dict[str, Any]:
    """Replace the node's programs and restart what runs an older one. Raises `StepFailed`."""
    wanted = params["programs"]
    if only_check:
        return {"changed": wanted != {name: files.digest(machine.path(f"{PROGRAMS}/{name}")) for name in wanted}}
    changed, proc = install(machine, wanted), machine.path("/proc")
    units = ["containerd.service"] if is_old("containerd", proc) else []
    units += ["kubelet.service"] if params["restart"] or is_old("kubelet", proc) else []
    for unit in units:
        result = machine.run(["systemctl", "restart", unit], timeout=120)
        if result.code != 0:
            raise StepFailed(_REASON, f"{unit} does not start: {result.complaint}", kubelet_tail(machine))
    deadline = machine.now() + params["timeout"]
    is_healthy = functools.partial(kubernetes.kubelet_healthy, machine.http_ok)
    wait_until(machine, is_healthy, deadline, _REASON, "kubelet is not healthy", 0.2)
    if params["control_plane"]:
        static_pods.wait_until_well(machine, params["timeout"], _REASON)
    return {"changed": bool(changed or units), "installed": changed, "restarted": units}


def cleanup(machine: Machine, params: dict[str, Any], only_check: bool = False) -> dict[str, Any]:
    """Remove what the upgrade leaves: the delivered programs, kubeadm's copies of etcd's data and manifests, images of
    the older version.
    """
    left = [machine.path(STAGE)] if machine.exists(STAGE) else []
    copies = sorted(glob.glob(machine.path(BACKUPS + "/kubeadm-*")))
    left += [path for path in copies if re.search(r"/kubeadm-(backup|upgraded|kubelet)", path)]
    listed = machine.run([*CTR, "images", "list", "--quiet"]).stdout.split()
    images = [name for name in params["images"] if name in listed]
    if not only_check:
        for path in left:
            shutil.rmtree(path, ignore_errors=True)
        if images:
            machine.run([*CTR, "images", "remove", *images], timeout=120)
    return {"changed": bool(left or images), "removed": [*left, *images]}


ACTIONS: dict[str, Callable[[Machine, dict[str, Any], bool], dict[str, Any]]] = {
    "control_plane": control_plane,
    "drain": drain,
    "binaries": binaries,
    "uncordon": uncordon,
    "cleanup": cleanup,
}
# Names of earlier versions of the module.
FORMER = {"control": "control_plane", "programs": "binaries", "back": "uncordon", "tidy": "cleanup"}


def perform(machine: Machine, action: str, params: dict[str, Any], only_check: bool = False) -> dict[str, Any]:
    """Do one of ACTIONS. ``only_check`` says what would be done. Raises `StepFailed`."""
    return ACTIONS[FORMER.get(action, action)](machine, params, only_check)
