"""Report what a node knows of itself when a cluster is validated, and when it did not come up. Reads only.

Sent to nodes as a program by ``plugin_utils/ssh/remote.py``: the first line that it prints is the node's clock, the
second the answer as JSON.
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
    """Print the clock, then what ``arguments["part"]`` (health, evidence or fingerprint) asks for; ends itself after
    ``timeout`` seconds.
    """
    signal.alarm(int(arguments.get("timeout") or 30))
    sys.stdout.write(json.dumps({"time": time.time()}) + "\n")
    sys.stdout.flush()
    answer = {"health": health, "evidence": evidence, "fingerprint": fingerprint}[arguments["part"]]()
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def etcdctl(*words: str) -> list[str]:
    """Return argv of etcdctl that answers soon, in JSON."""
    return kubernetes.etcdctl("--command-timeout=5s", "--dial-timeout=3s", "-w=json", *words)


def health(root: str = "/") -> dict[str, Any]:
    """Return ``{services: {unit: state}, certificates: {path: end}, etcd: None or {members, health, trouble}}``"""
    return {
        "services": {name: state["active"] for name, state in observe.unit_states(UNITS).items()},
        "certificates": certificates(root),
        "etcd": etcd() if os.path.exists(files.under(root, kubernetes.ETCD_MANIFEST)) else None,
    }


def fingerprint(root: str = "/") -> dict[str, str]:
    """Return what stages decide by, as texts to compare with later ones: nothing in them changes by itself."""
    seen = observe.observe(observe.managed(root), root)
    found = {f"file {path}": _file(state) for path, state in seen["files"].items()}
    found |= {f"sysctl {name}": str(value) for name, value in seen["sysctls"].items()}
    found |= {f"check of {unit}": str(passed) for unit, passed in seen["checks"].items()}
    for unit, state in (observe.unit_states(UNITS) | seen["units"]).items():
        found[f"unit {unit}"] = f"{state['active']} {state['enabled']}{' changed on disk' if state['reload'] else ''}"
    found["kubernetes"] = json.dumps(kubernetes.state(root), sort_keys=True)
    found["kubeconfig"] = kubernetes.kubeconfig_digest(root)
    found["kubelet"] = str(kubernetes.kubelet_healthy())
    if kubernetes.apiserver_address(root):
        found["API server"] = str(kubernetes.apiserver_ready(root))
    return found


def _file(state: dict[str, Any] | None) -> str:
    return " ".join(state[key] for key in ("sha256", "mode", "owner", "group")) if state else "absent"


def certificates(root: str = "/") -> dict[str, str]:
    """End of validity by path, of the certificates in files and in kubeconfigs."""
    ends = kubernetes.certificate_ends(root)
    for path in MORE_CERTIFICATES:
        end = certificate.parse(files.read_text(files.under(root, path))).get("end")
        if end:
            ends[path] = end
    for name in KUBECONFIGS:
        path = "/etc/kubernetes/" + name
        match = re.search(r"client-certificate-data:\s*([A-Za-z0-9+/=]+)", files.read_text(files.under(root, path)))
        pem = base64.b64decode(match.group(1)).decode("ascii", "replace") if match else ""
        end = certificate.parse(pem).get("end")
        if end:
            ends[path] = end
    return ends


def etcd() -> dict[str, Any]:
    """Return what etcdctl reports on this node, asked at this node's own member.

    ``members``: ``[{name, started, learner, peers}]``; ``healthy``: whether this member answers; ``trouble``: why
    something of it is not known.
    """
    asked = {"members": etcdctl("member", "list"), "health": etcdctl("endpoint", "health")}
    answers = program.run_all(asked, timeout=12)
    listed, healthy = _answer(answers["members"]), _answer(answers["health"])
    members = [
        {
            "name": str(member.get("name", "")),
            "learner": bool(member.get("isLearner")),
            "started": bool(member.get("clientURLs")),
            "peers": list(member.get("peerURLs") or []),
        }
        for member in (listed["data"] or {}).get("members", [])
    ]
    first = (healthy["data"] or [{}])[0]
    trouble = "" if first.get("health") else str(first.get("error") or healthy["trouble"] or "no answer")
    return {"members": members, "healthy": bool(first.get("health")), "trouble": trouble or listed["trouble"]}


def _answer(result: program.ProgramResult) -> dict[str, Any]:
    """Return ``{data, trouble}`` of a program that prints JSON (etcdctl does so when it ends badly, too)."""
    if not result.started or result.code == program.TIMED_OUT:
        return {"data": None, "trouble": result.stderr.strip()}
    data = result.json()
    trouble = _last_line(result.stderr) or "etcdctl printed nothing"
    return {"data": data, "trouble": "" if result.code == 0 and data is not None else trouble}


def _last_line(text: str) -> str:
    """Return the last line that says something; etcdctl's own log lines are JSON with the field ``error``."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in reversed(lines):
        if not line.startswith("{"):
            return line
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and found.get("error"):
            return str(found["error"])
    return lines[-1] if lines else ""


def evidence(root: str = "/") -> dict[str, Any]:
    """Return what may say why a cluster did not come up: ``{sources: {name: [[age in seconds or None, line], ...]}}``.

    Sources: disk, services, the journals containerd and kubelet, kubeadm (its logs), and the last words of each
    container of a static pod by the pod's name.
    """
    now = time.time()
    sources: dict[str, list[list[Any]]] = {
        "disk": [[None, line] for line in full_disks()],
        "services": [
            [None, line] for line in idle_services(observe.unit_states(UNITS), bool(kubernetes.state(root)["marker"]))
        ],
        "containerd": journal("containerd.service", now),
        "kubelet": journal("kubelet.service", now),
        "kubeadm": [[None, line] for line in _logs(files.under(root, "/var/log/devenv"), now)],
    }
    for name, lines in containers(files.under(root, "/var/log/pods"), now).items():
        sources[name] = lines
    return {"sources": sources}


def idle_services(states: dict[str, dict[str, Any]], joined: bool) -> list[str]:
    """Return a line for each unit that should run and does not; kubelet waits for kubeadm on a node that has not
    joined.
    """
    return [
        f"{name} is {state['active']}"
        for name, state in states.items()
        if state["found"]
        and state["active"] != "active"
        and (joined or name != "kubelet.service" or state["active"] != "inactive")
    ]


def full_disks() -> list[str]:
    """Return a line for each file system that has less than 1 % or 64 MiB left, or no inodes."""
    found = []
    for path in DISKS:
        try:
            info = os.statvfs(path)
        except OSError:
            continue
        free, size = info.f_frsize * info.f_bavail, info.f_frsize * info.f_blocks
        if size and (free < 64 << 20 or free < size // 100):
            found.append(f"{path}: {free >> 20} MiB of {size >> 20} MiB free")
        elif info.f_files and not info.f_favail:
            found.append(f"{path}: no inode of {info.f_files} free")
    return found


def journal(unit: str, now: float) -> list[list[Any]]:
    """Return the last lines of a unit's journal with their age in seconds."""
    answer = program.run(
        ["journalctl", "--no-pager", "-q", "-o", "short-unix", "-n", str(LINES), "-u", unit], timeout=10
    )
    return [aged(line, now) for line in answer.stdout.splitlines()]


def aged(line: str, now: float) -> list[Any]:
    """Return ``[age, text]`` of a line that begins with seconds since 1970, host and program (journalctl -o
    short-unix).
    """
    match = re.match(r"(\d+\.\d+) \S+ [^:]*: (.*)", line)
    return [round(now - float(match.group(1)), 1), match.group(2)] if match else [None, line]


def _logs(folder: str, now: float) -> list[str]:
    """Return the last lines of kubeadm's logs, the newest log last, without those that are older than an hour."""
    paths = sorted(glob.glob(os.path.join(folder, "kubeadm-*.log")), key=os.path.getmtime)
    return [
        line
        for path in paths
        if now - os.path.getmtime(path) < 3600 and "reset" not in os.path.basename(path)
        for line in tail(path, LINES)
    ]


def containers(folder: str, now: float) -> dict[str, list[list[Any]]]:
    """Return the last lines of each container's newest log in kube-system, by ``<pod>/<container>``; all as old as the
    log.

    Layout: kubelet's, ``<namespace>_<pod>_<uid>/<container>/<restarts>.log``.
    """
    found: dict[str, list[list[Any]]] = {}
    for place in sorted(glob.glob(os.path.join(folder, "kube-system_*", "*"))):
        logs = sorted(glob.glob(os.path.join(place, "*.log")), key=os.path.getmtime)
        if not logs:
            continue
        pod = os.path.basename(os.path.dirname(place)).split("_")[1]
        age = round(now - os.path.getmtime(logs[-1]), 1)
        # "2026-11-21T09:00:00.0Z stderr F text" is containerd's form of a line.
        texts = [re.sub(r"^\S+ std(?:out|err) [FP] ", "", line) for line in tail(logs[-1], CONTAINER_LINES)]
        name = f"{pod}/{os.path.basename(place)}"
        found[name] = [*found.get(name, []), *([age, text] for text in texts)]
    return found


def tail(path: str, count: int, limit: int = 200_000) -> list[str]:
    """Return the last ``count`` lines of a file, of its last ``limit`` bytes."""
    try:
        with open(path, "rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - limit))
            return stream.read().decode("utf-8", "replace").splitlines()[-count:]
    except OSError:
        return []
