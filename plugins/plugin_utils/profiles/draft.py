"""A profile between document and result: every default filled in, not yet checked as a whole."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import data, engines, provider_traits
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import EngineTraits

# Topology of a profile that lists all its nodes.
CUSTOM = "custom"
_NODE = re.compile(r"(master|arbiter|worker)-([0-9]+)")
# Keys of defaults.yml that apply to each item of a list or mapping, not to the profile.
_ITEMS = ("node", "host", "cluster", "check")


@dataclass(frozen=True)
class Draft:
    """``settings`` has the profile's keys except nodes and clusters.

    ``template`` are the topology's nodes, ``named`` those of topology and profile together (None: removed), ``nodes``
    the remaining ones in order, with their defaults. ``listed`` are the clusters by name (None: removed), ``clusters``
    those that the profile lists or its nodes use. ``requested`` are the keys that the user has set, without defaults.
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
    requested: Mapping[str, Any]

    @property
    def has_hosts(self) -> bool:
        """Whether the nodes are hosts that the profile names."""
        return not provider_traits.makes_machines(self.settings["provider"])

    def groups(self, cluster: str) -> list[str]:
        """Return the group of each node of a cluster."""
        return [group(name) for name, node in self.nodes.items() if node["cluster"] == cluster]

    def endpoint_kind(self, cluster: str) -> str:
        """Return the kind of a cluster's endpoint, with ``auto`` resolved."""
        kind = str(self.clusters[cluster]["endpoint"]["kind"])
        if kind != "auto":
            return kind
        several = self.groups(cluster).count("control_plane") > 1
        return "virtual" if several and "virtual" in self.engine["endpoints"] else "node"


def group(node: str) -> str:
    """Return the group that a node's name implies. Raises DevenvError profile_invalid."""
    match = _NODE.fullmatch(node)
    if not match:
        raise DevenvError("profile_invalid", f"nodes.{node}: must be master-N, arbiter-N or worker-N")
    return data.GROUPS[match[1]]


def make(document: Mapping[str, Any], schema: Mapping[str, Any], requested: Mapping[str, Any] | None = None) -> Draft:
    """Return the draft of a merged and valid document; ``requested`` is the part that the user has set, by default all.

    Raises DevenvError profile_invalid if it has no nodes.
    """
    if "topology" not in document and not document.get("nodes"):
        allowed = ", ".join(data.marked(topology) for topology in data.allowed(schema, "topology"))
        raise DevenvError("profile_invalid", f"topology is missing (or extends, or nodes); allowed: {allowed}")
    defaults, versions = data.read("defaults"), data.read("versions")
    settings = data.merge({key: value for key, value in defaults.items() if key not in _ITEMS}, document)
    settings["kubernetes"].setdefault("version", versions["default"])
    checks = settings["validate"]["checks"]
    settings["validate"]["checks"] = [data.merge(defaults["check"], check) for check in checks]
    template = data.read(f"topologies/{settings['topology']}").get("nodes", {}) if "topology" in settings else {}
    engine = engines.traits(settings["kubernetes"]["engine"])
    named = data.merge(template, document.get("nodes", {}))
    nodes = {name: _node(name, named[name], defaults, engine) for name in _in_order(named) if named[name] is not None}
    listed = settings.pop("clusters")
    used = {node["cluster"] for node in nodes.values()} | set(document.get("clusters", {}))
    return Draft(
        topology=settings.get("topology", CUSTOM),
        families=list(data.read(f"networks/{settings['stack']}")["families"]),
        settings=settings,
        template=template,
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
        requested=document if requested is None else requested,
    )


def _node(name: str, given: Mapping[str, Any], defaults: Mapping[str, Any], engine: EngineTraits) -> dict[str, Any]:
    sizes = engines.group_of(group(name), engine)["default"]
    node = data.merge({**defaults["node"], **sizes}, given)
    if "host" in node:
        node["host"] = data.merge(defaults["host"], node["host"])
    return node


def _in_order(nodes: Iterable[str]) -> list[str]:
    """Return masters, arbiters, workers, each sorted by number."""
    groups = list(data.GROUPS.values())
    return sorted(nodes, key=lambda name: (groups.index(group(name)), int(name.rpartition("-")[2])))
