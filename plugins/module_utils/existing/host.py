# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host that is not of our making, from inside: what it is, what we put on it, and how it gets rid of that again.

Runs on the host as a program on stdin (plugin_utils/ssh/remote.py): a line with the clock, then the answer as one JSON
object. Everything that was there before the first change stands in RECORD, which the last step of `reset` removes.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

RECORD = "/var/lib/devenv/existing.json"
OWN = "/var/lib/devenv"
MANAGED = OWN + "/managed.json"
INCOMING = OWN + "/incoming"
PROGRAMS = "/usr/local/bin"
PLUGINS = "/usr/lib/cni"
SOCKET = "/run/containerd/containerd.sock"
# What Kubernetes, its runtime and ours write. Removed whole, or emptied when it was there before.
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
# Above them, when they end up empty and were not there before.
PARENTS = ("/etc/cni", "/etc/devenv", "/usr/local/lib", "/opt/cni")
# Files that roles write over, put back as they were.
KEPT_FILES = ("/etc/hosts",)
# Written by kubelet, kube-proxy and our network script.
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
PATIENCE = 120  # seconds that a program of the host may take


class Failed(Exception):
    """What could not be done, in words."""


def run(argv: list[str], data: str | None = None, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
    """A program's end; one that is not there or hangs counts as failed."""
    try:
        return subprocess.run(argv, input=data, capture_output=True, text=True, timeout=timeout, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(argv, 127, "", str(error))


def read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as stream:
            return stream.read()
    except OSError:
        return None


def write(path: str, text: str, mode: int = 0o600) -> None:
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    part = path + ".part"
    with open(part, "w", encoding="utf-8", errors="surrogateescape") as stream:
        os.fchmod(stream.fileno(), mode)
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(part, path)


def record() -> dict[str, Any]:
    """What we noted before the first change; empty on a host without us. A broken one counts as another's."""
    text = read(RECORD)
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"environment": "?", "home": "?", "controller": "?"}


def sysctl_path(name: str) -> str:
    return "/proc/sys/" + name.replace(".", "/")


def propagation() -> str:
    return run(["findmnt", "--noheadings", "--output", "PROPAGATION", "/"]).stdout.strip()


def nft_tables() -> list[str]:
    """``inet devenv_pods``, ..."""
    found = run(["nft", "list", "tables"]).stdout
    return sorted(line.partition(" ")[2].strip() for line in found.splitlines() if line.startswith("table "))


# --- look ------------------------------------------------------------------------------------------------------------


def look(arguments: dict[str, Any]) -> None:
    """Say what the host is, without changing it. ``arguments``: ``programs`` that have to be on PATH."""
    answer(_looked(arguments))


def _looked(arguments: dict[str, Any]) -> dict[str, Any]:
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    states = dict(zip(UNITS, run(["systemctl", "is-active", "--", *UNITS]).stdout.split(), strict=False))
    disk = shutil.disk_usage("/var/lib")
    memory = re.search(r"^MemTotal:\s+([0-9]+) kB", read("/proc/meminfo") or "", re.MULTILINE)
    kubelet = re.search(r"^\s*server:\s*(\S+)", read("/etc/kubernetes/kubelet.conf") or "", re.MULTILINE)
    found = record()
    return {
        "root": os.geteuid() == 0,
        "systemd": os.path.isdir("/run/systemd/system"),
        "machine": os.uname().machine,
        "missing": [name for name in arguments["programs"] if shutil.which(name, path=path) is None],
        "active": [unit for unit, state in states.items() if state in ("active", "activating", "reloading")],
        "traces": [path for path in TRACES if os.path.exists(path)],
        "taken_programs": [
            name for name in arguments["ours"] if os.path.lexists(os.path.join(PROGRAMS, name)) and not found
        ],
        "server": kubelet.group(1) if kubelet else "",
        "memory": int(memory.group(1)) * 1024 if memory else 0,
        "disk": disk.free,
        "addresses": _addresses(),
        "boot_id": (read("/proc/sys/kernel/random/boot_id") or "").strip(),
        "record": {key: found.get(key, "") for key in ("environment", "home", "controller", "digest")} if found else {},
    }


def _addresses() -> list[str]:
    try:
        links = json.loads(run(["ip", "-json", "address", "show"]).stdout)
    except ValueError:
        return []
    return [one["local"] for link in links for one in link.get("addr_info", []) if "local" in one]


# --- settle ----------------------------------------------------------------------------------------------------------


def settle(arguments: dict[str, Any]) -> None:
    """Note what was there before and put what came to INCOMING where it belongs. ``arguments``: ``owner``
    (environment, home, controller), ``digest``, ``files`` ({path, sha256}; bin/, cni/, images/).
    """
    try:
        answer({"changed": _settled(arguments)})
    except Failed as failure:
        answer({"failed": str(failure)})


def begin(arguments: dict[str, Any]) -> None:
    """Note whose the host is and what was there before, before anything else is written."""
    found = record()
    if not found:
        write(RECORD, json.dumps({**arguments["owner"], "digest": "", "before": _before()}))
    shutil.rmtree(INCOMING, ignore_errors=True)
    os.makedirs(INCOMING, mode=0o700)
    answer({"began": not found})


def _before() -> dict[str, Any]:
    return {
        "files": {path: read(path) for path in KEPT_FILES},
        "folders": [path for path in (*FOLDERS, *PARENTS, PLUGINS) if os.path.isdir(path)],
        "sysctls": {name: read(sysctl_path(name)) for name in SYSCTLS},
        "propagation": propagation(),
        "tables": nft_tables(),
        "own": os.path.isdir(OWN),
    }


def _settled(arguments: dict[str, Any]) -> bool:
    found = record()
    if found.get("digest") == arguments["digest"]:
        return False
    for one in arguments["files"]:
        path = os.path.join(INCOMING, one["path"])
        digest = hashlib.sha256()
        try:
            with open(path, "rb") as stream:
                for block in iter(lambda: stream.read(1 << 20), b""):
                    digest.update(block)
        except OSError as error:
            raise Failed("{} did not come: {}".format(one["path"], error.strerror)) from None
        if digest.hexdigest() != one["sha256"]:
            raise Failed("{} came with another digest".format(one["path"]))
    programs = _install(arguments["files"], "bin/", PROGRAMS)
    had_plugins = PLUGINS in found["before"]["folders"] and not found.get("plugins")
    plugins = [] if had_plugins else _install(arguments["files"], "cni/", PLUGINS)
    write(RECORD, json.dumps({**found, "programs": programs, "plugins": plugins}))
    _import([one["path"] for one in arguments["files"] if one["path"].startswith("images/")])
    shutil.rmtree(INCOMING)
    write(RECORD, json.dumps({**record(), "digest": arguments["digest"]}))
    return True


def note(arguments: dict[str, Any]) -> None:
    """Note that the host has the bundle with ``digest``. ``arguments``: ``owner``, ``digest``."""
    found = record()
    if any(found.get(key) != value for key, value in arguments["owner"].items()):
        answer({"failed": "the host is not ours"})
        return
    write(RECORD, json.dumps({**found, "digest": arguments["digest"]}))
    answer({"changed": found.get("digest") != arguments["digest"]})


def _install(files: list[dict[str, Any]], kind: str, folder: str) -> list[str]:
    names = [one["path"][len(kind) :] for one in files if one["path"].startswith(kind)]
    os.makedirs(folder, exist_ok=True)
    for name in names:
        target = os.path.join(folder, name)
        shutil.copyfile(os.path.join(INCOMING, kind, name), target + ".part")
        os.chmod(target + ".part", 0o755)
        os.replace(target + ".part", target)
    return [os.path.join(folder, name) for name in names]


def _import(images: list[str]) -> None:
    """Images into containerd's folder: by the one that runs, or one that runs for nothing else."""
    if not images:
        return
    own = None
    if run([PROGRAMS + "/ctr", "version"]).returncode != 0:
        with open(os.path.join(OWN, "containerd.log"), "w") as log:
            path = PROGRAMS + ":" + os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            own = subprocess.Popen([PROGRAMS + "/containerd"], stdout=log, stderr=log, env={**os.environ, "PATH": path})
    try:
        for _try in range(300):
            if run([PROGRAMS + "/ctr", "version"], timeout=10).returncode == 0:
                break
            if own is not None and own.poll() is not None:
                break
            time.sleep(0.2)
        else:
            raise Failed("containerd does not answer")
        for image in images:
            done = run(
                [PROGRAMS + "/ctr", "--namespace", "k8s.io", "images", "import", os.path.join(INCOMING, image)],
                timeout=600,
            )
            if done.returncode != 0:
                last = (done.stderr.strip().splitlines() or ["no words"])[-1]
                raise Failed(f"{image}: {last}")
    finally:
        if own is not None:
            own.terminate()
            own.wait()


# --- reset -----------------------------------------------------------------------------------------------------------


def reset(arguments: dict[str, Any]) -> None:
    """Take away what we put on the host and put back what was there. Nothing on a host without our record, or with
    that of another environment. ``arguments``: ``owner``.
    """
    found = record()
    if any(found.get(key) != value for key, value in arguments["owner"].items()):
        answer({"changed": False})
        return
    try:
        _reset(found)
    except (Failed, OSError) as failure:
        answer({"failed": str(failure)})
        return
    answer({"changed": True})


def _reset(found: dict[str, Any]) -> None:
    before = found.get("before", {})
    managed = _managed()
    _end_kubernetes()
    units = sorted(
        {name for part in managed for name in part.get("units", [])} | {"kubelet.service", "containerd.service"}
    )
    files = sorted({path for part in managed for path in part.get("files", [])})
    ours = [unit for unit in units if "/etc/systemd/system/" + unit in files]
    run(["systemctl", "disable", "--now", "--", *ours])
    _end_processes()
    _unmount()
    _clean_network(before)
    for path in files:
        if path not in KEPT_FILES:
            _remove(path)
        above = os.path.dirname(path)
        if above.endswith(".d") and os.path.isdir(above) and not os.listdir(above):
            os.rmdir(above)
    for path in [*found.get("programs", []), *found.get("plugins", [])]:
        _remove(path)
    for folder in FOLDERS:
        _empty(folder, keep=folder in before.get("folders", []))
    for folder in (PLUGINS, *PARENTS):
        if folder not in before.get("folders", []) and os.path.isdir(folder) and not os.listdir(folder):
            os.rmdir(folder)
    for path, text in before.get("files", {}).items():
        # Written in place: a container's /etc/hosts is a mount, which cannot be replaced.
        if text is not None and read(path) != text:
            with open(path, "w", encoding="utf-8", errors="surrogateescape") as stream:
                stream.write(text)
    run(["systemctl", "daemon-reload"])
    run(["systemctl", "reset-failed"])
    for name, value in before.get("sysctls", {}).items():
        if value is not None and read(sysctl_path(name)) not in (None, value):
            _put(sysctl_path(name), value)
    if before.get("propagation") == "private":
        run(["mount", "--make-rprivate", "/"])
    _empty(OWN, keep=bool(before.get("own")))


def _managed() -> list[dict[str, Any]]:
    try:
        parts = json.loads(read(MANAGED) or "{}").get("parts", {})
    except ValueError:
        return []
    return [part for part in parts.values() if isinstance(part, dict)]


def _end_kubernetes() -> None:
    if os.path.isdir("/etc/kubernetes") and os.path.exists(PROGRAMS + "/kubeadm"):
        argv = [PROGRAMS + "/kubeadm", "reset", "--force", "--cleanup-tmp-dir", "--cri-socket=unix://" + SOCKET]
        run(argv, timeout=180)


def _end_processes() -> None:
    """What outlives containerd: its shims and what they look after."""
    for _try in range(50):
        shims = [pid for pid in _pids() if _exe(pid).startswith(PROGRAMS + "/containerd-shim")]
        if not shims:
            return
        for shim in shims:
            for pid in [*_children(shim), shim]:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    raise Failed("containers do not end")


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _exe(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


def _children(parent: int) -> list[int]:
    found = []
    for pid in _pids():
        text = read(f"/proc/{pid}/stat") or ""
        if text.rpartition(")")[2].split()[1:2] == [str(parent)]:
            found += [*_children(pid), pid]
    return found


def _unmount() -> None:
    below = tuple(folder + "/" for folder in FOLDERS)
    mounts = [line.split()[1] for line in (read("/proc/self/mounts") or "").splitlines()]
    for place in sorted((re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), one) for one in mounts), reverse=True):
        if place.startswith(below):
            run(["umount", "--lazy", place])


def _clean_network(before: dict[str, Any]) -> None:
    for name in glob.glob("/run/netns/cni-*"):
        run(["ip", "netns", "delete", os.path.basename(name)])
    for flag in ("-4", "-6"):
        run(["ip", flag, "route", "flush", "proto", "177"])
    for program in ("iptables", "ip6tables"):
        rules = run([program + "-save"]).stdout
        kept = "\n".join(line for line in rules.splitlines() if not re.search(r"KUBE-|CNI-", line))
        if kept.strip() != rules.strip():
            run([program + "-restore"], data=kept + "\n")
    for table in nft_tables():
        name = table.partition(" ")[2]
        if table not in before.get("tables", []) and (re.match(r"devenv_|kube-proxy", name) or _is_bare(table)):
            run(["nft", "delete", "table", *table.split()])


def _is_bare(table: str) -> bool:
    """A table that holds no rule: iptables makes one to look at it."""
    text = run(["nft", "list", "table", *table.split()]).stdout
    return not re.search(r"^\t\t(?!type )\S", text, re.MULTILINE)


def _put(path: str, value: str) -> None:
    try:
        with open(path, "w") as stream:
            stream.write(value)
    except OSError:
        pass


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError, IsADirectoryError):
        os.unlink(path)


def _empty(folder: str, keep: bool) -> None:
    if not os.path.isdir(folder) or os.path.islink(folder):
        return
    if not keep and not os.path.ismount(folder):
        shutil.rmtree(folder)
        return
    for name in os.listdir(folder):
        inner = os.path.join(folder, name)
        if os.path.isdir(inner) and not os.path.islink(inner):
            shutil.rmtree(inner)
        else:
            os.unlink(inner)


def answer(data: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"time": time.time()}) + "\n" + json.dumps(data) + "\n")
    sys.stdout.flush()
