"""Another version of Kubernetes on a node of a living cluster, in kubeadm's order.

Steps of one node: ``control`` on it, ``drain`` on a control plane node, ``programs`` on it, ``back`` on a control plane
node. Once all nodes of the cluster have been through these: ``tidy`` on each. Every step can be done again, so what was
killed is finished by the next call.

kubeadm's own account: https://kubernetes.io/docs/tasks/administer-cluster/kubeadm/kubeadm-upgrade/.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import cluster, life, state
from ansible_collections.devenv.lab.plugins.module_utils.node import observe

PROGRAMS = "/usr/local/bin"
# Where the controller has laid down what is new.
STAGE = "/var/lib/devenv/upgrade"
# kubeadm keeps manifests and etcd's data of before in it.
BACKUPS = "/etc/kubernetes/tmp"
# On a Node that the upgrade has closed: one that somebody else had closed stays so.
MARK = "devenv.lab/upgrade"
RUNTIME = ("containerd", "containerd-shim-runc-v2", "ctr")
DNS_PATIENCE = 60.0  # seconds for pods of CoreDNS to be back before the next node is closed

_REASON = "kubernetes_upgrade"


def install(wanted: Mapping[str, str], folder: str = PROGRAMS, stage: str = STAGE) -> list[str]:
    """Put programs (name to sha256) in their place, each at once; return the names of those that were others. Raises
    `kubeadm.Failed` when one did not come.
    """
    put = []
    for name, checksum in wanted.items():
        target, source = os.path.join(folder, name), os.path.join(stage, name)
        if observe.digest(target) == checksum:
            continue
        if observe.digest(source) != checksum:
            raise cluster.Failed("upgrade_delivery", f"the program {name} of the new version is not on the node")
        shutil.copyfile(source, target + ".part")
        os.chmod(target + ".part", 0o755)
        os.replace(target + ".part", target)
        put.append(name)
    return put


def is_old(program: str, proc: str = "/proc") -> bool:
    """Whether a process of ``program`` runs a file that was replaced since (proc(5), exe)."""
    for pid in life.running([program], proc)[program]:
        try:
            if os.readlink(os.path.join(proc, str(pid), "exe")).endswith(" (deleted)"):
                return True
        except OSError:
            continue
    return False


# --- control: what kubeadm made on the node --------------------------------------------------------------------------


def restore_manifests(manifests: str = life.MANIFESTS, backups: str = BACKUPS) -> list[str]:
    """Put back manifests of static pods that a killed kubeadm had taken away and not yet replaced; return their names.

    It moves the old one into a new folder of ``backups`` first.
    """
    back = []
    for component in life.COMPONENTS:
        target = os.path.join(manifests, component + ".yaml")
        kept = sorted(glob.glob(os.path.join(backups, "kubeadm-backup-manifests-*", component + ".yaml")))
        if kept and not os.path.exists(target):
            shutil.copyfile(kept[-1], target + ".part")
            os.chmod(target + ".part", 0o600)
            os.replace(target + ".part", target)
            back.append(component)
    return back


def control(params: dict[str, Any], only_check: bool = False) -> dict[str, Any]:
    """`kubeadm upgrade apply` on the node that is ``first``, `kubeadm upgrade node` on any other, once. Raises
    `kubeadm.Failed`.
    """
    found = state.state()
    role = "control_plane" if params["control_plane"] else "worker"
    if found["state"] == role and found["marker"].get("version") == params["version"]:
        return {"changed": False}
    if only_check:
        return {"changed": True}
    if params["control_plane"] and found["marker"]:
        restore_manifests()
        found = state.state()
    if found["state"] != role:
        lost = ", ".join(found["missing"])
        raise cluster.Failed(
            "kubernetes_damaged",
            f"the node is no whole {role.replace('_', ' ')} node" + (f": it lacks {lost}" if lost else ""),
        )
    os.makedirs(cluster.LOGS, mode=0o755, exist_ok=True)
    install({"kubeadm": params["programs"]["kubeadm"]})
    if params["control_plane"]:
        wait_for_control_plane(params["timeout"])
    if params["first"]:
        _upload_configuration(params)
    words = ["apply", "--yes"] if params["first"] else ["node"]
    with cluster._Files("upgrade", params["upgrade_config"], params["patches"]) as files:
        log = os.path.join(cluster.LOGS, "kubeadm-upgrade.log")
        answer = cluster.run(["kubeadm", "upgrade", *words, "--config", files.config], log, timeout=params["timeout"])
    if answer.code != 0:
        raise cluster.Failed(
            _REASON,
            f"kubeadm upgrade {words[0]}: {cluster.explain(answer.lines)}",
            answer.lines[-cluster.TAIL :] + cluster.kubelet_tail(),
        )
    state.mark(role, dict(found["marker"], version=params["version"]))
    return {"changed": True, "output": answer.lines[-cluster.TAIL :]}


def _upload_configuration(params: dict[str, Any]) -> None:
    """The cluster's configuration as one of the new version would be born with; kubeadm makes manifests by it."""
    with cluster._Files("init", params["config"], {}) as files:
        argv = [*cluster.PHASE, "upload-config", "kubeadm", "--config", files.config]
        answer = cluster.run(argv, os.path.join(cluster.LOGS, "kubeadm-upload-config.log"), timeout=120)
    if answer.code != 0:
        raise cluster.Failed(_REASON, f"kubeadm upload-config: {cluster.explain(answer.lines)}", answer.lines)


def wait_for_control_plane(timeout: float, pause: float = 0.5) -> None:
    """Wait until this node's API server and etcd are well, and the cluster's API answers. Raises `kubeadm.Failed`."""
    deadline = time.monotonic() + timeout
    cluster.wait_until(life._api_ready, deadline, _REASON, "the API server of the node is not ready", pause)
    cluster.wait_until(
        lambda: cluster._etcdctl("endpoint", "health").returncode == 0, deadline, _REASON, "etcd is not healthy", pause
    )
    cluster.wait_for_api(max(1.0, deadline - time.monotonic()))


# --- drain and back: on a control plane node, for any node ------------------------------------------------------------


def _node(name: str) -> dict[str, Any]:
    return cluster._json(cluster._kubectl("get", "node", name, "-o", "json"), f"{name} cannot be looked at")


def kubelet_version(node: Mapping[str, Any]) -> str:
    """Version that the kubelet of a Node object has told, without ``v``."""
    return str(node.get("status", {}).get("nodeInfo", {}).get("kubeletVersion", "")).removeprefix("v")


def drain(params: dict[str, Any], only_check: bool = False) -> dict[str, Any]:
    """Close a node and move its pods away, unless its kubelet has the new version already."""
    if not only_check:
        cluster.wait_for_api(params["timeout"])
    node = _node(params["node"])
    if kubelet_version(node) == params["version"]:
        return {"changed": False}
    if not only_check:
        if not node.get("spec", {}).get("unschedulable"):
            _annotate(params["node"], f"{MARK}={params['version']}")
        cluster.drain([params["node"]], params["drain_timeout"])
    return {"changed": True}


def back(params: dict[str, Any], only_check: bool = False) -> dict[str, Any]:
    """Wait until a node is Ready with the new version and its static pods are, then open it again if the upgrade had
    closed it. Raises `kubeadm.Failed`.
    """
    if only_check:
        return {"changed": MARK in _node(params["node"])["metadata"].get("annotations", {})}
    deadline = time.monotonic() + params["timeout"]
    cluster.wait_for_api(params["timeout"])
    missing = ["it was not asked"]

    def whole() -> bool:
        try:
            missing[:] = lacking(_node(params["node"]), _static_pods(params["node"]), params)
        except cluster.Failed as failure:
            missing[:] = [str(failure)]
        return not missing

    while not whole():
        if time.monotonic() >= deadline:
            raise cluster.Failed(_REASON, f"{params['node']} is not whole again: {', '.join(missing)}")
        time.sleep(0.5)
    if MARK not in _node(params["node"])["metadata"].get("annotations", {}):
        return {"changed": False}
    answer = cluster._kubectl("uncordon", params["node"])
    if answer.returncode != 0:
        raise cluster.Failed("kubernetes_api", f"{params['node']} cannot be opened: {answer.stderr.strip()}")
    _annotate(params["node"], f"{MARK}-")
    _await_dns(time.monotonic() + DNS_PATIENCE)
    return {"changed": True}


def lacking(node: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], params: Mapping[str, Any]) -> list[str]:
    """What a node and its static pods still lack, in words; nothing when it is whole with the new version."""
    found = []
    told = kubelet_version(node)
    if told != params["version"]:
        found.append(f"its kubelet has {told or 'no version'}")
    if not cluster._is_ready(dict(node)):
        found.append("it is not Ready")
    if not params["control_plane"]:
        return found
    by_name = {pod["metadata"].get("labels", {}).get("component"): pod for pod in pods}
    for component in life.COMPONENTS:
        pod = by_name.get(component)
        if pod is None or not cluster._is_ready(dict(pod)):
            found.append(f"{component} is not Ready")
        elif component != "etcd" and not _image(pod).endswith(f":v{params['version']}"):
            found.append(f"{component} is {_image(pod)}")
    return found


def _image(pod: Mapping[str, Any]) -> str:
    return str(pod["spec"]["containers"][0]["image"])


def _static_pods(node: str) -> list[dict[str, Any]]:
    words = ["get", "pods", "-o", "json", "-l", "tier=control-plane", f"--field-selector=spec.nodeName={node}"]
    listed = cluster._json(cluster._kubectl("--namespace", "kube-system", *words), "its pods cannot be looked at")
    return list(listed.get("items", []))


def _annotate(node: str, text: str) -> None:
    answer = cluster._kubectl("annotate", "node", node, "--overwrite", text)
    if answer.returncode != 0:
        raise cluster.Failed("kubernetes_api", f"{node} cannot be annotated: {answer.stderr.strip()}")


def _await_dns(deadline: float) -> None:
    """Give pods of CoreDNS that had to move the time to be back: the next node may hold the only one that answers."""
    while time.monotonic() < deadline:
        answer = cluster._kubectl(*cluster.DNS, "get", "deployment", "coredns", "-o", "json")
        try:
            shown = json.loads(answer.stdout or "{}")
        except ValueError:
            shown = {}
        if answer.returncode != 0 and "NotFound" in answer.stderr:
            return
        wanted = shown.get("spec", {}).get("replicas", 1)
        if answer.returncode == 0 and shown.get("status", {}).get("readyReplicas", 0) >= wanted:
            return
        time.sleep(1)


# --- programs ---------------------------------------------------------------------------------------------------------


def programs(params: dict[str, Any], only_check: bool = False) -> dict[str, Any]:
    """Replace the node's programs and start anew what runs an older one. Raises `kubeadm.Failed`."""
    wanted = params["programs"]
    if only_check:
        return {"changed": wanted != {name: observe.digest(os.path.join(PROGRAMS, name)) for name in wanted}}
    put = install(wanted)
    units = []
    if is_old("containerd"):
        units.append("containerd.service")
    if params["restart"] or is_old("kubelet"):
        units.append("kubelet.service")
    for unit in units:
        answer = observe.run(["systemctl", "restart", unit], timeout=120)
        if answer.returncode != 0:
            raise cluster.Failed(_REASON, f"{unit} does not start: {answer.stderr.strip()}", cluster.kubelet_tail())
    deadline = time.monotonic() + params["timeout"]
    cluster.wait_until(_kubelet_healthy, deadline, _REASON, "kubelet is not healthy", 0.2)
    if params["control_plane"]:
        wait_for_control_plane(params["timeout"])
    return {"changed": bool(put or units), "installed": put, "restarted": units}


def _kubelet_healthy() -> bool:
    return state.http_ok("127.0.0.1", 10248, "/healthz")


# --- tidy -------------------------------------------------------------------------------------------------------------


def tidy(params: dict[str, Any], only_check: bool = False) -> dict[str, Any]:
    """Remove what the upgrade leaves: the delivered programs, kubeadm's copies of etcd's data and manifests, images of
    the older version.
    """
    left = [STAGE] if os.path.isdir(STAGE) else []
    left += sorted(
        path for path in glob.glob(BACKUPS + "/kubeadm-*") if re.search(r"/kubeadm-(backup|upgraded|kubelet)", path)
    )
    listed = observe.run([*life.CTR, "images", "list", "--quiet"]).stdout.split()
    images = [name for name in params["images"] if name in listed]
    if not only_check:
        for path in left:
            shutil.rmtree(path, ignore_errors=True)
        if images:
            observe.run([*life.CTR, "images", "remove", *images], timeout=120)
    return {"changed": bool(left or images), "removed": [*left, *images]}


STEPS: dict[str, Callable[[dict[str, Any], bool], dict[str, Any]]] = {
    "control": control,
    "drain": drain,
    "programs": programs,
    "back": back,
    "tidy": tidy,
}


def perform(step: str, params: dict[str, Any], only_check: bool = False) -> dict[str, Any]:
    """One of STEPS. ``only_check`` says what would be done. Raises `kubeadm.Failed`."""
    return STEPS[step](params, only_check)
