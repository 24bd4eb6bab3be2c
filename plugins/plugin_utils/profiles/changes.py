"""Differences between two resolved profiles, and whether an existing environment can apply them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Node, Profile

# Names, and keys that follow from others.
_DERIVED = {"profile", "name", "topology", "families", "nodes"}


@dataclass(frozen=True)
class Change:
    """One difference. ``applies``: an existing environment can apply it; ``why`` explains why, or why not."""

    path: str
    old: Any
    new: Any
    applies: bool
    why: str


def between(old: Profile, new: Profile) -> list[Change]:
    """Return the differences from ``old`` to ``new``, whatever the order of the nodes.

    An environment can apply labels, taints, whether a node is schedulable, added and removed nodes, further clusters,
    other endpoints and what `up` installs on a cluster.
    """
    before: Mapping[str, Any] = {**old}
    after: Mapping[str, Any] = {**new}
    changes: list[Change] = []
    for key in sorted({*old, *new} - _DERIVED):
        changes += _differences(before.get(key), after.get(key), key)
    old_nodes, new_nodes = ({node["name"]: node for node in profile["nodes"]} for profile in (old, new))
    tainted = engines.traits(new["kubernetes"]["engine"])["control_plane_taint"]
    for name in old_nodes | new_nodes:
        changes += _node_changes(f"nodes.{name}", old_nodes.get(name), new_nodes.get(name), tainted)
    return changes


def _differences(old: Any, new: Any, path: str) -> Iterator[Change]:
    if old == new:
        return
    inner = isinstance(old, Mapping) and isinstance(new, Mapping)
    if inner and not re.fullmatch(r"clusters\.[^.]+\.endpoint", path):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}")
    else:
        yield Change(path, old, new, *_judge(path, old, new))


def _judge(path: str, old: Any, new: Any) -> tuple[bool, str]:
    """Return whether an existing environment can apply the change, and why (not)."""
    part, rest = path.partition(".")[::2]
    engine, key = rest.partition(".")[::2]
    if part == "kubernetes" and key and engine in engines.names():
        settings = engines.traits(engine)["settings"]
        if key in settings["applied"]:
            return True, settings["applied"][key]
        if key in settings["upgraded"]:
            return False, settings["upgraded"][key]
    if path == "kubernetes.version":
        return False, _version_change(str(old), str(new))
    if part == "clusters" and rest.endswith(".endpoint"):
        moved = any(old[key] != new[key] for key in ("kind", "addresses"))
        if old.get("names") != new.get("names") or (moved and new["addresses"]):
            return False, "certificates do not name these addresses: down, then up"
        return True, "the endpoint's new address is written to the nodes" if moved else "the port is published"
    if part == "clusters" and old is None:
        return True, "a further cluster is created"
    if part == "clusters" and new is None:
        return False, "a cluster is not removed automatically: down, then up"
    if part in ("storage", "metrics") and rest == "enabled":
        return True, "is installed on the cluster" if new else "is removed from the cluster; data stay"
    if part == "validate":
        return True, "the next validation runs them"
    return False, "needs a new environment: down, then up"


def _node_changes(path: str, old: Node | None, new: Node | None, tainted: bool) -> Iterator[Change]:
    """Yield the changes of a node; ``tainted``: its engine marks unschedulable control plane nodes with a taint."""
    if old is None:
        yield Change(path, None, new, True, "the node is created and joins")
        return
    if new is None:
        yield Change(path, old, None, True, "the node leaves its cluster and is removed")
        return
    before: Mapping[str, Any] = {**old}
    after: Mapping[str, Any] = {**new}
    for key in sorted({*before, *after}):
        values = (before.get(key), after.get(key))
        if key == "labels":
            for label in sorted({*old["labels"], *new["labels"]}):
                label_values = (old["labels"].get(label), new["labels"].get(label))
                if label_values[0] != label_values[1]:
                    yield Change(f"{path}.labels.{label}", *label_values, True, "labels are set on the running node")
        elif values[0] != values[1] and key == "schedulable" and tainted:
            yield Change(f"{path}.schedulable", *values, True, "the taint of its role is set on the running node")
        elif values[0] != values[1] and key == "taints":
            yield Change(f"{path}.taints", *values, True, "taints are set on the running node")
        elif values[0] != values[1]:
            yield Change(f"{path}.{key}", *values, False, "a node is not changed in place")


# --- versions --------------------------------------------------------------------------------------------------------


def version_number(version: str) -> tuple[int, ...]:
    """Return ``1.36.3`` as numbers to compare."""
    return tuple(int(part) for part in re.findall(r"[0-9]+", version)[:3])


def version_step(old: str, new: str) -> str:
    """Return the step between two versions of Kubernetes: ``same``, ``downgrade``, ``skip`` (more than one minor
    version) or ``upgrade``.
    """
    before, after = version_number(old), version_number(new)
    if after == before:
        return "same"
    if after < before:
        return "downgrade"
    return "upgrade" if after[:1] == before[:1] and after[1] <= before[1] + 1 else "skip"


def _version_change(old: str, new: str) -> str:
    step = version_step(old, new)
    if step == "downgrade":
        return "a downgrade needs a new environment"
    if step == "skip":
        major, minor = version_number(old)[:2]
        return f"skips a minor version: run devenv upgrade to {major}.{minor + 1} first"
    return f"run devenv upgrade --kubernetes {new}"
