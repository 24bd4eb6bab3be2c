# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keep the record of what a host of the user's had before the first change, by which `reset` gives it back."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.node import files
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import Machine

RECORD = "/var/lib/devenv/existing.json"
OWN = "/var/lib/devenv"
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
PATIENCE = 120  # seconds that a program of the host may take


class Failed(Exception):
    """What could not be done, in words."""


def read(machine: Machine, path: str) -> str | None:
    """Return the text of a file, None when it cannot be read."""
    try:
        with open(machine.path(path), encoding="utf-8", errors="surrogateescape") as stream:
            return stream.read()
    except OSError:
        return None


def load(machine: Machine) -> dict[str, Any]:
    """Return what we noted before the first change; empty on a host without us. A broken one counts as another's."""
    if not machine.exists(RECORD):
        return {}
    return files.read_json(machine.path(RECORD)) or {"environment": "?", "home": "?", "controller": "?"}


def save(machine: Machine, record: dict[str, Any]) -> None:
    """Write the record, so that it survives a loss of power. Raises OSError."""
    os.makedirs(machine.path(OWN), mode=0o700, exist_ok=True)
    files.write(machine.path(RECORD), json.dumps(record), durable=True)


def is_owned(record: dict[str, Any], owner: dict[str, Any]) -> bool:
    """Return whether the record is that of ``owner`` (environment, home, controller)."""
    return all(record.get(key) == value for key, value in owner.items())


def sysctl_path(name: str) -> str:
    return "/proc/sys/" + name.replace(".", "/")


def propagation(machine: Machine) -> str:
    """Return how mounts below / propagate."""
    return machine.run(["findmnt", "--noheadings", "--output", "PROPAGATION", "/"], timeout=PATIENCE).stdout.strip()


def nft_tables(machine: Machine) -> list[str]:
    """Return ``inet devenv_pods``, ..."""
    found = machine.run(["nft", "list", "tables"], timeout=PATIENCE).stdout
    return sorted(line.partition(" ")[2].strip() for line in found.splitlines() if line.startswith("table "))


def answer(data: dict[str, Any]) -> None:
    """Print the clock, then the answer."""
    sys.stdout.write(json.dumps({"time": time.time()}) + "\n" + json.dumps(data) + "\n")
    sys.stdout.flush()
