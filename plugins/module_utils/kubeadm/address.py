"""Change the address of the only node of a cluster.

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
# Exists while the address changes: the API may not respond until the change is complete.
RECORD = "/var/lib/devenv/address.json"

# Certificates that contain the node's address, by the names of kubeadm's phases.
OF_AN_ADDRESS = {"apiserver": "apiserver", "etcd-server": "etcd/server", "etcd-peer": "etcd/peer"}
# kubeconfigs with the address of the node's own API server. kubelet.conf has it too, but is edited instead of
# generated, because its certificate must stay.
LOCAL_KUBECONFIGS = ("controller-manager", "scheduler")
_SERVER = re.compile(r"(server: https://)(\[[0-9A-Fa-f:]+\]|[0-9.]+)(?=:6443)")
_REASON = "kubernetes_address"


def kubelet_addresses(machine: Machine) -> list[str]:
    """Return the addresses that kubelet uses (``--node-ip``), [] if it has none."""
    match = re.search(r"--node-ip=([0-9a-fA-F.:,]+)", files.read_text(machine.path(FLAGS)))
    return match.group(1).split(",") if match else []


def change(machine: Machine, params: dict[str, Any], only_check: bool = False) -> dict[str, Any]:
    """Make the only node of a cluster use ``params["addresses"]`` (one per family, the API server's first), which are
    already configured on a link.

    Changes certificates with the address, static pods, local kubeconfigs, kubelet's configuration and the peer URL in
    etcd. Pods keep their addresses. Every step can be repeated, so the next run completes a killed one.
    Raises `StepFailed`; for a cluster of several nodes, before anything changes.
    """
    addresses = list(params["addresses"])
    is_begun = machine.exists(RECORD)  # a killed run may have removed certificates
    node = kubernetes.state(machine.root)
    if node["state"] != "control_plane" and not (is_begun and node["marker"]):
        raise StepFailed("address_refused", "the node is not a complete control plane node")
    kubelet = files.read_text(machine.path(kubernetes.KUBELET))
    before = kubelet_addresses(machine)
    is_done = (
        before == addresses
        and kubernetes.apiserver_address(machine.root) == addresses[0]
        and kubelet == with_server(kubelet, addresses[0])
    )
    if is_done and not is_begun:
        return {"changed": False, "before": addresses}
    if only_check:
        return {"changed": True, "before": before}
    if not is_begun:
        names = api.node_names(machine)
        if len(names) != 1:
            raise StepFailed("address_many_nodes", f"the cluster has {len(names)} nodes: {', '.join(sorted(names))}")
        files.write_json(machine.path(RECORD), {"before": before, "wanted": addresses})
    _rewrite(machine, params, addresses)
    os.unlink(machine.path(RECORD))
    return {"changed": True, "before": before}


def with_server(text: str, address: str) -> str:
    """Return a kubeconfig with another server address; a server name stays."""
    return _SERVER.sub(lambda match: match.group(1) + bracket(address), text)


def _rewrite(machine: Machine, params: dict[str, Any], addresses: list[str]) -> None:
    deadline = machine.now() + params["timeout"]
    machine.run(["systemctl", "stop", "kubelet.service"])
    # kubelet recreates the containers, with the new address.
    for task in machine.run([*CTR, "tasks", "list", "--quiet"]).stdout.split():
        machine.run([*CTR, "tasks", "kill", "--all", "--signal", "SIGKILL", task])
    stale = [f"{PKI}/{name}.{kind}" for name in OF_AN_ADDRESS.values() for kind in ("crt", "key")]
    for path in [*stale, *(f"/etc/kubernetes/{name}.conf" for name in LOCAL_KUBECONFIGS)]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(machine.path(path))
    kubelet = machine.path(kubernetes.KUBELET)
    files.write(kubelet, with_server(files.read_text(kubelet), addresses[0]))
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
        _update_peer(machine, addresses[0])
        # A killed API server stays an endpoint of the Service kubernetes for a while, and every second connection of
        # pods would go nowhere.
        for address in set(files.read_json(machine.path(RECORD)).get("before", [])) - set(addresses):
            result = api.etcdctl(machine, "del", f"/registry/masterleases/{address}")
            api.check(result, "the old address of the API server cannot be removed", "kubernetes_etcd")
        wait_until(machine, lambda: api.apiserver_ready(machine), deadline, _REASON, "the API server is not ready")
        _phase(machine, ["upload-config", "kubeadm"], config)
    _delete_pods(machine, params["node"], deadline)


def _phase(machine: Machine, words: Sequence[str], config: Configuration) -> None:
    kubeadm(machine, [*PHASE, *words], name="address", timeout=120, reason=_REASON, config=config)


def _update_peer(machine: Machine, address: str) -> None:
    """Set the peer URL of the only member, for members that join later."""
    (member,) = api.etcd_members(machine)
    url = f"https://{bracket(address)}:2380"
    if member.get("peerURLs") != [url]:
        result = api.etcdctl(machine, "member", "update", format(member["ID"], "x"), f"--peer-urls={url}")
        api.check(result, "the address of the etcd member cannot be changed", "kubernetes_etcd")


def _delete_pods(machine: Machine, node: str, deadline: float) -> None:
    """Delete the pods on the host network except static ones: they have the old address in their status and
    environment, and their controllers recreate them.
    """
    pods: dict[str, Any] = {}

    def is_listed() -> bool:
        result = api.kubectl(machine, "get", "pods", "-A", "-o", "json", f"--field-selector=spec.nodeName={node}")
        if result.code == 0:
            pods.update(result.json({}))
        return result.code == 0

    wait_until(machine, is_listed, deadline, _REASON, "the API does not respond")
    # The holders of these leases are gone. Their successors would wait until the leases expire, and nobody would
    # recreate deleted pods meanwhile.
    api.kubectl(machine, "delete", "lease", "-n", "kube-system", "--ignore-not-found", *ELECTED)
    for item in pods.get("items", []):
        owners = {owner["kind"] for owner in item["metadata"].get("ownerReferences", [])}
        if item["spec"].get("hostNetwork") and "Node" not in owners and owners:
            words = ["delete", "pod", "--wait=false", "-n", item["metadata"]["namespace"], item["metadata"]["name"]]
            result = api.kubectl(machine, *words)
            if "NotFound" not in result.stderr:
                api.check(result, "a pod with the old address cannot be deleted", _REASON)
