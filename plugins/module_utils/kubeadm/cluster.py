"""Drive kubeadm on this node: idempotent by the node's real state, secrets in no argv, log or result.

Configuration formats: kubeadm.k8s.io/v1beta4 (https://kubernetes.io/docs/reference/config-api/kubeadm-config.v1beta4/).
"""

from __future__ import annotations

import base64
import calendar
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import etcd_traffic
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import state as kubernetes_state
from ansible_collections.devenv.lab.plugins.module_utils.node import background, observe

RUNTIME = "/run/devenv"
LOGS = "/var/log/devenv"
TURNS = 8  # requests in a row that reach every API server of a cluster
TAIL = 60  # lines of kubeadm's output in a result

# A bootstrap token, and a certificate key that is not part of a digest.
TOKEN = re.compile(r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b")
KEY = re.compile(r"(?<!sha256:)(?<![0-9A-Fa-f])[0-9a-f]{64}(?![0-9A-Fa-f])")

# What kubeadm and systemd leave behind after `kubeadm reset` of a half-made node.
LEFT = ("/etc/kubernetes/manifests", "/etc/kubernetes/pki", "/var/lib/etcd", "/var/lib/kubelet", "/var/log/pods")

PHASE = ("kubeadm", "init", "phase")
DNS = ("--namespace", "kube-system")

# A control plane node joins in two parts, by the phases that each leaves out: etcd, then all that needs its own etcd.
# kubeadm by itself starts the API server first, which then asks for etcd at ever longer intervals.
JOIN_ETCD = (
    "control-plane-prepare/control-plane",
    "kubelet-wait-bootstrap",
    "control-plane-join",
    "wait-control-plane",
)
JOIN_REST = (
    "preflight",
    "control-plane-prepare/download-certs",
    "control-plane-prepare/certs",
    "control-plane-prepare/kubeconfig",
    "check-etcd",
    "kubelet-start",
    "etcd-join",
)

# Ready but for looks at roles and priority classes that a cluster has had since its first API server started: seconds,
# where several start at once.
JOINED = (
    "/readyz?exclude=poststarthook/rbac/bootstrap-roles"
    "&exclude=poststarthook/scheduling/bootstrap-system-priority-classes"
)

# What etcd answers while members come and go, and answers otherwise some seconds later.
PASSING = re.compile(
    r"unhealthy cluster|leader changed|request timed out|context deadline exceeded|no leader|too many learner"
)


class Failed(Exception):
    """A step ended badly. ``reason`` is an id of the catalogue, ``output`` redacted lines."""

    def __init__(self, reason: str, message: str, output: Sequence[str] = ()) -> None:
        self.reason = reason
        self.output = list(output)
        super().__init__(message)


class Result(NamedTuple):
    """Exit code and redacted lines of a program."""

    code: int
    lines: list[str]


def redact(text: str) -> str:
    """``text`` with every bootstrap token and certificate key replaced."""
    return KEY.sub("(redacted)", TOKEN.sub("(redacted)", text))


def run(argv: Sequence[str], log: str = "", timeout: float = 600) -> Result:
    """Run a program with its output redacted line by line into the file ``log``, each line after its second; its whole
    group is ended when the time is over.
    """
    began = time.monotonic()
    child = subprocess.Popen(
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    over = threading.Event()

    def end() -> None:
        over.set()
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    timer = threading.Timer(timeout, end)
    timer.start()
    lines: list[str] = []
    try:
        with open(log or os.devnull, "w", encoding="utf-8") as stream:
            for line in child.stdout or ():
                clean = redact(line.rstrip("\n"))
                lines.append(clean)
                stream.write(f"{time.monotonic() - began:7.2f} {clean}\n")
                stream.flush()
        code = child.wait()
    finally:
        timer.cancel()
    if over.is_set():
        lines.append(f"{argv[0]} did not end in {timeout:g} s and was ended")
        code = 124
    return Result(code, lines)


class _Files:
    """Configuration and patches for the time of one call, in memory-backed /run, gone in any case."""

    def __init__(self, action: str, config: str, patches: dict[str, str], runtime: str = RUNTIME) -> None:
        self.folder = os.path.join(runtime, "kubeadm-" + action)
        self.config = os.path.join(self.folder, "config.yml")
        self.texts = {self.config: config}
        self.texts.update({os.path.join(self.folder, "patches", name): text for name, text in patches.items()})

    def __enter__(self) -> _Files:
        shutil.rmtree(self.folder, ignore_errors=True)  # of a killed run
        os.makedirs(os.path.join(self.folder, "patches"), mode=0o700)
        os.chmod(self.folder, 0o700)
        for path, text in self.texts.items():
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
                stream.write(text)
        return self

    def __exit__(self, *_: Any) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def explain(lines: Sequence[str]) -> str:
    """The lines of kubeadm's output that say why it failed, at most eight."""
    wanted = [
        line.strip()
        for line in lines
        if re.search(
            r"^error|\[ERROR |^E\d{4} |error execution phase|timed out|connection refused|unable to|couldn't|cannot ",
            line,
        )
        and "Preflight errors are fatal" not in line
    ]
    return "; ".join(dict.fromkeys(wanted)) if len(wanted) <= 8 else "; ".join(list(dict.fromkeys(wanted))[-8:])


def reason(action: str, lines: Sequence[str]) -> str:
    """Reason id of a failed ``action`` with this output."""
    text = "\n".join(lines)
    if "[preflight] Some fatal errors occurred" in text or "error execution phase preflight" in text:
        return "kubernetes_preflight"
    if "control-plane-join/etcd" in text or ("etcd-join" in text and "error execution phase" in text):
        return "kubernetes_etcd"
    return f"kubernetes_{action}_failed"


def _kubectl(*words: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return observe.run(
        ["kubectl", "--kubeconfig", kubernetes_state.ADMIN, "--request-timeout=20s", *list(words)], timeout=timeout
    )


def _json(answer: subprocess.CompletedProcess[str], what: str) -> dict[str, Any]:
    if answer.returncode != 0:
        raise Failed("kubernetes_api", f"{what}: {redact(answer.stderr.strip())}")
    try:
        value = json.loads(answer.stdout.strip() or "{}")
    except ValueError:
        raise Failed("kubernetes_api", f"{what}: the answer is no JSON") from None
    return value if isinstance(value, dict) else {}


def _etcdctl(*words: str) -> subprocess.CompletedProcess[str]:
    """etcdctl on this node's own member."""
    address = kubernetes_state.apiserver_address() or "127.0.0.1"
    host = f"[{address}]" if ":" in address else address
    return observe.run([*kubernetes_state.ETCDCTL, f"--endpoints=https://{host}:2379", *words])


def wait_until(done: Callable[[], bool], deadline: float, reason: str, text: str, pause: float = 0.5) -> None:
    """Wait until ``done``, at most until ``deadline`` (monotonic). Raises `Failed` with ``reason`` and ``text``."""
    while not done():
        if time.monotonic() >= deadline:
            raise Failed(reason, text, kubelet_tail())
        time.sleep(pause)


def wait_for_api(timeout: float, pause: float = 0.5) -> None:
    """Wait until the cluster's API answers by its name: after a start of all nodes, or the loss of one, it takes some
    seconds. Raises `Failed`.
    """
    deadline = time.monotonic() + timeout
    while True:
        answer = _kubectl("get", "--raw=/readyz")
        if answer.returncode == 0:
            return
        if time.monotonic() >= deadline:
            _json(answer, f"the API does not answer within {timeout:g} s")
        time.sleep(pause)


class _Hasten(background.Beside):
    """Lets the kubelet of a joining control plane node ask for its certificate as soon as it can get one.

    kubeadm lets it ask the API server of its own node, which runs only after etcd has joined; meanwhile kubelet asks in
    vain and each time waits twice as long (client-go's certificate manager: 2, 4, 8 s). Started again once the API
    server is ready, it asks at once. Containers do not notice.
    """

    def _watch(self) -> None:
        while not self._over.wait(self._pause):
            if os.path.exists(kubernetes_state.KUBELET_CERTIFICATE):
                return
            address = kubernetes_state.apiserver_address()
            if address and kubernetes_state.http_ok(address, 6443, JOINED, ca=kubernetes_state.CA, timeout=2):
                if not os.path.exists(kubernetes_state.KUBELET_CERTIFICATE):
                    observe.run(["systemctl", "restart", "kubelet.service"])
                return


class _Part(NamedTuple):
    """One run of kubeadm: its log's name, phases that it leaves out, what goes on beside it."""

    name: str
    skipped: tuple[str, ...] = ()
    meanwhile: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext


def _parts(action: str, role: str) -> list[_Part]:
    if action == "join" and role == "control_plane":
        return [_Part("kubeadm-join-etcd", JOIN_ETCD, etcd_traffic.Traffic), _Part("kubeadm-join", JOIN_REST, _Hasten)]
    return [_Part(f"kubeadm-{action}")]


def finished_without_marker(node: str) -> bool:
    """Whether a node without the marker is a whole control plane all the same: killed after kubeadm's last step, or
    the marker was lost.

    The add-ons are what `kubeadm init` makes last.
    """
    if kubernetes_state.missing("control_plane"):
        return False
    address = kubernetes_state.apiserver_address()
    if not address or not kubernetes_state.http_ok(address, 6443, "/readyz", ca=kubernetes_state.CA):
        return False
    wanted = ["node/" + node, "daemonset.apps/kube-proxy", "deployment.apps/coredns"]
    return _kubectl("-n", "kube-system", "get", "-o", "name", *wanted).returncode == 0


def clean(action: str, log: str) -> list[str]:
    """`kubeadm reset` and what it leaves. Nothing of Kubernetes is there afterwards; CNI configuration and images stay.

    For ``init`` the half-made cluster's own kubeconfig goes first: there is no cluster to say good-bye to, and
    kubeadm would wait for it.
    """
    kubernetes_state.unmark()
    if action == "init":
        for name in ("admin.conf", "super-admin.conf"):
            if os.path.exists("/etc/kubernetes/" + name):
                os.unlink("/etc/kubernetes/" + name)
    answer = run(
        ["kubeadm", "reset", "--force", "--cleanup-tmp-dir", "--cri-socket=unix:///run/containerd/containerd.sock"],
        log,
        timeout=180,
    )
    if answer.code != 0:
        raise Failed("kubernetes_reset_failed", "kubeadm reset: " + explain(answer.lines), answer.lines[-TAIL:])
    for folder in LEFT:
        _empty(folder)
    if kubernetes_state.traces():
        raise Failed(
            "kubernetes_reset_failed",
            "kubeadm reset left {}".format(", ".join(kubernetes_state.traces())),
            answer.lines[-TAIL:],
        )
    return answer.lines


def _empty(folder: str) -> None:
    if not os.path.isdir(folder):
        return
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if os.path.ismount(path):
            continue
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)


def make(action: str, params: dict[str, Any], role: str) -> dict[str, Any]:
    """`kubeadm init` or `join`, once: nothing when the node is what it should be, from the start when it is half-made.

    A node that is to join is also made from the start when it has lost files, or belongs to a cluster that is no more
    (its authority is not ``params["ca_hash"]``): what it has to know, the others tell it.
    Raises `Failed`; the node is then partial, and the next call begins anew.
    """
    found = kubernetes_state.state()
    stranger = action == "join" and kubernetes_state.ca_hash() not in (
        "",
        params["ca_hash"] or kubernetes_state.ca_hash(),
    )
    if found["state"] == role and not stranger:
        return {"changed": False}
    if found["state"] not in ("partial", "absent") and not stranger:
        raise Failed("kubernetes_role", "the node is a {} already and cannot become a {}".format(found["state"], role))
    if found["marker"] and action != "join":
        raise Failed(
            "kubernetes_damaged",
            "Kubernetes was whole on this node and has lost {}".format(", ".join(found["missing"])),
        )
    node = params["node"]
    output: list[str] = []
    os.makedirs(LOGS, mode=0o755, exist_ok=True)
    if found["state"] != "absent":
        if action == "init" and finished_without_marker(node):
            kubernetes_state.mark(role, {"node": node, "action": action})
            return {"changed": True, "adopted": True}
        clean(action, os.path.join(LOGS, "kubeadm-reset.log"))
    with _Files(action, params["config"], params["patches"]) as files:
        argv = ["kubeadm", action, "--config", files.config]
        if action == "init":
            argv += ["--skip-token-print", "--skip-certificate-key-print"] + (
                ["--upload-certs"] if params["upload_certs"] else []
            )
        deadline = time.monotonic() + params["timeout"]
        for part in _parts(action, role):
            words = ["--skip-phases", ",".join(part.skipped)] if part.skipped else []
            log = os.path.join(LOGS, part.name + ".log")
            with part.meanwhile():
                answer = run([*argv, *words], log, timeout=max(1, deadline - time.monotonic()))
            output = answer.lines[-TAIL:]
            if answer.code != 0:
                raise Failed(
                    reason(action, answer.lines), f"kubeadm {action}: {explain(answer.lines)}", output + kubelet_tail()
                )
    kubernetes_state.mark(role, {"node": node, "action": action})
    return {"changed": True, "output": output}


def kubelet_tail(count: int = 15) -> list[str]:
    """kubelet's last lines, redacted: where most failures of kubeadm have their cause."""
    answer = observe.run(["journalctl", "--no-pager", "-q", "-o", "cat", "-n", str(count), "-u", "kubelet.service"])
    return ["kubelet: " + redact(line) for line in answer.stdout.splitlines()]


def token_of(config: str) -> str:
    """The bootstrap token in a configuration. Raises `Failed` when it has none."""
    match = re.search(r"\btoken['\"]?:\s*['\"]?([a-z0-9]{6}\.[a-z0-9]{16})\b", config)
    if match is None:
        raise Failed("kubernetes_join_secret", "the configuration has no bootstrap token")
    return match.group(1)


def token_left(secret: dict[str, Any], now: float) -> float:
    """Seconds that a bootstrap token's Secret is still valid (``data.expiration``, RFC 3339), infinite when it has no
    end.
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


def allow_join(params: dict[str, Any], now: float) -> dict[str, Any]:
    """Make the cluster ready for joins: token there for at least ``least`` s more, certificates uploaded, stale
    members forgotten.
    """
    wait_for_api(params["wait"])
    changed = bool(forget(params["nodes"], params["members"]))
    identity = token_of(params["config"]).partition(".")[0]
    answer = _kubectl(
        "-n", "kube-system", "get", "secret", "bootstrap-token-" + identity, "-o", "json", "--ignore-not-found"
    )
    secret = _json(answer, "the bootstrap token cannot be read")
    with _Files("allow_join", params["config"], {}) as files:
        if not secret or token_left(secret, now) < params["least"]:
            if secret:
                _check(run(["kubeadm", "token", "delete", identity], timeout=60), "token delete")
            _check(run(["kubeadm", "token", "create", "--config", files.config], timeout=60), "token create")
            changed = True
        if params["upload_certs"]:
            # What joins takes the names for its certificates from the cluster's own configuration.
            _check(run([*PHASE, "upload-config", "kubeadm", "--config", files.config], timeout=60), "upload-config")
            words = ["upload-certs", "--upload-certs", "--skip-certificate-key-print", "--config", files.config]
            _check(run([*PHASE, *words], timeout=60), "upload-certs")
            changed = True
    return {"changed": _more_dns(params["dns_replicas"]) or changed}


def _more_dns(wanted: int) -> bool:
    """A cluster that is a single node no more gets the pods of CoreDNS that it would have been born with. Another
    number than one is somebody's wish.
    """
    if wanted < 2:
        return False
    if _dns().get("replicas") != 1:
        return False
    _scale_dns(1, wanted)
    return True


def _fewer_dns(left: int) -> list[str]:
    """Of pods that must not share a node there are never more than nodes: one would wait forever."""
    spec = _dns()
    apart = spec.get("template", {}).get("spec", {}).get("affinity", {}).get("podAntiAffinity", {})
    replicas = spec.get("replicas", 0)
    if left < 1 or replicas <= left or not apart.get("requiredDuringSchedulingIgnoredDuringExecution"):
        return []
    _scale_dns(replicas, left)
    return [f"{replicas - left} of {replicas} pods of CoreDNS"]


def _dns() -> dict[str, Any]:
    shown = _json(_kubectl(*DNS, "get", "deployment", "coredns", "-o", "json"), "CoreDNS cannot be looked at")
    return dict(shown.get("spec", {}))


def _scale_dns(current: int, wanted: int) -> None:
    words = (f"--current-replicas={current}", f"--replicas={wanted}", "-o", "json")
    _json(_kubectl(*DNS, "scale", "deployment", "coredns", *words), "CoreDNS cannot be scaled")


def _check(answer: Result, what: str) -> None:
    if answer.code != 0:
        raise Failed("kubernetes_join_secret", f"kubeadm {what}: {explain(answer.lines)}", answer.lines[-TAIL:])


def stale_members(listed: dict[str, Any], members: dict[str, list[str]]) -> list[str]:
    """Ids (hexadecimal) of the etcd members of a listing (``etcdctl member list -w json``) that are ``members``.

    ``members`` gives the addresses of a node by its name; a member counts by either, since one that never started has
    no name.
    """
    peers = {
        "https://{}:2380".format(f"[{address}]" if ":" in address else address)
        for addresses in members.values()
        for address in addresses
    }
    return [
        format(member["ID"], "x")
        for member in listed.get("members", [])
        if member.get("name") in members or peers & set(member.get("peerURLs", []))
    ]


def _nodes() -> set[str]:
    listed = _json(_kubectl("get", "nodes", "-o", "json"), "nodes cannot be listed")
    return {item["metadata"]["name"] for item in listed.get("items", [])}


def forget(nodes: Sequence[str], members: dict[str, list[str]]) -> list[str]:
    """Take ``nodes`` out of the cluster, and ``members`` out of etcd. Returns what was removed.

    Nodes that are to join may have had an earlier life in it, nodes that were lost cannot do it themselves.
    """
    removed = []
    if members:
        listed = _json(_etcdctl("member", "list", "-w", "json"), "etcd members cannot be listed")
        for identity in stale_members(listed, members):
            _remove_member(identity)
            removed.append("etcd member " + identity)
        if removed:
            _settle([address for addresses in members.values() for address in addresses])
    present = _nodes() if nodes else set()
    stale = [name for name in nodes if name in present]
    if stale:
        answer = _kubectl("delete", "node", "--wait=true", *stale)
        if answer.returncode != 0:
            raise Failed("kubernetes_api", "nodes cannot be deleted: " + answer.stderr.strip())
        removed += ["node " + name for name in stale]
        removed += _fewer_dns(len(present) - len(stale))
    return removed


def _remove_member(identity: str, timeout: float = 60, pause: float = 1) -> None:
    deadline = time.monotonic() + timeout
    while True:
        answer = _etcdctl("member", "remove", identity)
        if answer.returncode == 0 or "member not found" in answer.stderr.lower():
            return
        if time.monotonic() >= deadline or not PASSING.search(answer.stderr):
            raise Failed("kubernetes_etcd", f"etcd member {identity} cannot be removed: {answer.stderr.strip()}")
        time.sleep(pause)


def _settle(addresses: Sequence[str], timeout: float = 60, pause: float = 0.2) -> None:
    """Wait until no request goes to the API server of a member that was removed, whose node has ``addresses``: it has
    no data any more and lets every request hang. It says so itself some seconds late, as it looks for its data once in
    a while, and then the proxies before the API servers have to see it. They take turns, so some quick answers in a row
    are from all that they know. What is wrong after ``timeout`` s is for the next request to say.
    """
    deadline, quick = time.monotonic() + timeout, 0
    while time.monotonic() < deadline and any(
        kubernetes_state.http_ok(address, 6443, "/readyz", ca=kubernetes_state.CA, timeout=2) for address in addresses
    ):
        time.sleep(pause)
    while quick < TURNS and time.monotonic() < deadline:
        answered = _kubectl("get", "--raw=/readyz", "--request-timeout=2s").returncode == 0
        quick = quick + 1 if answered else 0
        if not answered:
            time.sleep(pause)


def drain(nodes: Sequence[str], timeout: float) -> dict[str, Any]:
    """Move the pods away. Raises `Failed` when they have not gone in ``timeout`` s.

    A node that is not Ready is only closed for new pods: its kubelet could not end those it has.
    """
    listed = _json(_kubectl("get", "nodes", "-o", "json"), "nodes cannot be listed").get("items", [])
    ready = {item["metadata"]["name"]: _is_ready(item) for item in listed}
    found = [name for name in nodes if name in ready]
    for name in found:
        words = ["drain", name, "--ignore-daemonsets", "--delete-emptydir-data", "--force", f"--timeout={timeout:g}s"]
        answer = _kubectl(*(words if ready[name] else ["cordon", name]), timeout=timeout + 15)
        if answer.returncode != 0:
            raise Failed("kubernetes_drain", f"{name} cannot be drained: {answer.stderr.strip()[-400:]}")
    return {"changed": bool(found)}


def _is_ready(node: dict[str, Any]) -> bool:
    conditions = node.get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def reset() -> dict[str, Any]:
    """`kubeadm reset`, nothing on a node without Kubernetes."""
    if kubernetes_state.state()["state"] == "absent":
        return {"changed": False}
    os.makedirs(LOGS, mode=0o755, exist_ok=True)
    return {"changed": True, "output": clean("reset", os.path.join(LOGS, "kubeadm-reset.log"))[-TAIL:]}


def perform(action: str, params: dict[str, Any], now: float, only_check: bool = False) -> dict[str, Any]:
    """One action of the module on this node. ``only_check`` says what would be done from the node's state alone."""
    role = "worker" if action == "join" and not params["control_plane"] else "control_plane"
    if only_check:
        state = kubernetes_state.state()["state"]
        done = {"init": state == role, "join": state == role, "reset": state == "absent"}.get(
            action, not params["nodes"]
        )
        return {"changed": not done}
    actions: dict[str, Callable[[], dict[str, Any]]] = {
        "init": lambda: make("init", params, role),
        "join": lambda: make("join", params, role),
        "reset": reset,
        "allow_join": lambda: allow_join(params, now),
        "drain": lambda: drain(params["nodes"], params["timeout"]),
        "forget": lambda: dict(_forgotten(forget(params["nodes"], params["members"]))),
    }
    try:
        return dict(actions[action](), ca_hash=kubernetes_state.ca_hash())
    except FileNotFoundError as error:
        if error.filename != "kubeadm":
            raise
        raise Failed("node_program_missing", "the node has no program kubeadm") from None


def _forgotten(removed: list[str]) -> dict[str, Any]:
    return {"changed": bool(removed), "removed": removed}


def failure(error: Failed) -> dict[str, Any]:
    """`Failed` as arguments of fail_json."""
    return {"msg": redact(str(error)), "devenv_reason": error.reason, "output": error.output}
