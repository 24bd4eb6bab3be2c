"""A profile between document and result: every default filled in, not yet checked as a whole."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import data, engines, provider_traits
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import EngineTraits

# Topology of a profile that lists all its nodes itself.
CUSTOM = "custom"
GROUPS = {"master": "control_plane", "arbiter": "arbiters", "worker": "workers"}
_NODE = re.compile(r"(master|arbiter|worker)-([0-9]+)")
# Defaults of defaults.yml that are for each item of a list or mapping, not for the profile.
_ITEMS = ("node", "host", "cluster", "check")


@dataclass(frozen=True)
class Draft:
    """``settings`` are the profile's keys except nodes and clusters. ``template`` are the topology's nodes, ``named``
    all that topology and profile name (None: taken away), ``nodes`` those that remain, in order and with their
    defaults. ``listed`` are the clusters by name (None: taken away), ``own`` the names that the profile itself lists,
    ``clusters`` those that it lists or its nodes use.
    """

    topology: str
    families: list[str]
    settings: dict[str, Any]
    template: Mapping[str, Any]
    named: Mapping[str, Any]
    nodes: Mapping[str, dict[str, Any]]
    listed: Mapping[str, Any]
    clusters: Mapping[str, dict[str, Any]]
    engine: EngineTraits
    versions: list[str]

    @property
    def has_hosts(self) -> bool:
        """Whether nodes are hosts that the profile names."""
        return not provider_traits.makes_machines(self.settings["provider"])

    def groups(self, cluster: str) -> list[str]:
        """Groups of the nodes of a cluster."""
        return [group(name) for name, node in self.nodes.items() if node["cluster"] == cluster]

    def endpoint_kind(self, cluster: str) -> str:
        """What the name of a cluster's control plane stands for; ``auto`` is decided here."""
        kind = str(self.clusters[cluster]["endpoint"]["kind"])
        if kind != "auto":
            return kind
        several = self.groups(cluster).count("control_plane") > 1
        return "virtual" if several and "virtual" in self.engine["endpoints"] else "node"


def group(node: str) -> str:
    """Return the group of a node's name. Raises DevenvError profile_invalid."""
    match = _NODE.fullmatch(node)
    if not match:
        raise DevenvError("profile_invalid", f"nodes.{node}: must be master-N, arbiter-N or worker-N")
    return GROUPS[match[1]]


def make(document: Mapping[str, Any], configs: Path, schema: Mapping[str, Any]) -> Draft:
    """Return the draft of a merged and valid document. Raises DevenvError profile_invalid without any nodes."""
    if "topology" not in document and not document.get("nodes"):
        allowed = ", ".join(data.allowed(schema, "topology"))
        raise DevenvError("profile_invalid", f"topology is missing (or extends, or nodes); allowed: {allowed}")
    defaults, versions = data.read(configs / "defaults.yml"), data.read(configs / "versions.yml")
    settings = data.merge({key: value for key, value in defaults.items() if key not in _ITEMS}, document)
    settings["kubernetes"].setdefault("version", versions["default"])
    checks = settings["validate"]["checks"]
    settings["validate"]["checks"] = [data.merge(defaults["check"], check) for check in checks]
    template = data.read(configs / "topologies" / f"{settings['topology']}.yml") if "topology" in settings else {}
    engine = engines.traits(settings["kubernetes"]["engine"], configs)
    named = data.merge(template.get("nodes", {}), document.get("nodes", {}))
    nodes = {name: _node(name, named[name], defaults, engine) for name in _in_order(named) if named[name] is not None}
    listed = settings.pop("clusters")
    used = {node["cluster"] for node in nodes.values()} | set(document.get("clusters", {}))
    return Draft(
        topology=settings.get("topology", CUSTOM),
        families=list(data.read(configs / "networks" / f"{settings['stack']}.yml")["families"]),
        settings=settings,
        template=template.get("nodes", {}),
        named=named,
        nodes=nodes,
        listed=listed,
        clusters={
            name: data.merge(defaults["cluster"], spec)
            for name, spec in listed.items()
            if spec is not None and name in used
        },
        engine=engine,
        versions=sorted(versions["kubernetes"]),
    )


def _node(name: str, own: Mapping[str, Any], defaults: Mapping[str, Any], engine: EngineTraits) -> dict[str, Any]:
    node = data.merge(data.merge(defaults["node"], engines.group_of(group(name), engine)["default"]), own)
    if "host" in node:
        node["host"] = data.merge(defaults["host"], node["host"])
    return node


def _in_order(nodes: Iterable[str]) -> list[str]:
    """Masters, arbiters, workers, each by number."""
    groups = list(GROUPS.values())
    return sorted(nodes, key=lambda name: (groups.index(group(name)), int(name.rpartition("-")[2])))
