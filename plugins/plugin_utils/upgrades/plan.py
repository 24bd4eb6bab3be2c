"""Plan the upgrade of an environment: the allowed versions, the readiness of its nodes, the steps of each node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import versions
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import upgrade_record
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client, readiness
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import changes
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Node, Profile

# Other versions in a bundle, and their names in the output.
_PARTS = {"etcd_image": "etcd", "coredns": "CoreDNS", "pause": "pause", "containerd": "containerd"}


@dataclass(frozen=True)
class NodeVersion:
    """The version of a node's kubelet (without ``v``) and whether the node is Ready, from the API."""

    version: str
    ready: bool


# --- checks before the upgrade ---------------------------------------------------------------------------------------


def check(name: str, old: str, new: str, begun: Mapping[str, str] | None) -> versions.Versions:
    """Return the versions in the bundle of ``new``. ``old`` is the profile's version, ``begun`` an unfinished upgrade.

    Raises DevenvError ``bundle_version_unknown``, ``upgrade_unfinished`` (to another version), ``upgrade_same``,
    ``upgrade_downgrade``, ``upgrade_skips_minor``.
    """
    target = versions.resolve(new)
    new = target.kubernetes
    if begun is not None:
        if begun["to"] != new:
            raise upgrade_record.unfinished(name, begun)
        return target
    step = changes.version_step(old, new)
    change = f"Kubernetes {old} -> {new}"
    if step == "same":
        raise DevenvError("upgrade_same", f"already has Kubernetes {new}", where=name)
    if step == "downgrade":
        raise DevenvError("upgrade_downgrade", f"{change} is a downgrade", where=name)
    if step == "skip":
        advice = _next_advice(name, old)
        raise DevenvError("upgrade_skips_minor", f"{change} skips a minor version", where=name, advice=advice)
    return target


def _next_advice(name: str, old: str) -> str:
    next_versions = [known for known in versions.known()[1] if changes.version_step(old, known) == "upgrade"]
    if not next_versions:
        return "Upgrade one minor version at a time; no bundle is known for the next one."
    last = max(next_versions, key=changes.version_number)
    return f"Upgrade one minor version at a time: devenv upgrade -n {name} --kubernetes {last} first."


def require_ready(resolved: Profile, nodes: Mapping[str, NodeVersion], begun: bool) -> None:
    """Raise DevenvError ``upgrade_not_ready`` with the nodes that are not in their cluster or not Ready, unless an
    upgrade has ``begun``, in which any node may be not Ready.
    """
    names = [node["name"] for node in resolved["nodes"] if node["cluster"]]
    problems = {
        "not in the cluster": [name for name in names if name not in nodes],
        "not Ready": [name for name in names if name in nodes and not nodes[name].ready],
    }
    texts = [f"{', '.join(names)} {text}" for text, names in problems.items() if names]
    if texts and not begun:
        raise DevenvError("upgrade_not_ready", "; ".join(texts))


def node_versions(folder: Path, clusters: Sequence[str], begun: bool) -> dict[str, NodeVersion]:
    """Return the nodes of all clusters by name. Raises DevenvError ``upgrade_not_ready`` if an API does not answer,
    unless an upgrade has ``begun``, during which the only API server may be down.
    """
    nodes: dict[str, NodeVersion] = {}
    for cluster in clusters:
        path = folder / "clusters" / cluster / "kubeconfig"
        if not path.is_file():
            raise DevenvError("upgrade_not_ready", f"the cluster {cluster} is not created yet")
        try:
            with client.Api(client.read_access(path)) as api:
                items = api.get("/api/v1/nodes")["items"]
        except client.ApiFailure as error:
            if begun:
                continue
            raise DevenvError("upgrade_not_ready", f"the API of cluster {cluster} does not answer: {error}") from None
        for item in items:
            version = str(item.get("status", {}).get("nodeInfo", {}).get("kubeletVersion", ""))
            nodes[item["metadata"]["name"]] = NodeVersion(version.removeprefix("v"), readiness.is_ready(item))
    return nodes


# --- the plan --------------------------------------------------------------------------------------------------------


class NodePlan(TypedDict):
    """The upgrade of a node; ``command`` is that of kubeadm, ``kubelet`` the current version (empty: unknown)."""

    node: str
    cluster: str
    command: str
    kubelet: str


# "from" is not an identifier. ``bundle``: whether it exists here; ``parts``: other changes, as {"etcd": [old, new]}.
UpgradePlan = TypedDict(
    "UpgradePlan",
    {
        "name": str, "from": str, "to": str, "begun": bool, "bundle": bool,
        "parts": dict[str, list[str]], "nodes": list[NodePlan],
    },
)  # fmt: skip


def plan(
    name: str,
    resolved: Profile,
    new: versions.Versions,
    nodes: Mapping[str, NodeVersion],
    begun: Mapping[str, str] | None,
    bundle: bool,
) -> UpgradePlan:
    """Return the plan of an upgrade to ``new``, with the nodes in the order of their upgrade."""
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
                "cluster": node["cluster"] or "",
                "command": command,
                "kubelet": nodes[node["name"]].version if node["name"] in nodes else "",
            }
            for node, command in order(resolved, new.kubernetes)
        ],
    }


def order(resolved: Profile, new: str) -> list[tuple[Node, str]]:
    """Return the nodes of clusters in the order that kubeadm requires, each with its command: the first control plane
    node of each cluster, then the other control plane nodes, then the workers.
    """
    nodes = [node for node in resolved["nodes"] if node["cluster"]]
    masters = [node for node in nodes if node["group"] == "control_plane"]
    first = [next(node for node in masters if node["cluster"] == cluster) for cluster in resolved["clusters"]]
    others = [node for node in masters if node not in first] + [node for node in nodes if node not in masters]
    commands = [(node, f"kubeadm upgrade apply v{new}") for node in first]
    return commands + [(node, "kubeadm upgrade node") for node in others]


def _parts(old: str, new: versions.Versions) -> dict[str, list[str]]:
    try:
        before = versions.resolve(old)
    except DevenvError:
        return {}  # configs/versions.yml no longer has it
    pairs = {part: [str(getattr(before, key)), str(getattr(new, key))] for key, part in _PARTS.items()}
    return {part: pair for part, pair in pairs.items() if pair[0] != pair[1]}


def lines(upgrade: UpgradePlan) -> list[str]:
    """Return a plan as text."""
    new = upgrade["to"]
    parts = ", ".join(f"{part} {before} -> {after}" for part, (before, after) in upgrade["parts"].items())
    return [
        f"{upgrade['name']}: Kubernetes {upgrade['from']} -> {new}{', continued' if upgrade['begun'] else ''}",
        *([f"also: {parts}"] if parts else []),
        "binaries and images: " + ("present" if upgrade["bundle"] else "built first, which takes minutes"),
        *(f"{number}. {row['node']}: {_steps(row, new)}" for number, row in enumerate(upgrade["nodes"], 1)),
    ]


def _steps(row: NodePlan, new: str) -> str:
    if row["kubelet"] == new:
        return "already upgraded; check only"
    return f"{row['command']}, drain, kubelet {row['kubelet'] or '?'} -> {new}, uncordon"
