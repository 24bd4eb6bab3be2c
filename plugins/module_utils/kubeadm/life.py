"""What kubeadm does on a node whose cluster lives: certificates renewed, its address changed.

kubeadm's phases and files: https://kubernetes.io/docs/reference/setup-tools/kubeadm/.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import cluster, state
from ansible_collections.devenv.lab.plugins.module_utils.node import observe, private_file

MANIFESTS = "/etc/kubernetes/manifests"
PKI = "/etc/kubernetes/pki"
_REASON = "kubernetes_certificates"
# Each as kubeadm names it, with the programs that read it when they start.
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
ELECTED = COMPONENTS[2:]
FLAGS = "/var/lib/kubelet/kubeadm-flags.env"
CTR = ("ctr", "--namespace", "k8s.io")
# Seconds that a program has to end by itself. An API server whose etcd went waits a minute for requests that nobody
# answers, and all that watch it look for it at ever longer intervals meanwhile.
PATIENCE = 5.0

# Certificates that name the node's address, as kubeadm's phases call them.
OF_AN_ADDRESS = {"apiserver": "apiserver", "etcd-server": "etcd/server", "etcd-peer": "etcd/peer"}
# They reach the API server of their own node by its address, as does kubelet (kubelet.conf, which is not made anew: its
# certificate is its own).
LOCAL_KUBECONFIGS = ("controller-manager", "scheduler")
_SERVER = re.compile(r"(server: https://)(\[[0-9A-Fa-f:]+\]|[0-9.]+)(?=:6443)")


def expiring(ends: dict[str, str], now: float, within: float | None) -> list[str]:
    """Paths of the certificates that end within ``within`` s from ``now``; None: all. The authorities are left out:
    renewing does not make them new. ``ends`` are as kubernetes_state.certificate_ends gives them.
    """
    limit = None if within is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now + within))
    return sorted(
        path
        for path, end in ends.items()
        if not path.endswith("/ca.crt") and "/kubelet/" not in path and (limit is None or end <= limit)
    )


def renew(params: dict[str, Any], now: float, only_check: bool = False) -> dict[str, Any]:
    """Renew the certificates and kubeconfigs of this control plane node when one of them ends within
    ``params["within"]`` s (None: in any case), and start again what reads them only then.

    kubelet renews its own by itself. Raises `kubeadm.Failed`.
    """
    before = state.certificate_ends()
    due = expiring(before, now, params["within"])
    result = {"changed": bool(due), "due": due, "certificates": before}
    if only_check or not due:
        return result
    os.makedirs(cluster.LOGS, mode=0o755, exist_ok=True)
    log = os.path.join(cluster.LOGS, "kubeadm-renew.log")
    answer = cluster.run(["kubeadm", "certs", "renew", "all"], log, timeout=120)
    if answer.code != 0:
        raise cluster.Failed(_REASON, f"kubeadm certs renew: {cluster.explain(answer.lines)}", answer.lines)
    restart_static_pods(params["timeout"])
    return dict(result, certificates=state.certificate_ends())


def restart_static_pods(timeout: float, pause: float = 0.5) -> None:
    """End the control plane's programs; kubelet starts them again at once. Returns when the API server is ready.

    etcd first and by itself: the API server gives up when it does not find it. Raises `kubeadm.Failed`.
    """
    deadline = time.monotonic() + timeout
    for group in (COMPONENTS[:1], COMPONENTS[1:]):
        _restart(group, deadline, pause)
    cluster.wait_until(_api_ready, deadline, _REASON, "the API server is not ready again", pause)


def _restart(group: Sequence[str], deadline: float, pause: float, patience: float = PATIENCE) -> None:
    old = running(group)
    _end(old, signal.SIGTERM)
    ending = time.monotonic()

    def started() -> bool:
        if time.monotonic() - ending > patience:
            _end(old, signal.SIGKILL)
        return all(pids and not set(pids) & set(old[name]) for name, pids in running(group).items())

    cluster.wait_until(started, deadline, _REASON, f"{', '.join(group)} did not start again", pause)


def _api_ready() -> bool:
    address = state.apiserver_address()
    return bool(address) and state.http_ok(str(address), 6443, "/readyz", ca=state.CA)


def running(names: Sequence[str], proc: str = "/proc") -> dict[str, list[int]]:
    """Process ids by program, of those of ``names`` that run on this node."""
    found: dict[str, list[int]] = {name: [] for name in names}
    for entry in os.listdir(proc):
        if not entry.isdigit():
            continue
        try:
            with open(os.path.join(proc, entry, "cmdline"), "rb") as stream:
                program = os.path.basename(stream.read().split(b"\0")[0]).decode(errors="replace")
        except OSError:
            continue
        if program in found:
            found[program].append(int(entry))
    return found


def _end(programs: Mapping[str, Sequence[int]], how: signal.Signals) -> None:
    """Signal those of ``programs`` (process ids by name) that still run: a number may be another process' by now."""
    now = running(list(programs))
    for name, pids in programs.items():
        for pid in set(pids) & set(now[name]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, how)


# --- another address -------------------------------------------------------------------------------------------------


def addresses_now() -> list[str]:
    """Addresses that kubelet tells (``--node-ip``), [] when it was never told."""
    match = re.search(r"--node-ip=([0-9a-fA-F.:,]+)", observe.read_text(FLAGS))
    return match.group(1).split(",") if match else []


def change_address(params: dict[str, Any], only_check: bool = False) -> dict[str, Any]:
    """Let the only node of a cluster use ``params["addresses"]`` (one a family, the first is the API server's), which
    it has to have on a link already.

    Certificates that name the address, static pods, local kubeconfigs, kubelet's own and the peer URL in etcd. Pods
    keep theirs. Every step can be done again, so a killed run is finished by the next. Raises `kubeadm.Failed`, for a
    cluster of several nodes before anything changes.
    """
    wanted = list(params["addresses"])
    if state.state()["state"] != "control_plane":
        raise cluster.Failed("address_refused", "the node is no whole control plane node")
    finished = (
        addresses_now() == wanted
        and state.apiserver_address() == wanted[0]
        and observe.read_text(state.KUBELET) == with_server(observe.read_text(state.KUBELET), wanted[0])
    )
    if finished and not os.path.exists(_mark()):
        return {"changed": False, "before": wanted}
    before = addresses_now()
    if only_check:
        return {"changed": True, "before": before}
    if not os.path.exists(_mark()):
        _require_single()
        # From here on the API may not answer until all is done.
        with open(_mark(), "w", encoding="utf-8") as stream:
            stream.write(json.dumps({"before": before, "wanted": wanted}))
    _rewrite(params, wanted)
    os.unlink(_mark())
    return {"changed": True, "before": before}


def with_server(text: str, address: str) -> str:
    """A kubeconfig with another address of its server; a name stays."""
    host = f"[{address}]" if ":" in address else address
    return _SERVER.sub(lambda match: match.group(1) + host, text)


def _point_kubelet(address: str) -> None:
    text = with_server(observe.read_text(state.KUBELET), address)
    private_file.write(state.KUBELET, text)


def _mark() -> str:
    return os.path.join(os.path.dirname(state.MARKER), "address.json")


def _require_single() -> None:
    names = cluster._nodes()
    if len(names) != 1:
        raise cluster.Failed("address_many_nodes", f"the cluster has {len(names)} nodes: {', '.join(sorted(names))}")


def _rewrite(params: dict[str, Any], wanted: list[str]) -> None:
    deadline = time.monotonic() + params["timeout"]
    os.makedirs(cluster.LOGS, mode=0o755, exist_ok=True)
    observe.run(["systemctl", "stop", "kubelet.service"])
    _end_containers()
    for path in [f"{PKI}/{name}.{kind}" for name in OF_AN_ADDRESS.values() for kind in ("crt", "key")]:
        _remove(path)
    for name in LOCAL_KUBECONFIGS:
        _remove(f"/etc/kubernetes/{name}.conf")
    _point_kubelet(wanted[0])
    with cluster._Files("init", params["config"], params["patches"]) as files:
        for words in (
            *(["certs", name] for name in OF_AN_ADDRESS),
            *(["kubeconfig", name] for name in LOCAL_KUBECONFIGS),
            ["etcd", "local"],
            ["control-plane", "all"],
            ["kubelet-start"],
        ):
            _phase(words, files.config)
        _wait_for(lambda: cluster._etcdctl("endpoint", "health").returncode == 0, deadline, "etcd is not healthy")
        _update_peer(wanted[0])
        _forget_endpoints(observe.read_json(_mark()).get("before", []), wanted)
        _wait_for(_api_ready, deadline, "the API server is not ready")
        _phase(["upload-config", "kubeadm"], files.config)
    _forget_pods(params["node"], deadline)


def _phase(words: Sequence[str], config: str) -> None:
    log = os.path.join(cluster.LOGS, "kubeadm-address.log")
    answer = cluster.run([*cluster.PHASE, *words, "--config", config], log, timeout=120)
    if answer.code != 0:
        told = " ".join(words)
        raise cluster.Failed("kubernetes_address", f"kubeadm {told}: {cluster.explain(answer.lines)}", answer.lines)


def _wait_for(done: Callable[[], bool], deadline: float, text: str) -> None:
    cluster.wait_until(done, deadline, "kubernetes_address", text)


def _remove(path: str) -> None:
    if os.path.exists(path):
        os.unlink(path)


def _end_containers() -> None:
    """End all that runs in pods: kubelet makes it anew, with the addresses that hold then."""
    for task in observe.run([*CTR, "tasks", "list", "--quiet"]).stdout.split():
        observe.run([*CTR, "tasks", "kill", "--all", "--signal", "SIGKILL", task])


def _forget_endpoints(before: Sequence[str], wanted: Sequence[str]) -> None:
    """Take the old addresses off the Service kubernetes: an API server that was killed stays there for a while, and
    half of the pods' connections would go nowhere.
    """
    for address in before:
        if address not in wanted:
            answer = cluster._etcdctl("del", f"/registry/masterleases/{address}")
            if answer.returncode != 0:
                raise cluster.Failed("kubernetes_etcd", f"the API server's old address: {answer.stderr.strip()}")


def _update_peer(address: str) -> None:
    """The only member's URL, as others would reach it one day."""
    host = f"[{address}]" if ":" in address else address
    listed = cluster._json(cluster._etcdctl("member", "list", "-w", "json"), "etcd members cannot be listed")
    (member,) = listed["members"]
    wanted = f"https://{host}:2380"
    if member.get("peerURLs") != [wanted]:
        answer = cluster._etcdctl("member", "update", format(member["ID"], "x"), f"--peer-urls={wanted}")
        if answer.returncode != 0:
            raise cluster.Failed("kubernetes_etcd", f"etcd's own address: {answer.stderr.strip()}")


def _forget_pods(node: str, deadline: float) -> None:
    """Delete the pods on the node's own network that are no static ones: they carry the old address in their status
    and in their environment; their controllers make them anew.
    """
    listed: dict[str, Any] = {}

    def answers() -> bool:
        answer = cluster._kubectl("get", "pods", "-A", "-o", "json", f"--field-selector=spec.nodeName={node}")
        if answer.returncode == 0:
            listed.update(json.loads(answer.stdout))
        return answer.returncode == 0

    _wait_for(answers, deadline, "the API does not answer")
    # Who held them has ended, and others would wait until they run out; deleted pods wait for a controller meanwhile.
    cluster._kubectl("delete", "lease", "-n", "kube-system", "--ignore-not-found", *ELECTED)
    for item in listed.get("items", []):
        owners = {owner["kind"] for owner in item["metadata"].get("ownerReferences", [])}
        if item["spec"].get("hostNetwork") and "Node" not in owners and owners:
            words = ["delete", "pod", "--wait=false", "-n", item["metadata"]["namespace"], item["metadata"]["name"]]
            answer = cluster._kubectl(*words)
            if answer.returncode != 0 and "NotFound" not in answer.stderr:
                raise cluster.Failed("kubernetes_address", cluster.redact(answer.stderr.strip()))


ACTIONS = ("renew_certificates", "change_address")


def perform(action: str, params: dict[str, Any], now: float, only_check: bool = False) -> dict[str, Any]:
    """One of ACTIONS on this node. ``only_check`` says what would be done."""
    if action == "renew_certificates":
        return renew(params, now, only_check)
    return change_address(params, only_check)
