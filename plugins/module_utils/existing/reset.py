"""Remove what devenv installed on a user's host, and restore the original state.

Runs on the host as a program on stdin, as ``host.py`` does. The last step removes the record.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shutil
import signal
from collections.abc import Sequence
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.existing import host
from ansible_collections.devenv.lab.plugins.module_utils.existing.host import (
    FOLDERS,
    KEPT_FILES,
    PARENTS,
    PATIENCE,
    PLUGINS,
    PROGRAMS,
    SOCKET,
    STATE,
    Failed,
    read,
)
from ansible_collections.devenv.lab.plugins.module_utils.node import observe, processes, wait
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import Machine
from ansible_collections.devenv.lab.plugins.module_utils.node.observe import sysctl_path
from ansible_collections.devenv.lab.plugins.module_utils.node.program import TIMED_OUT

_UNITS = "/etc/systemd/system/"


def run(arguments: dict[str, Any]) -> None:
    """Restore the host's original state. Change nothing on a host with another owner's record or none. ``arguments``:
    ``owner``.
    """

    def work() -> dict[str, Any]:
        machine = Machine()
        record = host.load(machine)
        is_owned = host.is_owned(record, arguments["owner"])
        if is_owned:
            restore(machine, record)
        return {"changed": is_owned}

    host.respond(work)


def restore(machine: Machine, record: dict[str, Any]) -> None:
    """Bring the host to the original state in ``record``. Raises Failed, OSError."""
    before = record.get("before", {})
    managed = [part for part in observe.managed(machine.root).values() if isinstance(part, dict)]
    files = sorted({path for part in managed for path in part.get("files", [])})
    units = {name for part in managed for name in part.get("units", [])} | {"kubelet.service", "containerd.service"}
    _reset_kubernetes(machine)
    _run(machine, "systemctl", "disable", "--now", "--", *sorted(unit for unit in units if _UNITS + unit in files))
    _kill_containers(machine)
    for place in mounts_below(read(machine, "/proc/self/mounts") or "", FOLDERS):
        _run(machine, "umount", "--lazy", place)
    _clean_network(machine, before.get("tables", []))
    remove_files(machine, [*files, *record.get("programs", []), *record.get("plugins", [])], before)
    _run(machine, "systemctl", "daemon-reload")
    _run(machine, "systemctl", "reset-failed")
    for name, value in before.get("sysctls", {}).items():
        if value is not None and read(machine, sysctl_path(name)) not in (None, value):
            with contextlib.suppress(OSError):
                _overwrite(machine, sysctl_path(name), value)
    if before.get("propagation") == "private":
        _run(machine, "mount", "--make-rprivate", "/")
    _empty(machine, STATE, keep=bool(before.get("own")))


def _run(machine: Machine, *argv: str, data: str | None = None, timeout: float = PATIENCE) -> str:
    """Return a program's output, "" if it did not end in time: acting on half of the rules is worse than on none."""
    result = machine.run(argv, data=data, timeout=timeout)
    return "" if result.code == TIMED_OUT else result.stdout


def _reset_kubernetes(machine: Machine) -> None:
    kubeadm = PROGRAMS + "/kubeadm"
    if machine.exists("/etc/kubernetes") and machine.exists(kubeadm):
        words = ["reset", "--force", "--cleanup-tmp-dir", "--cri-socket=unix://" + SOCKET]
        _run(machine, kubeadm, *words, timeout=180)


def _kill_containers(machine: Machine) -> None:
    """Kill what outlives containerd: its shims and their containers."""
    proc, program = machine.path("/proc"), PROGRAMS + "/containerd-shim"

    def are_gone() -> bool:
        shims = [pid for pid in processes.pids(proc) if processes.executable(pid, proc).startswith(program)]
        for shim in shims:
            processes.send([*processes.descendants(shim, proc), shim], signal.SIGKILL)
        return not shims

    wait.until(are_gone, machine.now() + 5, lambda: Failed("containers do not end"), 0.1, machine.clock)


def mounts_below(mounts: str, folders: Sequence[str]) -> list[str]:
    """Return the mount points below ``folders`` in a text like /proc/self/mounts, the deepest first."""
    places = [
        re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), line.split()[1]) for line in mounts.splitlines()
    ]
    return sorted((place for place in places if place.startswith(tuple(f + "/" for f in folders))), reverse=True)


def has_rules(table: str) -> bool:
    """Return whether the text of an nft table has a rule: listing rules with iptables leaves empty tables."""
    return re.search(r"^\t\t(?!type )\S", table, re.MULTILINE) is not None


def _clean_network(machine: Machine, tables: Sequence[str]) -> None:
    for name in glob.glob(machine.path("/run/netns/cni-*")):
        _run(machine, "ip", "netns", "delete", os.path.basename(name))
    for flag in ("-4", "-6"):
        _run(machine, "ip", flag, "route", "flush", "proto", "177")
    for program in ("iptables", "ip6tables"):
        rules = _run(machine, program + "-save").strip().splitlines()
        kept = [line for line in rules if not re.search(r"KUBE-|CNI-", line)]
        if kept != rules:
            _run(machine, program + "-restore", data="\n".join(kept) + "\n")
    for table in host.nft_tables(machine):
        if table in tables:
            continue
        is_devenvs = re.match(r"devenv_|kube-proxy", table.partition(" ")[2])
        text = _run(machine, "nft", "list", "table", *table.split())
        if is_devenvs or (text and not has_rules(text)):
            _run(machine, "nft", "delete", "table", *table.split())


def remove_files(machine: Machine, installed: Sequence[str], before: dict[str, Any]) -> None:
    """Remove installed files and folders, and restore those that existed ``before``."""
    for path in installed:
        if path not in KEPT_FILES:
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                os.unlink(machine.path(path))
        folder = os.path.dirname(path)
        if folder.endswith(".d") and _is_empty(machine, folder):
            os.rmdir(machine.path(folder))
    existing = before.get("folders", [])
    for folder in FOLDERS:
        _empty(machine, folder, keep=folder in existing)
    for folder in (PLUGINS, *PARENTS):
        if folder not in existing and _is_empty(machine, folder):
            os.rmdir(machine.path(folder))
    for path, text in before.get("files", {}).items():
        if text is not None and read(machine, path) != text:
            _overwrite(machine, path, text)


def _is_empty(machine: Machine, folder: str) -> bool:
    return os.path.isdir(machine.path(folder)) and not os.listdir(machine.path(folder))


def _overwrite(machine: Machine, path: str, text: str) -> None:
    """Write in place: a sysctl, or a container's /etc/hosts, which is a mount and cannot be replaced."""
    with open(machine.path(path), "w", encoding="utf-8", errors="surrogateescape") as stream:
        stream.write(text)


def _empty(machine: Machine, path: str, keep: bool) -> None:
    folder = machine.path(path)
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
