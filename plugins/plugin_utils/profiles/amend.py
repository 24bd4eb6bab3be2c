"""A few keys of a living environment's profile changed.

The state folder holds what a profile means, not the profile. So that is written as a profile again, what is to change
is laid over it, and all of it is resolved as ever: the same checks, the same defaults.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import document as documents
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve_document
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile

_AS_IT_IS = (
    "stack",
    "addressing",
    "provider",
    "kubernetes",
    "network",
    "registry",
    "proxy",
    "storage",
    "metrics",
    "validate",
)
_OF_A_NODE = ("cluster", "cpus", "memory", "disk", "taints")


def amend(resolved: Profile, overrides: Mapping[str, Any], configs: Path = paths.CONFIGS) -> Profile:
    """``resolved`` with ``overrides`` (keys are paths, as resolve takes them) laid over it.

    Raises DevenvError as resolve does, and profile_invalid when the environment's own profile does not come
    back whole: it is of another version.
    """
    document, name = as_document(resolved, configs), str(resolved["name"])
    again = resolve_document(document, name, configs=configs)
    if _plain(again) != _plain(resolved):
        wrong = sorted(key for key in {*again, *resolved} if again.get(key) != resolved.get(key))
        raise DevenvError(
            "profile_invalid",
            f"{', '.join(wrong)} of this environment's profile cannot be kept",
            advice="Name its profile: devenv up --profile PROFILE --set ...",
        )
    return resolve_document(document, name, overrides=overrides, configs=configs) if overrides else again


def as_document(resolved: Mapping[str, Any], configs: Path = paths.CONFIGS) -> dict[str, Any]:
    """A profile that means what ``resolved`` says, with nothing left to a default that may be another one tomorrow."""
    path = configs / "topologies" / f"{resolved['topology']}.yml"
    given = documents.read(path).data.get("nodes", {}) if path.is_file() else {}
    # A number that no node has was taken away once.
    nodes: dict[str, Any] = dict.fromkeys([*given, *_gaps(node["name"] for node in resolved["nodes"])])
    for node in resolved["nodes"]:
        nodes[node["name"]] = _node(node, (given.get(node["name"]) or {}).get("labels", {}))
    return {
        **({"topology": resolved["topology"]} if path.is_file() else {}),
        **{key: resolved[key] for key in _AS_IT_IS if key in resolved},
        "clusters": {name: {"endpoint": _endpoint(name, resolved)} for name in resolved["clusters"]},
        "nodes": nodes,
    }


def _gaps(names: Iterable[str]) -> list[str]:
    highest: dict[str, int] = {}
    for name in names:
        prefix, number = name.rpartition("-")[::2]
        highest[prefix] = max(highest.get(prefix, 0), int(number))
    return [f"{prefix}-{number}" for prefix, last in highest.items() for number in range(last)]


def _node(node: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    # A worker's schedulable is no key of a profile.
    own = {"schedulable": node["schedulable"]} if node["group"] != "workers" else {}
    return {**{key: node[key] for key in _OF_A_NODE}, **own, "labels": {**dict.fromkeys(given), **node["labels"]}}


def _endpoint(cluster: str, resolved: Mapping[str, Any]) -> dict[str, Any]:
    """What was chosen by the number of control plane nodes is to be chosen again."""
    said = resolved["clusters"][cluster]["endpoint"]
    group = [n for n in resolved["nodes"] if n["cluster"] == cluster and n["group"] == "control_plane"]
    chosen = "virtual" if len(group) > 1 else "node"
    return {"kind": "auto", "addresses": []} if said["kind"] == chosen else dict(said)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))
