"""Compare the profile of a snapshot with the profile of an environment that is to start from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import amend
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots.catalogue import Snapshot

# Keys that an environment and its snapshot share. Sizes, labels and taints of nodes may differ.
KEYS = ("topology", "stack", "kubernetes.version", "kubernetes.engine", "network.pods", "network.services")


def differences(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return what keeps an environment of the profile ``wanted`` from starting with a snapshot of ``saved`` (both
    resolved).
    """
    old, new = (_memberships(profile) for profile in (saved, wanted))
    pairs = [(path, _at(saved, path), _at(wanted, path)) for path in KEYS]
    pairs += [(f"nodes.{name}", old[name], new[name]) for name in new if name in old]
    return [
        *(
            f"{path} is {before} in the snapshot, {after} in the profile"
            for path, before, after in pairs
            if before != after
        ),
        *(f"nodes.{name}: not in the snapshot" for name in new if name not in old),
        *(f"nodes.{name}: in the snapshot, not in the profile" for name in old if name not in new),
    ]


def profile_of(snapshot: Snapshot, overrides: Mapping[str, Any] | None = None) -> Profile:
    """Return the resolved profile that was saved, with ``overrides`` (as resolve takes them) laid over it.

    Raises DevenvError as resolve does, and ``snapshot_differs`` for a profile that this version cannot resolve.
    """
    try:
        saved = amend.amend(snapshot.manifest["profile"], {})
    except (DevenvError, KeyError, TypeError, AttributeError) as error:
        problem = error.message if isinstance(error, DevenvError) else f"its profile lacks {error}"
        advice = "Name a profile that has the same nodes: devenv up --snapshot NAME --profile PROFILE"
        raise DevenvError("snapshot_differs", problem, advice=advice, where=snapshot.name) from None
    return amend.amend(saved, overrides) if overrides else saved


def _at(profile: Mapping[str, Any], path: str) -> Any:
    value: Any = profile
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _memberships(profile: Mapping[str, Any]) -> dict[str, str]:
    return {
        str(node["name"]): f"{node['group']} of cluster {node['cluster']}" if node.get("cluster") else node["group"]
        for node in profile["nodes"]
    }
