# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Take away what devenv put on a host of the user's, and put back what was there.

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

from ansible_collections.devenv.lab.plugins.module_utils.existing import record
from ansible_collections.devenv.lab.plugins.module_utils.existing.record import (
    FOLDERS,
    KEPT_FILES,
    OWN,
    PARENTS,
    PATIENCE,
    PLUGINS,
    PROGRAMS,
    SOCKET,
    Failed,
    answer,
    read,
    sysctl_path,
)
from ansible_collections.devenv.lab.plugins.module_utils.node import observe, processes, wait
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import Machine
from ansible_collections.devenv.lab.plugins.module_utils.node.program import TIMED_OUT

_UNITS = "/etc/systemd/system/"


def reset(arguments: dict[str, Any]) -> None:
    """Take everything away. Nothing on a host without our record, or with that of another environment. ``arguments``:
    ``owner``.
    """
    machine = Machine()
    found = record.load(machine)
    if not record.is_owned(found, arguments["owner"]):
        answer({"changed": False})
        return
    try:
        restore(machine, found)
    except (Failed, OSError) as failure:
        answer({"failed": str(failure)})
        return
    answer({"changed": True})


def restore(machine: Machine, found: dict[str, Any]) -> None:
    """Bring the host to the state that ``found``, its record, describes. Raises Failed, OSError."""
    before = found.get("before", {})
    managed = [part for part in observe.managed(machine.root).values() if isinstance(part, dict)]
    files = sorted({path for part in managed for path in part.get("files", [])})
    units = {name for part in managed for name in part.get("units", [])} | {"kubelet.service", "containerd.service"}
    _end_kubernetes(machine)
    _run(machine, "systemctl", "disable", "--now", "--", *sorted(unit for unit in units if _UNITS + unit in files))
    _end_containers(machine)
    _unmount(machine)
    _clean_network(machine, before.get("tables", []))
    remove_files(machine, [*files, *found.get("programs", []), *found.get("plugins", [])], before)
    _run(machine, "systemctl", "daemon-reload")
    _run(machine, "systemctl", "reset-failed")
    for name, value in before.get("sysctls", {}).items():
        if value is not None and read(machine, sysctl_path(name)) not in (None, value):
            with contextlib.suppress(OSError):
                _overwrite(machine, sysctl_path(name), value)
    if before.get("propagation") == "private":
        _run(machine, "mount", "--make-rprivate", "/")
    _empty(machine, OWN, keep=bool(before.get("own")))


def _run(machine: Machine, *argv: str, data: str | None = None, timeout: float = PATIENCE) -> str:
    """Return what a program prints, "" when it did not end in time: half of the rules is worse than none."""
    result = machine.run(argv, data=data, timeout=timeout)
    return "" if result.code == TIMED_OUT else result.stdout


def _end_kubernetes(machine: Machine) -> None:
    kubeadm = PROGRAMS + "/kubeadm"
    if machine.exists("/etc/kubernetes") and machine.exists(kubeadm):
        words = ["reset", "--force", "--cleanup-tmp-dir", "--cri-socket=unix://" + SOCKET]
        _run(machine, kubeadm, *words, timeout=180)


def _end_containers(machine: Machine) -> None:
    """End what outlives containerd: its shims and what they look after."""

    proc = machine.path("/proc")

    def ended() -> bool:
        program = PROGRAMS + "/containerd-shim"
        shims = [pid for pid in processes.pids(proc) if processes.executable(pid, proc).startswith(program)]
        for shim in shims:
            processes.send([*processes.descendants(shim, proc), shim], signal.SIGKILL)
        return not shims

    wait.until(ended, machine.now() + 5, lambda: Failed("containers do not end"), 0.1, machine.clock)


def mounts_below(mounts: str, folders: Sequence[str]) -> list[str]:
    """Return the mount points of a text like /proc/self/mounts that are below ``folders``, the deepest first."""
    places = [
        re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), line.split()[1]) for line in mounts.splitlines()
    ]
    return sorted((place for place in places if place.startswith(tuple(f + "/" for f in folders))), reverse=True)


def _unmount(machine: Machine) -> None:
    for place in mounts_below(read(machine, "/proc/self/mounts") or "", FOLDERS):
        _run(machine, "umount", "--lazy", place)


def without_ours(rules: str) -> str:
    """Return the rules of iptables-save without those of Kubernetes and CNI."""
    return "\n".join(line for line in rules.splitlines() if not re.search(r"KUBE-|CNI-", line))


def has_rules(table: str) -> bool:
    """Return whether the text of an nft table has a rule: iptables makes bare ones to look at them."""
    return re.search(r"^\t\t(?!type )\S", table, re.MULTILINE) is not None


def _clean_network(machine: Machine, tables: Sequence[str]) -> None:
    for name in glob.glob(machine.path("/run/netns/cni-*")):
        _run(machine, "ip", "netns", "delete", os.path.basename(name))
    for flag in ("-4", "-6"):
        _run(machine, "ip", flag, "route", "flush", "proto", "177")
    for program in ("iptables", "ip6tables"):
        rules = _run(machine, program + "-save")
        kept = without_ours(rules)
        if kept.strip() != rules.strip():
            _run(machine, program + "-restore", data=kept + "\n")
    for table in record.nft_tables(machine):
        if table in tables:
            continue
        is_ours = re.match(r"devenv_|kube-proxy", table.partition(" ")[2])
        text = _run(machine, "nft", "list", "table", *table.split())
        if is_ours or (text and not has_rules(text)):
            _run(machine, "nft", "delete", "table", *table.split())


def remove_files(machine: Machine, ours: Sequence[str], before: dict[str, Any]) -> None:
    """Remove our files and folders, and put back what was there ``before``."""
    for path in ours:
        if path not in KEPT_FILES:
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                os.unlink(machine.path(path))
        folder = os.path.dirname(path)
        if folder.endswith(".d") and _is_bare(machine, folder):
            os.rmdir(machine.path(folder))
    had = before.get("folders", [])
    for folder in FOLDERS:
        _empty(machine, folder, keep=folder in had)
    for folder in (PLUGINS, *PARENTS):
        if folder not in had and _is_bare(machine, folder):
            os.rmdir(machine.path(folder))
    for path, text in before.get("files", {}).items():
        if text is not None and read(machine, path) != text:
            _overwrite(machine, path, text)


def _is_bare(machine: Machine, folder: str) -> bool:
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
