"""The Kubernetes version of a living environment: which step may be taken, and what it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import versions
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import upgrade_record
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import profile

# Versions that a bundle has beside Kubernetes' own, as people call them.
_PARTS = {"etcd_image": "etcd", "coredns": "CoreDNS", "pause": "pause", "containerd": "containerd"}


@dataclass(frozen=True)
class Seen:
    """What a cluster's API says of a node. ``version`` of its kubelet, without ``v``."""

    version: str
    ready: bool


# --- what may be done ------------------------------------------------------------------------------------------------


def check(name: str, old: str, new: str, begun: Mapping[str, str] | None) -> versions.Versions:
    """What the bundle of ``new`` holds. ``old`` is the profile's version, ``begun`` an upgrade that has begun.

    Raises DevenvError ``bundle_version_unknown``, ``upgrade_unfinished`` (to another version), ``upgrade_same``,
    ``upgrade_downgrade``, ``upgrade_skips_minor``.
    """
    wanted = versions.wanted(new)
    new = wanted.kubernetes
    if begun is not None:
        if begun["to"] != new:
            raise upgrade_record.unfinished(name, begun)
        return wanted
    step = profile.version_step(old, new)
    told = f"Kubernetes {old} -> {new}"
    if step == "same":
        raise DevenvError("upgrade_same", f"it has Kubernetes {new} already", where=name)
    if step == "downgrade":
        raise DevenvError("upgrade_downgrade", f"{told} is a downgrade", where=name)
    if step == "skip":
        raise DevenvError(
            "upgrade_skips_minor", f"{told} skips a minor version", where=name, advice=_next_advice(name, old)
        )
    return wanted


def _next_advice(name: str, old: str) -> str:
    between = [one for one in versions.known()[1] if profile.version_step(old, one) == "upgrade"]
    if not between:
        return "One minor version at a time; no bundle is known for the next one."
    last = max(between, key=profile.version_number)
    return f"One minor version at a time: devenv upgrade -n {name} --kubernetes {last} first."


def require_ready(resolved: Mapping[str, Any], seen: Mapping[str, Seen], begun: bool) -> None:
    """Raise DevenvError ``upgrade_not_ready`` that names the nodes that are not in their cluster or not Ready. Of an
    upgrade that has begun nothing is asked: any node may be in the middle of it.
    """
    wanted = [node["name"] for node in resolved["nodes"] if node["cluster"]]
    troubles = {
        "not in the cluster": [name for name in wanted if name not in seen],
        "not Ready": [name for name in wanted if name in seen and not seen[name].ready],
    }
    told = [f"{', '.join(names)} {text}" for text, names in troubles.items() if names]
    if told and not begun:
        raise DevenvError("upgrade_not_ready", "; ".join(told))


def look(folder: Path, clusters: Sequence[str], begun: bool, timeout: float = 10) -> dict[str, Seen]:
    """Nodes by name, as the API of each cluster has them. Raises DevenvError ``upgrade_not_ready`` when one does not
    answer, unless an upgrade has ``begun``: the only API server may be down for it.
    """
    found: dict[str, Seen] = {}
    for cluster in clusters:
        path = folder / "clusters" / cluster / "kubeconfig"
        if not path.is_file():
            raise DevenvError("upgrade_not_ready", f"the cluster {cluster} is not made yet")
        try:
            with client.Api(client.read_access(path), timeout=timeout) as api:
                items = api.get("/api/v1/nodes")["items"]
        except (client.ApiUnreachable, client.ApiError) as error:
            if begun:
                continue
            raise DevenvError("upgrade_not_ready", f"the API of cluster {cluster} does not answer: {error}") from None
        found |= {item["metadata"]["name"]: _seen(item) for item in items}
    return found


def _seen(item: Mapping[str, Any]) -> Seen:
    status = item.get("status", {})
    conditions = {one["type"]: one["status"] for one in status.get("conditions", [])}
    version = str(status.get("nodeInfo", {}).get("kubeletVersion", ""))
    return Seen(version.removeprefix("v"), conditions.get("Ready") == "True")


# --- what would be done ----------------------------------------------------------------------------------------------


def plan(
    name: str,
    resolved: Mapping[str, Any],
    new: versions.Versions,
    seen: Mapping[str, Seen],
    begun: Mapping[str, str] | None,
    bundle: bool,
) -> dict[str, Any]:
    """``{name, from, to, begun, bundle, parts, nodes}``: ``bundle`` whether it is here, ``parts`` other versions that
    change (``{"etcd": [old, new]}``), ``nodes`` a row a node in the order in which they are worked on: ``{node,
    cluster, command, kubelet}``, ``kubelet`` the version that it has now.
    """
    old = begun["from"] if begun else str(resolved["kubernetes"]["version"])
    return {
        "name": name,
        "from": old,
        "to": new.kubernetes,
        "begun": begun is not None,
        "bundle": bundle,
        "parts": _parts(old, new),
        "nodes": [
            {
                "node": node["name"],
                "cluster": node["cluster"],
                "command": command,
                "kubelet": seen[node["name"]].version if node["name"] in seen else "",
            }
            for node, command in order(resolved, new.kubernetes)
        ],
    }


def order(resolved: Mapping[str, Any], new: str) -> list[tuple[Mapping[str, Any], str]]:
    """Nodes of clusters as kubeadm wants them upgraded, each with its command: of each cluster the first control plane
    node, then the other control plane nodes, then workers.
    """
    nodes = [node for node in resolved["nodes"] if node["cluster"]]
    masters = [node for node in nodes if node["group"] == "control_plane"]
    first = [next(one for one in masters if one["cluster"] == cluster) for cluster in resolved["clusters"]]
    rest = [node for node in masters if node not in first] + [node for node in nodes if node not in masters]
    return [(node, f"kubeadm upgrade apply v{new}") for node in first] + [
        (node, "kubeadm upgrade node") for node in rest
    ]


def _parts(old: str, new: versions.Versions) -> dict[str, list[str]]:
    try:
        before = versions.wanted(old)
    except DevenvError:
        return {}  # made when there was a bundle for it
    pairs = {told: [str(getattr(before, key)), str(getattr(new, key))] for key, told in _PARTS.items()}
    return {told: pair for told, pair in pairs.items() if pair[0] != pair[1]}


def lines(found: Mapping[str, Any]) -> list[str]:
    """A plan for people."""
    head = f"{found['name']}: Kubernetes {found['from']} -> {found['to']}"
    more = ", ".join(f"{told} {old} -> {new}" for told, (old, new) in found["parts"].items())
    told = [f"{head}{' goes on' if found['begun'] else ''}", *([f"with it: {more}"] if more else [])]
    told.append("programs and images: " + ("here" if found["bundle"] else "are made first, which takes minutes"))
    told += [f"{number}. {row['node']}: {_steps(row, found['to'])}" for number, row in enumerate(found["nodes"], 1)]
    return told


def _steps(row: Mapping[str, Any], new: str) -> str:
    if row["kubelet"] == new:
        return "has it, is looked at"
    return f"{row['command']}, pods move away, kubelet {row['kubelet'] or '?'} -> {new}, pods may come back"
