"""From a merged document to a resolved profile."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import addresses, data, draft, rules
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.draft import Draft
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import (
    ClusterSpec,
    ExistingHost,
    Kubernetes,
    Node,
    Profile,
)


def compose(document: Mapping[str, Any], name: str, configs: Path, schema: Mapping[str, Any]) -> Profile:
    """Return the resolved profile of a merged and valid document; ``name`` is the environment's default name."""
    made = draft.make(document, configs, schema)
    rules.check(made)
    settings = made.settings
    return {
        "profile": f"{made.topology}-{settings['stack']}-{settings['addressing']}",
        "name": name,
        "topology": made.topology,
        "stack": settings["stack"],
        "families": made.families,
        "addressing": settings["addressing"],
        "provider": settings["provider"],
        "kubernetes": _kubernetes(settings["kubernetes"]),
        "network": settings["network"],
        "registry": settings["registry"],
        "proxy": settings["proxy"],
        "storage": settings["storage"],
        "metrics": settings["metrics"],
        "validate": settings["validate"],
        "clusters": {cluster: _cluster(cluster, made) for cluster in made.clusters},
        "nodes": [_node(node, made) for node in made.nodes],
    }


def _kubernetes(settings: Mapping[str, Any]) -> Kubernetes:
    """Version, engine, and the settings of this engine alone."""
    engine = settings["engine"]
    own = {engine: settings[engine]} if engine in settings else {}
    return cast(Kubernetes, {"version": settings["version"], "engine": engine, **own})


def _cluster(cluster: str, made: Draft) -> ClusterSpec:
    given = made.clusters[cluster]["endpoint"]["addresses"]
    return {"endpoint": {"kind": made.endpoint_kind(cluster), "addresses": _in_order(given, made.families)}}


def _node(name: str, made: Draft) -> Node:
    node, group = made.nodes[name], draft.group(name)
    resolved: Node = {
        "name": name,
        "group": group,
        "cluster": node["cluster"],
        "cpus": node["cpus"],
        "memory": data.parse_quantity(node["memory"]),
        "disk": data.parse_quantity(node["disk"]),
        "labels": {key: value for key, value in sorted(node["labels"].items()) if value is not None},
        "taints": list(node["taints"]),
        "schedulable": group == "workers" or node["schedulable"],
    }
    if "node_type" in node:
        resolved["node_type"] = node["node_type"]
    if "host" in node:
        host: ExistingHost = node["host"]
        resolved["host"] = {**host, "addresses": _in_order(host["addresses"], made.families)}
    return resolved


def _in_order(given: Iterable[str], families: Sequence[str]) -> list[str]:
    """Return addresses as they are usually written, in the families' order."""
    of_family = {addresses.family_of(text): str(ipaddress.ip_address(text)) for text in given}
    return [of_family[family] for family in families if family in of_family]
