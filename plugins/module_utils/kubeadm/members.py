"""Admit nodes to a cluster, drain them and remove them: on one of its control plane nodes."""

from __future__ import annotations

import base64
import datetime
import functools
import re
from collections.abc import Sequence
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import api, dns
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm.run import PHASE, Configuration, kubeadm, wait_until
from ansible_collections.devenv.lab.plugins.module_utils.node import kubernetes, wait
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import Machine, StepFailed
from ansible_collections.devenv.lab.plugins.module_utils.node.net import bracket

TURNS = 8  # consecutive requests that reach every API server of a cluster

# Errors of etcd while members join and leave, which pass within seconds.
TEMPORARY = re.compile(
    r"unhealthy cluster|leader changed|request timed out|context deadline exceeded|no leader|too many learner"
)
# What kubeadm's phase mark-control-plane sets, besides the taints, with which kubelet registers.
CONTROL_PLANE_LABELS = (
    "node-role.kubernetes.io/control-plane",
    "node.kubernetes.io/exclude-from-external-load-balancers",
)

_REASON = "kubernetes_join_secret"


# --- join ------------------------------------------------------------------------------------------------------------


def token_of(config: str) -> str:
    """Return the bootstrap token in a configuration. Raises `StepFailed` if it has none."""
    match = re.search(r"\btoken['\"]?:\s*['\"]?([a-z0-9]{6}\.[a-z0-9]{16})\b", config)
    if match is None:
        raise StepFailed(_REASON, "the configuration has no bootstrap token")
    return match.group(1)


def remaining_validity(secret: dict[str, Any], now: float) -> float:
    """Return the seconds that a bootstrap token's Secret remains valid (``data.expiration``, RFC 3339), infinity if it
    does not expire.
    """
    encoded = secret.get("data", {}).get("expiration")
    if not encoded:
        return float("inf")
    text = re.sub(r"\.\d+", "", base64.b64decode(encoded).decode("ascii"))
    try:
        return datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S%z").timestamp() - now
    except ValueError:
        return 0


def allow_join(machine: Machine, params: dict[str, Any]) -> dict[str, Any]:
    """Prepare the cluster for joins: a token that is valid for at least ``least`` s more, uploaded certificates, and no
    earlier nodes of the same name. Raises `StepFailed`.
    """
    api.wait_for_api(machine, params["wait"])
    changed = bool(forget(machine, params["nodes"], params["members"]))
    identity = token_of(params["config"]).partition(".")[0]
    words = ["-n", "kube-system", "secret", "bootstrap-token-" + identity, "--ignore-not-found"]
    secret = api.get(machine, "the bootstrap token", *words)
    with Configuration(machine, "allow_join", params["config"], {}) as config:
        if not secret or remaining_validity(secret, machine.clock.wall()) < params["least"]:
            if secret:
                kubeadm(machine, ["token", "delete", identity], timeout=60, reason=_REASON)
            kubeadm(machine, ["token", "create"], timeout=60, reason=_REASON, config=config)
            changed = True
        if params["upload_certs"]:
            # Joining nodes take the names for their certificates from the cluster's own configuration.
            kubeadm(machine, [*PHASE, "upload-config", "kubeadm"], timeout=60, reason=_REASON, config=config)
            words = ["upload-certs", "--upload-certs", "--skip-certificate-key-print"]
            kubeadm(machine, [*PHASE, *words], timeout=60, reason=_REASON, config=config)
            changed = True
    return {"changed": dns.grow(machine, params["dns_replicas"]) or changed}


def register(machine: Machine, params: dict[str, Any]) -> dict[str, Any]:
    """Have kubelet create the Node object of this finished node again: it does so only when it starts.

    On a control plane node, also set the labels that only `kubeadm init` and `join` set. Raises `StepFailed`.
    """
    is_registered = functools.partial(kubernetes.is_registered, machine.root, machine.http_status)
    if is_registered():
        return {"changed": False}
    api.check(machine.run(["systemctl", "restart", "kubelet.service"]), "kubelet cannot be restarted")
    wait_until(
        machine,
        is_registered,
        machine.now() + params["wait"],
        "kubernetes_join_failed",
        f"kubelet has not registered this node within {params['wait']:g} s",
    )
    if params["control_plane"]:
        labels = [f"{name}=" for name in CONTROL_PLANE_LABELS]
        api.check(api.kubectl(machine, "label", "--overwrite", "node", params["node"], *labels), "the node has no role")
    return {"changed": True}


# --- leave -----------------------------------------------------------------------------------------------------------


def drain(machine: Machine, nodes: Sequence[str], timeout: float) -> dict[str, Any]:
    """Drain ``nodes``. Raises `StepFailed` if a node is not drained within ``timeout`` s.

    A node that is not Ready is only cordoned: its kubelet could not stop the pods.
    """
    listing = api.get(machine, "the list of nodes", "nodes").get("items", [])
    ready = {item["metadata"]["name"]: api.is_ready(item) for item in listing}
    present = [name for name in nodes if name in ready]
    for name in present:
        words = ["drain", name, "--ignore-daemonsets", "--delete-emptydir-data", "--force", f"--timeout={timeout:g}s"]
        result = api.kubectl(machine, *(words if ready[name] else ["cordon", name]), timeout=timeout + 15)
        api.check(result, f"{name} cannot be drained", "kubernetes_drain")
    return {"changed": bool(present)}


def stale_members(listing: Sequence[dict[str, Any]], members: dict[str, list[str]]) -> list[str]:
    """Return the ids (hexadecimal) of those etcd members that are ``members``: a node's addresses by its name.

    Either matches, because a member that never started has no name.
    """
    peers = {f"https://{bracket(address)}:2380" for addresses in members.values() for address in addresses}
    return [
        format(member["ID"], "x")
        for member in listing
        if member.get("name") in members or peers & set(member.get("peerURLs", []))
    ]


def forget(machine: Machine, nodes: Sequence[str], members: dict[str, list[str]]) -> list[str]:
    """Delete ``nodes`` from the cluster and ``members`` from etcd; return what was removed. Raises `StepFailed`.

    Joining nodes may have been part of it before, and lost nodes cannot leave on their own.
    """
    removed = []
    if members:
        for identity in stale_members(api.etcd_members(machine), members):
            _remove_member(machine, identity)
            removed.append("etcd member " + identity)
        if removed:
            _wait_for_proxies(machine, [address for addresses in members.values() for address in addresses])
    present = api.node_names(machine) if nodes else set()
    stale = [name for name in nodes if name in present]
    if stale:
        api.check(api.kubectl(machine, "delete", "node", "--wait=true", *stale), "nodes cannot be deleted")
        removed += ["node " + name for name in stale]
        removed += dns.shrink(machine, len(present) - len(stale))
    return removed


def _remove_member(machine: Machine, identity: str, timeout: float = 60) -> None:
    complaint = ""

    def failed() -> StepFailed:
        return StepFailed("kubernetes_etcd", f"etcd member {identity} cannot be removed: {complaint}")

    def is_removed() -> bool:
        nonlocal complaint
        result = api.etcdctl(machine, "member", "remove", identity)
        if result.code == 0 or "member not found" in result.stderr.lower():
            return True
        complaint = result.complaint
        if not TEMPORARY.search(result.stderr):
            raise failed()
        return False

    wait.until(is_removed, machine.now() + timeout, failed, 1, machine.clock)


def _wait_for_proxies(machine: Machine, addresses: Sequence[str], timeout: float = 60, pause: float = 0.2) -> None:
    """Wait until no request is routed to the API server of a removed member, whose node has ``addresses``.

    Such a server has no data any more and lets every request hang. It reports that some seconds late, and the proxies
    in front of the API servers notice it later still. They use the servers in turn, so several fast responses in a row
    cover all servers that they use. If something is still wrong after ``timeout`` s, the next request reports it.
    """
    deadline, ca = machine.now() + timeout, machine.path(kubernetes.CA)
    wait.poll(
        lambda: not any(machine.http_ok(address, 6443, "/readyz", ca=ca, timeout=2) for address in addresses),
        deadline,
        pause,
        machine.clock,
    )
    fast = 0
    while fast < TURNS and machine.now() < deadline:
        if api.kubectl(machine, "get", "--raw=/readyz", "--request-timeout=2s").code == 0:
            fast += 1
        else:
            fast = 0
            machine.clock.sleep(pause)
