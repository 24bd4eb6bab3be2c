"""The state of a machine, so that a test can prove that it did not change.

Each part of a snapshot maps names to their state; ``difference`` compares two snapshots.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

Part = dict[str, str]
Snapshot = dict[str, Part]

# Counters and clocks that change without any cause.
MOVING = re.compile(
    r"^(fs/(dentry-state|inode-|file-nr|aio-nr|dqstats|quota|epoll|binfmt_misc)"
    r"|kernel/(random/|ns_last_pid|pty/nr|sched_|numa_|tainted|hung_task_detect|spl/|perf_event_max_sample_rate)"
    r"|net/netfilter/nf_conntrack_count|net/ipv[46]/neigh/|net/ipv[46]/conf/[^/]+/stable_secret"
    r"|vm/(stat_refresh|drop_caches|compact_memory|user_reserve|admin_reserve)|user/|debug/|sunrpc/|dev/)"
)
# Places where nodes, networks and clusters could leave files.
FOLDERS = (
    "/etc",
    "/opt",
    "/run",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/var/lib/calico",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/etcd",
    "/var/lib/kubelet",
    "~/.ansible/cp",
    "~/.kube",
    "~/.ssh",
)
# podman and the kernel create these with the first container of a machine.
KEPT = re.compile(
    r"^/run/(containers|libpod|crun|runc|netns|lock|user|systemd|udev|utmp|podman)(/|$)|^/etc/(mtab|ld\.so)"
)


# Other programs come and go; only what an environment would start counts.
_OURS = "kube|etcd|containerd|coredns|dnsmasq|dhclient|systemd|sshd|ssh: |conmon|qemu|ansible-playbook|bin/devenv|runc"
OTHERS = {"processes": rf"^(?!.*({_OURS})).*$"}


def snapshot(home: Path | None = None) -> Snapshot:
    """Return everything that an environment could leave behind; complete only for root. ``home`` replaces ``~``."""
    parts: dict[str, Callable[[], Part]] = {
        "containers": containers,
        "networks": networks,
        "volumes": volumes,
        "links": links,
        "addresses": addresses,
        "routes": routes,
        "nft": nft,
        "iptables": iptables,
        "sysctls": sysctls,
        "mounts": mounts,
        "cgroups": cgroups,
        "files": lambda: files(home or Path.home()),
        "processes": processes,
    }
    return {name: part() for name, part in parts.items()}


def difference(
    before: Snapshot, after: Snapshot, *, ignore: Mapping[str, str] | None = None
) -> dict[str, dict[str, list[str]]]:
    """Return what was ``added``, ``removed`` and ``changed`` in each part; without a change, an empty mapping.

    ``ignore`` maps a part to a pattern of the names that may differ, searched in ``name: value``. A process that ended
    does not count.
    """
    differences: dict[str, dict[str, list[str]]] = {}
    for part in before.keys() | after.keys():
        old, new = before.get(part, {}), after.get(part, {})
        rows = {
            "added": [f"{name}: {new[name]}" for name in sorted(new.keys() - old.keys())],
            "removed": [f"{name}: {old[name]}" for name in sorted(old.keys() - new.keys()) if part != "processes"],
            "changed": [
                f"{name}: {old[name]} -> {new[name]}"
                for name in sorted(old.keys() & new.keys())
                if old[name] != new[name]
            ],
        }
        pattern = (ignore or {}).get(part)
        kept = {
            kind: [row for row in lines if not (pattern and re.search(pattern, row))] for kind, lines in rows.items()
        }
        if any(kept.values()):
            differences[part] = {kind: lines for kind, lines in kept.items() if lines}
    return differences


def containers() -> Part:
    return {row["Id"]: " ".join(row["Names"]) for row in _podman("ps", "--all")}


def networks() -> Part:
    return {row["name"]: row["id"] for row in _podman("network", "ls")}


def volumes() -> Part:
    return {row["Name"]: row["Driver"] for row in _podman("volume", "ls")}


def links() -> Part:
    return {row["ifname"]: f"{row['link_type']} {row.get('address', '')}" for row in _ip("link", "show")}


def addresses() -> Part:
    return {
        f"{row['ifname']} {info['local']}/{info['prefixlen']}": info["scope"]
        for row in _ip("address", "show")
        for info in row.get("addr_info", [])
    }


def routes() -> Part:
    """Return routes and rules of both families and all tables."""
    entries: Part = {}
    for family in ("-4", "-6"):
        for row in _ip(family, "route", "show", "table", "all"):
            words = [str(row[key]) for key in ("type", "dst", "gateway", "dev", "table", "prefsrc") if key in row]
            entries[f"{family} {' '.join(words)}"] = str(row.get("metric", ""))
        for row in _ip(family, "rule", "show"):
            entries[f"{family} rule {row.get('priority')}"] = f"{row.get('src')} {row.get('table')}"
    return entries


def nft() -> Part:
    """Return one entry per table of the ruleset, without handles and counters."""
    ruleset = json.loads(_run("nft", "--json", "list", "ruleset") or '{"nftables": []}')["nftables"]
    tables: dict[str, list[str]] = {}
    for item in ruleset:
        for kind, body in item.items():
            if kind == "metainfo":
                continue
            name = body["name"] if kind == "table" else body["table"]
            tables.setdefault(f"{body['family']} {name}", []).append(f"{kind} {_still(body)}")
    return {name: " ".join(sorted(rows)) for name, rows in tables.items()}


def _still(body: Any) -> str:
    def cleaned(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                k: cleaned(v) for k, v in value.items() if k not in ("handle", "packets", "bytes", "used", "expires")
            }
        return [cleaned(v) for v in value] if isinstance(value, list) else value

    return json.dumps(cleaned(body), sort_keys=True)


def iptables() -> Part:
    """Return every rule and every chain of both families, with the number of its occurrences."""
    rules: Part = {}
    for program in ("iptables-save", "ip6tables-save"):
        table = ""
        for line in _run(program).splitlines():
            if line.startswith("*"):
                table = line[1:]
            elif line.startswith((":", "-A")):
                rule = re.sub(r" *\[[0-9:]+\]", "", line)
                name = f"{program} {table} {rule}"
                rules[name] = str(int(rules.get(name, "0")) + 1)
    return rules


def sysctls() -> Part:
    """Return every setting that does not change on its own; those of a link appear and disappear with it."""
    top = Path("/proc/sys")
    settings: Part = {}
    for path in _walk(top):
        name = path.relative_to(top).as_posix()
        if MOVING.search(name) or not path.is_file():
            continue
        try:
            settings[name] = path.read_text(errors="replace").strip()
        except OSError:
            continue  # write-only, or removed with its link
    return settings


def mounts() -> Part:
    rows = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    # podman's folder of network namespaces stays after the first container of a machine; its contents must not.
    return {row[4]: row[row.index("-") + 1] for row in rows if row[4] != "/run/netns"}


def cgroups() -> Part:
    """Return the cgroups of containers and of Kubernetes in the first three levels."""
    top = Path("/sys/fs/cgroup")
    marks = re.compile(r"libpod|kubepods|crio|containerd")
    return {
        path.as_posix(): ""
        for pattern in ("*", "*/*", "*/*/*")
        for path in top.glob(pattern)
        # podman's parent group stays, empty, after the first container of a machine.
        if marks.search(path.name) and path.name != "libpod_parent" and path.is_dir() and not path.is_symlink()
    }


def files(home: Path) -> Part:
    """Return size and mtime of the files where nodes and clusters could leave any; of /run only the names."""
    entries: Part = {}
    for folder in FOLDERS:
        for path in _walk(Path(folder.replace("~", str(home), 1))):
            if KEPT.search(path.as_posix()):
                continue
            try:
                info = path.lstat()
            except OSError:
                continue
            entries[path.as_posix()] = "" if folder == "/run" else f"{info.st_size} {info.st_mtime_ns}"
    return entries


def processes() -> Part:
    """Return command lines by pid and start time, without kernel threads and this process."""
    commands: Part = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            # Field 22, counted after the name in parentheses, which may contain anything.
            start = (folder / "stat").read_text().rpartition(")")[2].split()[19]
        except OSError:
            continue
        if command and folder.name != str(os.getpid()):
            commands[f"{folder.name} {start}"] = command
    return commands


def _walk(top: Path) -> Iterator[Path]:
    for folder, names, leaves in os.walk(top):
        names[:] = [name for name in names if not os.path.islink(os.path.join(folder, name))]
        for name in leaves:
            yield Path(folder, name)


def _run(*argv: str) -> str:
    """Return standard output; without such a program, an empty text."""
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        return ""


def _podman(*words: str) -> Iterable[dict[str, Any]]:
    return list(json.loads(_run("podman", *words, "--format=json") or "[]") or [])


def _ip(*words: str) -> Iterable[dict[str, Any]]:
    return list(json.loads(_run("ip", "-json", *words) or "[]"))
