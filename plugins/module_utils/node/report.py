"""Report the health of a node to the validation, and evidence after a failed start of a cluster. Reads only.

``plugin_utils/ssh/remote.py`` runs it on nodes as a program: the first line of its output is the node's clock, the
second the report as JSON.
"""

from __future__ import annotations

import base64
import glob
import json
import os
import re
import signal
import sys
import time
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.node import certificate, files, kubernetes, observe, program

UNITS = ("containerd.service", "kubelet.service")
KUBECONFIGS = ("admin.conf", "super-admin.conf", "controller-manager.conf", "scheduler.conf")
MORE_CERTIFICATES = (
    "/etc/kubernetes/pki/front-proxy-ca.crt",
    kubernetes.ETCD_CA,
    kubernetes.ETCD_CERTIFICATE,
    "/var/lib/kubelet/pki/kubelet.crt",
)
DISKS = ("/", "/var/lib/containerd", "/var/lib/kubelet", "/var/lib/etcd", "/var/log")
LINES = 400
CONTAINER_LINES = 60


def main(arguments: dict[str, Any]) -> None:
    """Print the clock, then the report ``arguments["part"]`` (health, evidence or fingerprint), within
    ``arguments["timeout"]`` s.
    """
    signal.alarm(int(arguments.get("timeout") or 30))
    _write({"time": time.time()})
    report = {"health": health, "evidence": evidence, "fingerprint": fingerprint}[arguments["part"]]()
    _write(report)


def _write(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def etcdctl(*words: str) -> list[str]:
    """Return argv of etcdctl with short timeouts and JSON output."""
    return kubernetes.etcdctl("--command-timeout=5s", "--dial-timeout=3s", "-w=json", *words)


def health(root: str = "/") -> dict[str, Any]:
    """Return ``{services: {unit: state}, certificates: {path: end}, etcd: None or {members, healthy, trouble}}``."""
    return {
        "services": {name: state["active"] for name, state in observe.unit_states(UNITS).items()},
        "certificates": certificates(root),
        "etcd": etcd() if os.path.exists(files.under(root, kubernetes.ETCD_MANIFEST)) else None,
    }


def fingerprint(root: str = "/") -> dict[str, str]:
    """Return the state that stages depend on, as texts to compare later; they change only if the node changes."""
    observed = observe.observe(observe.managed(root), root)
    texts = {f"file {path}": _file(state) for path, state in observed["files"].items()}
    texts |= {f"sysctl {name}": str(value) for name, value in observed["sysctls"].items()}
    texts |= {f"check of {unit}": str(passed) for unit, passed in observed["checks"].items()}
    for unit, state in (observe.unit_states(UNITS) | observed["units"]).items():
        texts[f"unit {unit}"] = f"{state['active']} {state['enabled']}{' changed on disk' if state['reload'] else ''}"
    texts["kubernetes"] = json.dumps(kubernetes.state(root), sort_keys=True)
    texts["kubeconfig"] = kubernetes.kubeconfig_digest(root)
    texts["kubelet"] = str(kubernetes.kubelet_healthy())
    if kubernetes.apiserver_address(root):
        texts["API server"] = str(kubernetes.apiserver_ready(root))
    return texts


def _file(state: dict[str, Any] | None) -> str:
    return " ".join(state[key] for key in ("sha256", "mode", "owner", "group")) if state else "absent"


def certificates(root: str = "/") -> dict[str, str]:
    """Return the expiry of each certificate by path, those in kubeconfigs included."""
    ends = kubernetes.certificate_ends(root, (*kubernetes.CERTIFICATES, *MORE_CERTIFICATES))
    for name in KUBECONFIGS:
        path = "/etc/kubernetes/" + name
        match = re.search(r"client-certificate-data:\s*([A-Za-z0-9+/=]+)", files.read_text(files.under(root, path)))
        pem = base64.b64decode(match.group(1)).decode("ascii", "replace") if match else ""
        end = certificate.parse(pem).get("end")
        if end:
            ends[path] = end
    return ends


def etcd() -> dict[str, Any]:
    """Return ``{members: [{name, started, learner, peers}], healthy, trouble}`` as this node's own etcd member reports
    it; ``trouble`` states why a part of it is unknown.
    """
    commands = {"members": etcdctl("member", "list"), "health": etcdctl("endpoint", "health")}
    results = program.run_all(commands, timeout=12)
    listing, health_report = _parse(results["members"]), _parse(results["health"])
    members = [
        {
            "name": str(member.get("name", "")),
            "learner": bool(member.get("isLearner")),
            "started": bool(member.get("clientURLs")),
            "peers": list(member.get("peerURLs") or []),
        }
        for member in (listing["data"] or {}).get("members", [])
    ]
    first = (health_report["data"] or [{}])[0]
    trouble = "" if first.get("health") else str(first.get("error") or health_report["trouble"] or "no answer")
    return {"members": members, "healthy": bool(first.get("health")), "trouble": trouble or listing["trouble"]}


def _parse(result: program.ProgramResult) -> dict[str, Any]:
    """Return ``{data, trouble}`` of etcdctl, which prints JSON even if it fails."""
    if not result.started or result.code == program.TIMED_OUT:
        return {"data": None, "trouble": result.stderr.strip()}
    data = result.json()
    trouble = _last_line(result.stderr) or "etcdctl printed nothing"
    return {"data": data, "trouble": "" if result.code == 0 and data is not None else trouble}


def _last_line(text: str) -> str:
    """Return the last line with an error; etcdctl's own log lines are JSON with the field ``error``."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in reversed(lines):
        if not line.startswith("{"):
            return line
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("error"):
            return str(entry["error"])
    return lines[-1] if lines else ""


def evidence(root: str = "/") -> dict[str, Any]:
    """Return lines that may explain a failed start of a cluster: ``{sources: {name: [[age or None, line], ...]}}``.

    Sources: disk, services, containerd and kubelet (journals), kubeadm (logs), and the containers in kube-system as
    ``<pod>/<container>``.
    """
    now = time.time()
    idle = idle_services(observe.unit_states(UNITS), bool(kubernetes.state(root)["marker"]))
    sources: dict[str, list[list[Any]]] = {
        "disk": [[None, line] for line in full_disks()],
        "services": [[None, line] for line in idle],
        "containerd": journal("containerd.service", now),
        "kubelet": journal("kubelet.service", now),
        "kubeadm": [[None, line] for line in _logs(files.under(root, "/var/log/devenv"), now)],
        **containers(files.under(root, "/var/log/pods"), now),
    }
    return {"sources": sources}


def idle_services(states: dict[str, dict[str, Any]], joined: bool) -> list[str]:
    """Return one line per unit that should run but does not. kubelet of a node that has not joined may be inactive."""
    return [
        f"{name} is {state['active']}"
        for name, state in states.items()
        if state["found"]
        and state["active"] != "active"
        and (joined or name != "kubelet.service" or state["active"] != "inactive")
    ]


def full_disks() -> list[str]:
    """Return one line per file system with less than 1 % or 64 MiB of free space, or without free inodes."""
    lines = []
    for path in DISKS:
        try:
            info = os.statvfs(path)
        except OSError:
            continue
        free, size = info.f_frsize * info.f_bavail, info.f_frsize * info.f_blocks
        if size and (free < 64 << 20 or free < size // 100):
            lines.append(f"{path}: {free >> 20} MiB of {size >> 20} MiB free")
        elif info.f_files and not info.f_favail:
            lines.append(f"{path}: no inode of {info.f_files} free")
    return lines


def journal(unit: str, now: float) -> list[list[Any]]:
    """Return the last lines of a unit's journal with their age in seconds."""
    journalctl = program.run(
        ["journalctl", "--no-pager", "-q", "-o", "short-unix", "-n", str(LINES), "-u", unit], timeout=10
    )
    return [aged(line, now) for line in journalctl.stdout.splitlines()]


def aged(line: str, now: float) -> list[Any]:
    """Return ``[age, text]`` of a line in the format of ``journalctl -o short-unix``: Unix time, host, program."""
    match = re.match(r"(\d+\.\d+) \S+ [^:]*: (.*)", line)
    return [round(now - float(match.group(1)), 1), match.group(2)] if match else [None, line]


def _logs(folder: str, now: float) -> list[str]:
    """Return the last lines of kubeadm's logs of the last hour, the newest log last."""
    paths = sorted(glob.glob(os.path.join(folder, "kubeadm-*.log")), key=os.path.getmtime)
    return [
        line
        for path in paths
        if now - os.path.getmtime(path) < 3600 and "reset" not in os.path.basename(path)
        for line in tail(path, LINES)
    ]


def containers(folder: str, now: float) -> dict[str, list[list[Any]]]:
    """Return the last lines of the newest log of each container in kube-system, by ``<pod>/<container>``.

    Their age is that of the log. kubelet's layout is ``<namespace>_<pod>_<uid>/<container>/<restarts>.log``.
    """
    result: dict[str, list[list[Any]]] = {}
    for place in sorted(glob.glob(os.path.join(folder, "kube-system_*", "*"))):
        logs = sorted(glob.glob(os.path.join(place, "*.log")), key=os.path.getmtime)
        if not logs:
            continue
        pod = os.path.basename(os.path.dirname(place)).split("_")[1]
        age = round(now - os.path.getmtime(logs[-1]), 1)
        # containerd's format of a line is "2026-11-21T09:00:00.0Z stderr F text".
        texts = [re.sub(r"^\S+ std(?:out|err) [FP] ", "", line) for line in tail(logs[-1], CONTAINER_LINES)]
        name = f"{pod}/{os.path.basename(place)}"
        result[name] = [*result.get(name, []), *([age, text] for text in texts)]
    return result


def tail(path: str, count: int) -> list[str]:
    """Return the last ``count`` lines of a file, of its last 200 kB."""
    try:
        return files.read_end(path, 200_000).decode("utf-8", "replace").splitlines()[-count:]
    except OSError:
        return []
