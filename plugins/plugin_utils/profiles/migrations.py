"""Versions of the profile format (``apiVersion``), and migration of older documents, and of resolved profiles, to the
newest form.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import data
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.checks import keys

KEY = "apiVersion"
FIRST = "devenv.lab/v1"

# Keys of a resolved profile that follow from others, and keys that a document has in another form.
_DERIVED = ("profile", "name", "families")
_CONVERTED = ("topology", "clusters", "nodes")

Migration = Callable[[dict[str, Any]], dict[str, Any]]
# All versions, the oldest first, with the function that turns a document of the version before into one of it.
VERSIONS: Mapping[str, Migration] = MappingProxyType({FIRST: dict})


def migrate(document: Mapping[str, Any], where: str, versions: Mapping[str, Migration] = VERSIONS) -> dict[str, Any]:
    """Return ``document`` in the newest form, without its version; the default is the first version.

    Raises DevenvError profile_invalid for an unknown version.
    """
    version = document.get(KEY, FIRST)
    known = list(versions)
    if version not in known:
        message = f"{KEY}: {json.dumps(version)} is not known; allowed: {', '.join(known)}"
        raise DevenvError("profile_invalid", message, where=where)
    migrated = {key: value for key, value in document.items() if key != KEY}
    for newer in known[known.index(version) + 1 :]:
        migrated = versions[newer](migrated)
    return migrated


# --- resolved profiles -----------------------------------------------------------------------------------------------


def is_resolved(document: Mapping[str, Any]) -> bool:
    """Return whether ``document`` has the form of a resolved profile, which `devenv profile show` prints: a list of
    nodes.
    """
    nodes = document.get("nodes")
    listed = isinstance(nodes, list) and all(isinstance(node, dict) and "name" in node for node in nodes)
    return bool(nodes) and listed and "extends" not in document


def from_resolved(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document with every value of ``resolved`` written out: a default may change in a later version.

    The keys that follow from others are omitted; see `check_derived`.
    """
    topology = resolved.get("topology", "") if resolved.get("topology") in data.names_in("topologies") else ""
    template = data.read(f"topologies/{topology}").get("nodes", {}) if topology else {}
    # A number without a node belonged to a removed one.
    nodes: dict[str, Any] = dict.fromkeys([*template, *_lower_numbers(str(node["name"]) for node in resolved["nodes"])])
    for node in resolved["nodes"]:
        nodes[str(node["name"])] = _node(node, (template.get(node["name"]) or {}).get("labels", {}))
    clusters = resolved.get("clusters", data.read("defaults")["clusters"])
    copied = {key: value for key, value in resolved.items() if key not in (*_DERIVED, *_CONVERTED)}
    return {
        **({"topology": topology} if topology else {}),
        **copied,
        "clusters": {name: _cluster(name, cluster, resolved) for name, cluster in clusters.items()},
        "nodes": nodes,
    }


def without_ignored(document: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the document of a resolved profile without the keys that have no effect, which a profile cannot set, and
    a message for each.
    """
    kept = data.merge({}, document)
    settings = data.merge(data.read("defaults"), kept)
    bare = [name for name, node in kept["nodes"].items() if node and node.get("cluster", "") is None]
    messages = list(keys.without_effect(kept, settings["provider"], settings["kubernetes"]["engine"], bare))
    for message in messages:
        parent, key = _place(kept, message.partition(": ")[0])
        parent.pop(key, None)
    return kept, messages


def check_ignored(
    document: Mapping[str, Any], messages: Iterable[str], resolved: Mapping[str, Any], where: str
) -> None:
    """Raise DevenvError profile_invalid for a key without effect (see `without_ignored`) that the user has changed."""
    result = from_resolved(resolved)
    for message in messages:
        path = message.partition(": ")[0]
        given, expected = (parent.get(key) for parent, key in (_place(item, path) for item in (document, result)))
        if given != expected:
            raise DevenvError("profile_invalid", message, where=where)


def _place(document: Mapping[str, Any], path: str) -> tuple[Any, str]:
    """Return the mapping that has the key at a dotted path, and the key, which may contain dots."""
    for key, value in document.items():
        if path.startswith(f"{key}.") and isinstance(value, dict):
            return _place(value, path.removeprefix(f"{key}."))
    return document, path


def check_derived(document: Mapping[str, Any], resolved: Mapping[str, Any], where: str) -> None:
    """Raise DevenvError profile_invalid if a key of ``document`` that follows from others differs from ``resolved``."""
    pairs = [(key, document.get(key), resolved[key]) for key in _DERIVED]
    results = {node["name"]: node for node in resolved["nodes"]}
    for node in document["nodes"]:
        result = results[node["name"]]
        pairs += [(f"nodes.{node['name']}.{key}", node.get(key), result[key]) for key in ("group", "schedulable")]
    for key, given, result in pairs:
        if given not in (None, result):
            message = f"{key}: follows from other keys, which give {json.dumps(result)}"
            raise DevenvError("profile_invalid", message, where=where)


def _lower_numbers(names: Iterable[str]) -> list[str]:
    """Return the names with lower numbers than the highest of each prefix."""
    highest: dict[str, int] = {}
    for name in names:
        prefix, number = name.rpartition("-")[::2]
        if number.isdecimal():
            highest[prefix] = max(highest.get(prefix, 0), int(number))
    return [f"{prefix}-{number}" for prefix, last in highest.items() for number in range(last)]


def _node(node: Mapping[str, Any], template_labels: Mapping[str, Any]) -> dict[str, Any]:
    # A profile cannot set schedulable of a worker.
    derived = ("name", "group", "schedulable") if node.get("group") == "workers" else ("name", "group")
    labels = {**dict.fromkeys(template_labels), **node.get("labels", {})}
    return {**{key: value for key, value in node.items() if key not in derived}, "labels": labels}


def _cluster(name: str, cluster: Mapping[str, Any], resolved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the cluster, with ``auto`` for a kind of endpoint that follows from the number of control plane nodes:
    that number may change.
    """
    endpoint = cluster.get("endpoint", {})
    groups = [node.get("group") for node in resolved["nodes"] if node.get("cluster") == name]
    automatic = "virtual" if groups.count("control_plane") > 1 else "node"
    if endpoint.get("kind") == automatic and not endpoint.get("addresses"):
        return {**cluster, "endpoint": {**endpoint, "kind": "auto", "addresses": []}}
    return dict(cluster)
