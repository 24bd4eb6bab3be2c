"""Let nodes join a cluster, move pods off them, and take them out of it: on one of its control plane nodes."""

from __future__ import annotations

import base64
import calendar
import re
import time
from collections.abc import Sequence
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import api, dns
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm.run import PHASE, Configuration, kubeadm
from ansible_collections.devenv.lab.plugins.module_utils.node import kubernetes, wait
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import Machine, StepFailed
from ansible_collections.devenv.lab.plugins.module_utils.node.net import bracket

TURNS = 8  # requests in a row that reach every API server of a cluster

# What etcd answers while members come and go, and answers otherwise some seconds later.
PASSING = re.compile(
    r"unhealthy cluster|leader changed|request timed out|context deadline exceeded|no leader|too many learner"
)

_REASON = "kubernetes_join_secret"


# --- join ------------------------------------------------------------------------------------------------------------


def token_of(config: str) -> str:
    """Return the bootstrap token in a configuration. Raises `StepFailed` when it has none."""
    match = re.search(r"\btoken['\"]?:\s*['\"]?([a-z0-9]{6}\.[a-z0-9]{16})\b", config)
    if match is None:
        raise StepFailed(_REASON, "the configuration has no bootstrap token")
    return match.group(1)


def token_left(secret: dict[str, Any], now: float) -> float:
    """Return the seconds that a bootstrap token's Secret is still valid (``data.expiration``, RFC 3339), infinite when
    it has no end.
    """
    encoded = secret.get("data", {}).get("expiration")
    if not encoded:
        return float("inf")
    text = base64.b64decode(encoded).decode("ascii")
    match = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d)$", text)
    if match is None:
        return 0
    offset = 0
    if match.group(2) != "Z":
        sign = -1 if match.group(2)[0] == "-" else 1
        offset = sign * (int(match.group(2)[1:3]) * 3600 + int(match.group(2)[4:6]) * 60)
    return calendar.timegm(time.strptime(match.group(1), "%Y-%m-%dT%H:%M:%S")) - offset - now


def allow_join(machine: Machine, params: dict[str, Any]) -> dict[str, Any]:
    """Make the cluster ready for joins: token there for at least ``least`` s more, certificates uploaded, earlier nodes
    of the same name forgotten. Raises `StepFailed`.
    """
    api.wait_for_api(machine, params["wait"])
    changed = bool(forget(machine, params["nodes"], params["members"]))
    identity = token_of(params["config"]).partition(".")[0]
    words = ["get", "secret", "bootstrap-token-" + identity, "-o", "json", "--ignore-not-found"]
    secret = api.parse(api.kubectl(machine, "-n", "kube-system", *words), "the bootstrap token cannot be read")
    with Configuration(machine, "allow_join", params["config"], {}) as config:
        if not secret or token_left(secret, machine.clock.wall()) < params["least"]:
            if secret:
                kubeadm(machine, ["token", "delete", identity], timeout=60, reason=_REASON)
            kubeadm(machine, ["token", "create"], timeout=60, reason=_REASON, config=config)
            changed = True
        if params["upload_certs"]:
            # What joins takes the names for its certificates from the cluster's own configuration.
            kubeadm(machine, [*PHASE, "upload-config", "kubeadm"], timeout=60, reason=_REASON, config=config)
            words = ["upload-certs", "--upload-certs", "--skip-certificate-key-print"]
            kubeadm(machine, [*PHASE, *words], timeout=60, reason=_REASON, config=config)
            changed = True
    return {"changed": dns.grow(machine, params["dns_replicas"]) or changed}


# --- leave -----------------------------------------------------------------------------------------------------------


def drain(machine: Machine, nodes: Sequence[str], timeout: float) -> dict[str, Any]:
    """Move the pods away. Raises `StepFailed` when they have not gone in ``timeout`` s.

    A node that is not Ready is only closed for new pods: its kubelet could not end those it has.
    """
    listed = api.parse(api.kubectl(machine, "get", "nodes", "-o", "json"), "nodes cannot be listed").get("items", [])
    ready = {item["metadata"]["name"]: api.is_ready(item) for item in listed}
    found = [name for name in nodes if name in ready]
    for name in found:
        words = ["drain", name, "--ignore-daemonsets", "--delete-emptydir-data", "--force", f"--timeout={timeout:g}s"]
        result = api.kubectl(machine, *(words if ready[name] else ["cordon", name]), timeout=timeout + 15)
        api.check(result, f"{name} cannot be drained", "kubernetes_drain")
    return {"changed": bool(found)}


def stale_members(listed: dict[str, Any], members: dict[str, list[str]]) -> list[str]:
    """Return the ids (hexadecimal) of the etcd members of a listing (``etcdctl member list -w json``) that are
    ``members``: addresses of a node by its name. A member counts by either, since one that never started has no name.
    """
    peers = {f"https://{bracket(address)}:2380" for addresses in members.values() for address in addresses}
    return [
        format(member["ID"], "x")
        for member in listed.get("members", [])
        if member.get("name") in members or peers & set(member.get("peerURLs", []))
    ]


def forget(machine: Machine, nodes: Sequence[str], members: dict[str, list[str]]) -> list[str]:
    """Take ``nodes`` out of the cluster, and ``members`` out of etcd. Return what was removed. Raises `StepFailed`.

    Nodes that are to join may have been in it before, nodes that were lost cannot leave by themselves.
    """
    removed = []
    if members:
        listed = api.parse(api.etcdctl(machine, "member", "list", "-w", "json"), "etcd members cannot be listed")
        for identity in stale_members(listed, members):
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
    def removed() -> bool:
        result = api.etcdctl(machine, "member", "remove", identity)
        if result.code == 0 or "member not found" in result.stderr.lower():
            return True
        complaint[:] = [result.complaint]
        if not PASSING.search(result.stderr):
            raise failed()
        return False

    def failed() -> StepFailed:
        return StepFailed("kubernetes_etcd", f"etcd member {identity} cannot be removed: {complaint[0]}")

    complaint: list[str] = []
    wait.until(removed, machine.now() + timeout, failed, 1, machine.clock)


def _wait_for_proxies(machine: Machine, addresses: Sequence[str], timeout: float = 60, pause: float = 0.2) -> None:
    """Wait until no request goes to the API server of a member that was removed, whose node has ``addresses``: it has
    no data any more and lets every request hang. It says so itself some seconds late, as it looks for its data once in
    a while, and then the proxies before the API servers have to see it. They take turns, so some quick answers in a row
    are from all that they know. If something is still wrong after ``timeout`` s, the next request reports it.
    """
    deadline, ca = machine.now() + timeout, machine.path(kubernetes.CA)
    wait.poll(
        lambda: not any(machine.http_ok(address, 6443, "/readyz", ca=ca, timeout=2) for address in addresses),
        deadline,
        pause,
        machine.clock,
    )
    quick = 0
    while quick < TURNS and machine.now() < deadline:
        if api.kubectl(machine, "get", "--raw=/readyz", "--request-timeout=2s").code == 0:
            quick += 1
        else:
            quick = 0
            machine.clock.sleep(pause)
