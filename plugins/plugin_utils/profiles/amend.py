"""Change keys of an existing environment's profile.

The state directory stores the resolved profile. To change it, write it as a document again, merge the overrides into
that, and resolve the result with the usual checks and defaults.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import data
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve_document
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Endpoint, Node, Profile

# Keys that follow from others, or that a document has in another form.
_NOT_COPIED = {"profile", "name", "topology", "families", "clusters", "nodes"}
_KEPT_NODE_KEYS = ("cluster", "cpus", "memory", "disk", "taints")


def amend(resolved: Profile, overrides: Mapping[str, Any]) -> Profile:
    """Return ``resolved`` with ``overrides`` (by path, as resolve takes them) applied.

    Raises DevenvError as resolve does, and profile_invalid if the stored profile does not resolve to itself: another
    version of devenv wrote it.
    """
    document, name = _as_document(resolved), resolved["name"]
    again = resolve_document(document, name, stored=True)
    before, after = (json.loads(json.dumps(profile)) for profile in (resolved, again))
    if after != before:
        different = sorted(key for key in {*after, *before} if after.get(key) != before.get(key))
        raise DevenvError(
            "profile_invalid",
            f"{', '.join(different)} of this environment's profile cannot be kept",
            advice="Name its profile: devenv up --profile PROFILE --set ...",
        )
    return resolve_document(document, name, overrides=overrides, stored=True) if overrides else again


def _as_document(resolved: Profile) -> dict[str, Any]:
    """Return a document with every value of ``resolved`` written out: a default may change in a later version."""
    topology = resolved["topology"] if resolved["topology"] in data.names_in("topologies") else ""
    template = data.read(f"topologies/{topology}").get("nodes", {}) if topology else {}
    # A number without a node belonged to a removed one.
    nodes: dict[str, Any] = dict.fromkeys([*template, *_lower_numbers(node["name"] for node in resolved["nodes"])])
    for node in resolved["nodes"]:
        nodes[node["name"]] = _node(node, (template.get(node["name"]) or {}).get("labels", {}))
    return {
        **({"topology": topology} if topology else {}),
        **{key: value for key, value in resolved.items() if key not in _NOT_COPIED},
        "clusters": {name: {"endpoint": _endpoint(name, resolved)} for name in resolved["clusters"]},
        "nodes": nodes,
    }


def _lower_numbers(names: Iterable[str]) -> list[str]:
    """Return the names with lower numbers than the highest of each prefix."""
    highest: dict[str, int] = {}
    for name in names:
        prefix, number = name.rpartition("-")[::2]
        highest[prefix] = max(highest.get(prefix, 0), int(number))
    return [f"{prefix}-{number}" for prefix, last in highest.items() for number in range(last)]


def _node(node: Node, template_labels: Mapping[str, Any]) -> dict[str, Any]:
    # A profile cannot set schedulable of a worker.
    kept = (*_KEPT_NODE_KEYS, "schedulable") if node["group"] != "workers" else _KEPT_NODE_KEYS
    labels = {**dict.fromkeys(template_labels), **node["labels"]}
    return {**{key: value for key, value in node.items() if key in kept}, "labels": labels}


def _endpoint(cluster: str, resolved: Profile) -> Endpoint:
    """Return ``auto`` for the kind that follows from the number of control plane nodes: that number may change."""
    endpoint = resolved["clusters"][cluster]["endpoint"]
    masters = [n for n in resolved["nodes"] if n["cluster"] == cluster and n["group"] == "control_plane"]
    automatic = "virtual" if len(masters) > 1 else "node"
    return {"kind": "auto", "addresses": []} if endpoint["kind"] == automatic else endpoint
