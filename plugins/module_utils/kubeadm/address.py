"""Let the only node of a cluster use another address.

kubeadm's phases and files: https://kubernetes.io/docs/reference/setup-tools/kubeadm/.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import api
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm.run import PHASE, Configuration, kubeadm, wait_until
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm.static_pods import ELECTED
from ansible_collections.devenv.lab.plugins.module_utils.node import files, kubernetes
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import Machine, StepFailed
from ansible_collections.devenv.lab.plugins.module_utils.node.net import bracket

PKI = "/etc/kubernetes/pki"
FLAGS = "/var/lib/kubelet/kubeadm-flags.env"
CTR = ("ctr", "--namespace", "k8s.io")
# There while the address changes: the API may not answer until all is done.
RECORD = "/var/lib/devenv/address.json"

# Certificates that name the node's address, as kubeadm's phases call them.
OF_AN_ADDRESS = {"apiserver": "apiserver", "etcd-server": "etcd/server", "etcd-peer": "etcd/peer"}
# They reach the API server of their own node by its address, as does kubelet (kubelet.conf, which is not made again:
# its certificate is its own).
LOCAL_KUBECONFIGS = ("controller-manager", "scheduler")
_SERVER = re.compile(r"(server: https://)(\[[0-9A-Fa-f:]+\]|[0-9.]+)(?=:6443)")
_REASON = "kubernetes_address"


def current(machine: Machine) -> list[str]:
    """Return the addresses that kubelet uses (``--node-ip``), [] when it was never given any."""
    match = re.search(r"--node-ip=([0-9a-fA-F.:,]+)", files.read_text(machine.path(FLAGS)))
    return match.group(1).split(",") if match else []


def change(machine: Machine, params: dict[str, Any], only_check: bool = False) -> dict[str, Any]:
    """Let the only node of a cluster use ``params["addresses"]`` (one per family, the first is the API server's), which
    it has to have on a link already.

    Changes certificates that name the address, static pods, local kubeconfigs, kubelet's own and the peer URL in etcd.
    Pods keep theirs. Every step can be repeated, so the next run finishes a killed one. Raises `StepFailed`, for a
    cluster of several nodes before anything changes.
    """
    wanted = list(params["addresses"])
    is_begun = machine.exists(RECORD)  # a killed run may have left it without certificates
    found = kubernetes.state(machine.root)
    if found["state"] != "control_plane" and not (is_begun and found["marker"]):
        raise StepFailed("address_refused", "the node is not a whole control plane node")
    kubelet = files.read_text(machine.path(kubernetes.KUBELET))
    before = current(machine)
    is_done = (
        before == wanted
        and kubernetes.apiserver_address(machine.root) == wanted[0]
        and kubelet == with_server(kubelet, wanted[0])
    )
    if is_done and not is_begun:
        return {"changed": False, "before": wanted}
    if only_check:
        return {"changed": True, "before": before}
    if not is_begun:
        names = api.node_names(machine)
        if len(names) != 1:
            raise StepFailed("address_many_nodes", f"the cluster has {len(names)} nodes: {', '.join(sorted(names))}")
        files.write_json(machine.path(RECORD), {"before": before, "wanted": wanted})
    _rewrite(machine, params, wanted)
    os.unlink(machine.path(RECORD))
    return {"changed": True, "before": before}


def with_server(text: str, address: str) -> str:
    """Return a kubeconfig with another address of its server; a name stays."""
    return _SERVER.sub(lambda match: match.group(1) + bracket(address), text)


def _rewrite(machine: Machine, params: dict[str, Any], wanted: list[str]) -> None:
    deadline = machine.now() + params["timeout"]
    machine.run(["systemctl", "stop", "kubelet.service"])
    _end_containers(machine)
    stale = [f"{PKI}/{name}.{kind}" for name in OF_AN_ADDRESS.values() for kind in ("crt", "key")]
    for path in [*stale, *(f"/etc/kubernetes/{name}.conf" for name in LOCAL_KUBECONFIGS)]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(machine.path(path))
    kubelet = machine.path(kubernetes.KUBELET)
    files.write(kubelet, with_server(files.read_text(kubelet), wanted[0]))
    with Configuration(machine, "init", params["config"], params["patches"]) as config:
        for words in (
            *(["certs", name] for name in OF_AN_ADDRESS),
            *(["kubeconfig", name] for name in LOCAL_KUBECONFIGS),
            ["etcd", "local"],
            ["control-plane", "all"],
            ["kubelet-start"],
        ):
            _phase(machine, words, config)
        wait_until(machine, lambda: api.etcd_healthy(machine), deadline, _REASON, "etcd is not healthy")
        _update_peer(machine, wanted[0])
        _forget_endpoints(machine, files.read_json(machine.path(RECORD)).get("before", []), wanted)
        wait_until(machine, lambda: api.apiserver_ready(machine), deadline, _REASON, "the API server is not ready")
        _phase(machine, ["upload-config", "kubeadm"], config)
    _forget_pods(machine, params["node"], deadline)


def _phase(machine: Machine, words: Sequence[str], config: Configuration) -> None:
    kubeadm(machine, [*PHASE, *words], name="address", timeout=120, reason=_REASON, config=config)


def _end_containers(machine: Machine) -> None:
    """End all that runs in pods: kubelet makes it again, with the addresses that hold then."""
    for task in machine.run([*CTR, "tasks", "list", "--quiet"]).stdout.split():
        machine.run([*CTR, "tasks", "kill", "--all", "--signal", "SIGKILL", task])


def _forget_endpoints(machine: Machine, before: Sequence[str], wanted: Sequence[str]) -> None:
    """Take the old addresses off the Service kubernetes: an API server that was killed stays there for a while, and
    half of the pods' connections would go nowhere.
    """
    for address in set(before) - set(wanted):
        result = api.etcdctl(machine, "del", f"/registry/masterleases/{address}")
        api.check(result, "the API server's old address", "kubernetes_etcd")


def _update_peer(machine: Machine, address: str) -> None:
    """Set the only member's URL, as others would reach it one day."""
    listed = api.parse(api.etcdctl(machine, "member", "list", "-w", "json"), "etcd members cannot be listed")
    (member,) = listed["members"]
    wanted = f"https://{bracket(address)}:2380"
    if member.get("peerURLs") != [wanted]:
        result = api.etcdctl(machine, "member", "update", format(member["ID"], "x"), f"--peer-urls={wanted}")
        api.check(result, "etcd's own address", "kubernetes_etcd")


def _forget_pods(machine: Machine, node: str, deadline: float) -> None:
    """Delete the pods on the node's own network but the static ones: they carry the old address in their status and in
    their environment; their controllers make them again.
    """
    listed: dict[str, Any] = {}

    def answers() -> bool:
        result = api.kubectl(machine, "get", "pods", "-A", "-o", "json", f"--field-selector=spec.nodeName={node}")
        if result.code == 0:
            listed.update(result.json({}))
        return result.code == 0

    wait_until(machine, answers, deadline, _REASON, "the API does not answer")
    # Who held them has ended, and others would wait until they run out; deleted pods wait for a controller meanwhile.
    api.kubectl(machine, "delete", "lease", "-n", "kube-system", "--ignore-not-found", *ELECTED)
    for item in listed.get("items", []):
        owners = {owner["kind"] for owner in item["metadata"].get("ownerReferences", [])}
        if item["spec"].get("hostNetwork") and "Node" not in owners and owners:
            words = ["delete", "pod", "--wait=false", "-n", item["metadata"]["namespace"], item["metadata"]["name"]]
            result = api.kubectl(machine, *words)
            if "NotFound" not in result.stderr:
                api.check(result, "a pod with the old address cannot be deleted", _REASON)
