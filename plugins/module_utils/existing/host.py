# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Look at a host of the user's and put on it what nodes need; what it had before stands in a record.

Runs on the host as a program on stdin (plugin_utils/ssh/remote.py): a line with the clock, then the answer as one JSON
object. ``reset.py`` takes everything away again.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.existing import record
from ansible_collections.devenv.lab.plugins.module_utils.existing.record import (
    FOLDERS,
    INCOMING,
    KEPT_FILES,
    OWN,
    PARENTS,
    PATIENCE,
    PLUGINS,
    PROGRAMS,
    SYSCTLS,
    Failed,
    answer,
    read,
    sysctl_path,
)
from ansible_collections.devenv.lab.plugins.module_utils.node import files, wait
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import Machine

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


def look(arguments: dict[str, Any]) -> None:
    """Print what the host is, without changing it. ``arguments``: ``programs`` that have to be on PATH, ``ours``."""
    answer(survey(Machine(), arguments))


def begin(arguments: dict[str, Any]) -> None:
    """Record whose the host is and what it had before, before anything else is written. ``arguments``: ``owner``
    (environment, home, controller).
    """
    answer({"began": prepare(Machine(), arguments["owner"])})


def settle(arguments: dict[str, Any]) -> None:
    """Put what came to INCOMING where it belongs. ``arguments``: ``digest``, ``files`` ({path, sha256}; bin/, cni/,
    images/).
    """
    try:
        answer({"changed": install(Machine(), arguments["digest"], arguments["files"])})
    except Failed as failure:
        answer({"failed": str(failure)})


def note(arguments: dict[str, Any]) -> None:
    """Record that the host has the bundle with ``digest``. ``arguments``: ``owner``, ``digest``."""
    machine = Machine()
    found = record.load(machine)
    if not record.is_owned(found, arguments["owner"]):
        answer({"failed": "the host is not ours"})
        return
    record.save(machine, {**found, "digest": arguments["digest"]})
    answer({"changed": found.get("digest") != arguments["digest"]})


def survey(machine: Machine, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return what the host is."""
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    states = machine.run(["systemctl", "is-active", "--", *UNITS], timeout=PATIENCE).stdout.split()
    memory = re.search(r"^MemTotal:\s+([0-9]+) kB", read(machine, "/proc/meminfo") or "", re.MULTILINE)
    kubelet = re.search(r"^\s*server:\s*(\S+)", read(machine, "/etc/kubernetes/kubelet.conf") or "", re.MULTILINE)
    found = record.load(machine)
    taken = [name for name in arguments["ours"] if os.path.lexists(machine.path(f"{PROGRAMS}/{name}")) and not found]
    return {
        "root": os.geteuid() == 0,
        "systemd": machine.exists("/run/systemd/system"),
        "machine": os.uname().machine,
        "missing": [name for name in arguments["programs"] if shutil.which(name, path=path) is None],
        "active": [unit for unit, state in itertools.zip_longest(UNITS, states) if state in ACTIVE],
        "traces": [path for path in TRACES if machine.exists(path)],
        "taken_programs": taken,
        "server": kubelet.group(1) if kubelet else "",
        "memory": int(memory.group(1)) * 1024 if memory else 0,
        "disk": shutil.disk_usage(machine.path("/var/lib")).free,
        "addresses": _addresses(machine),
        "boot_id": (read(machine, "/proc/sys/kernel/random/boot_id") or "").strip(),
        "record": {key: found.get(key, "") for key in ("environment", "home", "controller", "digest")} if found else {},
    }


def _addresses(machine: Machine) -> list[str]:
    links = machine.run(["ip", "-json", "address", "show"], timeout=PATIENCE).json([])
    return [one["local"] for link in links for one in link.get("addr_info", []) if "local" in one]


def prepare(machine: Machine, owner: dict[str, Any]) -> bool:
    """Write the record unless there is one, and empty INCOMING; return whether it was written."""
    is_new = not record.load(machine)
    if is_new:
        before = {
            "files": {path: read(machine, path) for path in KEPT_FILES},
            "folders": [path for path in (*FOLDERS, *PARENTS, PLUGINS) if os.path.isdir(machine.path(path))],
            "sysctls": {name: read(machine, sysctl_path(name)) for name in SYSCTLS},
            "propagation": record.propagation(machine),
            "tables": record.nft_tables(machine),
            "own": os.path.isdir(machine.path(OWN)),
        }
        record.save(machine, {**owner, "digest": "", "before": before})
    shutil.rmtree(machine.path(INCOMING), ignore_errors=True)
    os.makedirs(machine.path(INCOMING), mode=0o700)
    return is_new


def install(machine: Machine, digest: str, delivered: list[dict[str, str]]) -> bool:
    """Put programs, CNI plugins and images in their places, once per ``digest``. Raises Failed."""
    found = record.load(machine)
    if found.get("digest") == digest:
        return False
    for one in delivered:
        try:
            came = files.sha256(machine.path(f"{INCOMING}/{one['path']}"))
        except OSError as error:
            raise Failed(f"{one['path']} did not come: {error.strerror}") from None
        if came != one["sha256"]:
            raise Failed(f"{one['path']} came with another digest")
    paths = [one["path"] for one in delivered]
    programs = _copy(machine, paths, "bin/", PROGRAMS)
    had_plugins = PLUGINS in found["before"]["folders"] and not found.get("plugins")
    plugins = [] if had_plugins else _copy(machine, paths, "cni/", PLUGINS)
    found = {**found, "programs": programs, "plugins": plugins}
    record.save(machine, found)
    _import(machine, [path for path in paths if path.startswith("images/")])
    shutil.rmtree(machine.path(INCOMING))
    record.save(machine, {**found, "digest": digest})
    return True


def _copy(machine: Machine, paths: list[str], kind: str, folder: str) -> list[str]:
    targets = {path: f"{folder}/{path[len(kind) :]}" for path in paths if path.startswith(kind)}
    for path, target in targets.items():
        files.install(machine.path(f"{INCOMING}/{path}"), machine.path(target))
    return list(targets.values())


def _import(machine: Machine, images: list[str]) -> None:
    """Import images into containerd's folder: by the one that runs, or one that runs for nothing else."""
    ctr = PROGRAMS + "/ctr"
    own: subprocess.Popen[bytes] | None = None

    def answers() -> bool:
        return machine.run([ctr, "version"], timeout=10).code == 0

    if not images:
        return
    try:
        if not answers():
            with open(machine.path(OWN + "/containerd.log"), "w") as log:
                path = PROGRAMS + ":" + os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
                env = {**os.environ, "PATH": path}
                own = subprocess.Popen([PROGRAMS + "/containerd"], stdout=log, stderr=log, env=env)
            late = Failed("containerd does not answer")
            wait.until(lambda: answers() or own.poll() is not None, machine.now() + 60, lambda: late, 0.2)
        for image in images:
            argv = [ctr, "--namespace", "k8s.io", "images", "import", machine.path(f"{INCOMING}/{image}")]
            done = machine.run(argv, timeout=600)
            if done.code != 0:
                raise Failed(f"{image}: {(done.complaint.splitlines() or ['it printed nothing'])[-1]}")
    finally:
        if own is not None:
            own.terminate()
            own.wait()
