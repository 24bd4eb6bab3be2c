"""Inspect a user's host and install what a node needs. A record of its original state allows `reset` to restore it.

``run`` runs on the host as a program on stdin (plugin_utils/ssh/remote.py).
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.node import files, wait
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import Machine
from ansible_collections.devenv.lab.plugins.module_utils.node.observe import sysctl_path

RECORD = "/var/lib/devenv/existing.json"
STATE = "/var/lib/devenv"
INCOMING = STATE + "/incoming"
PROGRAMS = "/usr/local/bin"
PLUGINS = "/usr/lib/cni"
SOCKET = "/run/containerd/containerd.sock"
# Written by Kubernetes, its runtime and devenv. A reset removes them, or empties those that existed before.
FOLDERS = (
    "/etc/cni/net.d",
    "/etc/containerd",
    "/etc/devenv/network.d",
    "/etc/kubernetes",
    "/run/containerd",
    "/run/devenv",
    "/run/flannel",
    "/usr/libexec/kubernetes",
    "/usr/local/lib/devenv",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/etcd",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/devenv",
    "/var/log/pods",
)
# Removed if they end up empty and did not exist before.
PARENTS = ("/etc/cni", "/etc/devenv", "/usr/local/lib", "/opt/cni")
# Files that roles overwrite; a reset restores them.
KEPT_FILES = ("/etc/hosts",)
# Written by kubelet, kube-proxy and devenv's network script.
SYSCTLS = (
    "kernel.keys.root_maxbytes",
    "kernel.keys.root_maxkeys",
    "kernel.panic",
    "kernel.panic_on_oops",
    "net.ipv4.conf.all.route_localnet",
    "net.ipv4.ip_forward",
    "net.ipv6.conf.all.forwarding",
    "net.ipv6.conf.default.forwarding",
    "vm.overcommit_memory",
    "vm.panic_on_oom",
)
PATIENCE = 120  # seconds that a program of the host may take
# Files of another cluster.
TRACES = (
    "/etc/kubernetes/admin.conf",
    "/etc/kubernetes/kubelet.conf",
    "/etc/kubernetes/manifests/kube-apiserver.yaml",
    "/etc/rancher",
    "/var/lib/etcd/member",
    "/var/lib/kubelet/config.yaml",
)
UNITS = (
    "kubelet.service",
    "containerd.service",
    "docker.service",
    "crio.service",
    "k3s.service",
    "rke2-server.service",
)
ACTIVE = ("active", "activating", "reloading")


class Failed(Exception):
    """What could not be done, as a message."""


def run(arguments: dict[str, Any]) -> None:
    """Run the function ``step`` of this module with the other arguments; see ``respond``."""
    steps: dict[str, Callable[..., dict[str, Any]]] = {
        "survey": survey,
        "prepare": prepare,
        "install": install,
        "set_digest": set_digest,
    }
    step = steps[arguments.pop("step")]
    respond(lambda: step(Machine(), **arguments))


def respond(work: Callable[[], dict[str, Any]]) -> None:
    """Print a line with the clock, then the result of ``work``, or ``failed`` with its message, as one JSON object."""
    try:
        result = work()
    except (Failed, OSError) as failure:
        result = {"failed": str(failure)}
    sys.stdout.write(json.dumps({"time": time.time()}) + "\n" + json.dumps(result) + "\n")
    sys.stdout.flush()


# --- record -----------------------------------------------------------------------------------------------------------


def load(machine: Machine) -> dict[str, Any]:
    """Return the record; empty on a host without devenv. A broken record counts as another owner's."""
    if not machine.exists(RECORD):
        return {}
    return files.read_json(machine.path(RECORD)) or {"environment": "?", "home": "?", "controller": "?"}


def save(machine: Machine, record: dict[str, Any]) -> None:
    """Write the record, so that it survives a loss of power. Raises OSError."""
    os.makedirs(machine.path(STATE), mode=0o700, exist_ok=True)
    files.write(machine.path(RECORD), json.dumps(record), durable=True)


def is_owned(record: dict[str, Any], owner: dict[str, Any]) -> bool:
    """Return whether the record is that of ``owner`` (environment, home, controller)."""
    return all(record.get(key) == value for key, value in owner.items())


def set_digest(machine: Machine, owner: dict[str, Any], digest: str) -> dict[str, Any]:
    """Record that the host has the bundle with ``digest``. Raises Failed for a host of another owner."""
    record = load(machine)
    if not is_owned(record, owner):
        raise Failed("the host belongs to another environment")
    save(machine, {**record, "digest": digest})
    return {"changed": record.get("digest") != digest}


def read(machine: Machine, path: str) -> str | None:
    """Return the text of a file, None if it cannot be read."""
    try:
        with open(machine.path(path), encoding="utf-8", errors="surrogateescape") as stream:
            return stream.read()
    except OSError:
        return None


def nft_tables(machine: Machine) -> list[str]:
    """Return the tables as ``inet devenv_pods``, ..."""
    output = machine.run(["nft", "list", "tables"], timeout=PATIENCE).stdout
    return sorted(line.partition(" ")[2].strip() for line in output.splitlines() if line.startswith("table "))


def prepare(machine: Machine, owner: dict[str, Any]) -> dict[str, Any]:
    """Record the host's owner (environment, home, controller) and original state unless that is done; empty INCOMING.

    Called before anything else is written.
    """
    is_new = not load(machine)
    if is_new:
        mounts = machine.run(["findmnt", "--noheadings", "--output", "PROPAGATION", "/"], timeout=PATIENCE)
        before = {
            "files": {path: read(machine, path) for path in KEPT_FILES},
            "folders": [path for path in (*FOLDERS, *PARENTS, PLUGINS) if os.path.isdir(machine.path(path))],
            "sysctls": {name: read(machine, sysctl_path(name)) for name in SYSCTLS},
            "propagation": mounts.stdout.strip(),
            "tables": nft_tables(machine),
            "own": os.path.isdir(machine.path(STATE)),
        }
        save(machine, {**owner, "digest": "", "before": before})
    shutil.rmtree(machine.path(INCOMING), ignore_errors=True)
    os.makedirs(machine.path(INCOMING), mode=0o700)
    return {"changed": is_new}


# --- inspection and installation --------------------------------------------------------------------------------------


def survey(machine: Machine, programs: list[str], binaries: list[str]) -> dict[str, Any]:
    """Return the state of the host without changing it. ``programs`` must be on PATH, devenv installs ``binaries``."""
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    states = machine.run(["systemctl", "is-active", "--", *UNITS], timeout=PATIENCE).stdout.split()
    memory = re.search(r"^MemTotal:\s+([0-9]+) kB", read(machine, "/proc/meminfo") or "", re.MULTILINE)
    kubelet = re.search(r"^\s*server:\s*(\S+)", read(machine, "/etc/kubernetes/kubelet.conf") or "", re.MULTILINE)
    links = machine.run(["ip", "-json", "address", "show"], timeout=PATIENCE).json([])
    record = load(machine)
    listening = machine.run(["ss", "-Hltnp"], timeout=PATIENCE).stdout
    existing = [name for name in binaries if os.path.lexists(machine.path(f"{PROGRAMS}/{name}"))]
    return {
        "root": os.geteuid() == 0,
        "systemd": machine.exists("/run/systemd/system"),
        "machine": os.uname().machine,
        "missing": [name for name in programs if shutil.which(name, path=path) is None],
        "active": [unit for unit, state in itertools.zip_longest(UNITS, states) if state in ACTIVE],
        "traces": [path for path in TRACES if machine.exists(path)],
        "foreign_binaries": [] if record else existing,
        "server": kubelet.group(1) if kubelet else "",
        "memory": int(memory.group(1)) * 1024 if memory else 0,
        "disk": shutil.disk_usage(machine.path("/var/lib")).free,
        "addresses": [row["local"] for link in links for row in link.get("addr_info", []) if "local" in row],
        "ports": ports(listening),
        "boot_id": (read(machine, "/proc/sys/kernel/random/boot_id") or "").strip(),
        "record": {key: record.get(key, "") for key in ("environment", "home", "controller", "digest")}
        if record
        else {},
    }


def ports(text: str) -> dict[str, str]:
    """Return the TCP ports in the output of ``ss -Hltnp``, with the name of a process that listens on each."""
    listening: dict[str, str] = {}
    for line in text.splitlines():
        match = re.match(r"LISTEN\s+\d+\s+\d+\s+\S+:(\d+)\s", line + " ")
        if match:
            process = re.search(r'users:\(\("([^"]+)",pid=(\d+)', line)
            listening.setdefault(match.group(1), f"{process.group(1)} (pid {process.group(2)})" if process else "")
    return listening


def install(machine: Machine, digest: str, entries: list[dict[str, str]]) -> dict[str, Any]:
    """Install the delivered ``entries`` ({path, sha256}; bin/, cni/, images/), once per ``digest``. Raises Failed."""
    record = load(machine)
    if record.get("digest") == digest:
        return {"changed": False}
    for entry in entries:
        try:
            actual = files.sha256(machine.path(f"{INCOMING}/{entry['path']}"))
        except OSError as error:
            raise Failed(f"{entry['path']} did not arrive: {error.strerror}") from None
        if actual != entry["sha256"]:
            raise Failed(f"{entry['path']} arrived with another digest")
    paths = [entry["path"] for entry in entries]
    programs = _copy(machine, paths, "bin/", PROGRAMS)
    # The host's own plugins stay.
    foreign_plugins = PLUGINS in record["before"]["folders"] and not record.get("plugins")
    plugins = [] if foreign_plugins else _copy(machine, paths, "cni/", PLUGINS)
    record = {**record, "programs": programs, "plugins": plugins}
    save(machine, record)
    _import_images(machine, [path for path in paths if path.startswith("images/")])
    shutil.rmtree(machine.path(INCOMING))
    save(machine, {**record, "digest": digest})
    return {"changed": True}


def _copy(machine: Machine, paths: list[str], kind: str, folder: str) -> list[str]:
    targets = {path: f"{folder}/{path[len(kind) :]}" for path in paths if path.startswith(kind)}
    for path, target in targets.items():
        files.install(machine.path(f"{INCOMING}/{path}"), machine.path(target))
    return list(targets.values())


def _import_images(machine: Machine, images: list[str]) -> None:
    """Import images into containerd's folder, with the running containerd or a temporary one."""
    ctr = PROGRAMS + "/ctr"
    temporary: subprocess.Popen[bytes] | None = None

    def responds() -> bool:
        return machine.run([ctr, "version"], timeout=10).code == 0

    if not images:
        return
    try:
        if not responds():
            with open(machine.path(STATE + "/containerd.log"), "w") as log:
                path = PROGRAMS + ":" + os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
                env = {**os.environ, "PATH": path}
                temporary = subprocess.Popen([PROGRAMS + "/containerd"], stdout=log, stderr=log, env=env)
            late = Failed("containerd does not answer")
            wait.until(lambda: responds() or temporary.poll() is not None, machine.now() + 60, lambda: late, 0.2)
        for image in images:
            argv = [ctr, "--namespace", "k8s.io", "images", "import", machine.path(f"{INCOMING}/{image}")]
            result = machine.run(argv, timeout=600)
            if result.code != 0:
                raise Failed(f"{image}: {(result.complaint.splitlines() or ['it printed nothing'])[-1]}")
    finally:
        if temporary is not None:
            temporary.terminate()
            temporary.wait()
