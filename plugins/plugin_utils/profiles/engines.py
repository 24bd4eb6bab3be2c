"""Traits of engines (configs/engines), and what a profile may ask of an engine.

The traits are read here and not in the package engines, since resolving a profile and building the inventory need
them, and the engines' own code lies above both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import data
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import EngineGroup, EngineTraits, Profile


def traits(engine: str, configs: Path = paths.CONFIGS) -> EngineTraits:
    """Return the traits of an engine."""
    return cast(EngineTraits, data.read(configs / "engines" / f"{engine}.yml"))


def group_of(group: str, engine: EngineTraits) -> EngineGroup:
    """Return what an engine says of a group of nodes; of one that it does not have, what it says of control planes."""
    return engine["groups"].get(group) or engine["groups"]["control_plane"]


def in_use(nodes: Iterable[Mapping[str, Any]], engine: str, configs: Path = paths.CONFIGS) -> dict[str, int]:
    """Return what ``nodes`` use together as measured, without applications: ``memory`` and ``disk`` in bytes,
    ``inotify`` instances. A bare node counts as one of its group.
    """
    sizes: list[Any] = [group_of(node["group"], traits(engine, configs))["in_use"] for node in nodes]
    return {key: sum(data.parse_quantity(one[key]) for one in sizes) for key in ("memory", "disk", "inotify")}


def require(profile: Profile, configs: Path = paths.CONFIGS, *, shape_only: bool = False) -> None:
    """Raise DevenvError engine_cannot when the profile's engine cannot make what the profile asks for.

    With ``shape_only``, the engine's own settings may still be missing: the cluster exists, or they come later.
    """
    engine = traits(profile["kubernetes"]["engine"], configs)
    for text in _unsupported(profile, engine):
        raise DevenvError("engine_cannot", text, where=profile["profile"])
    if profile["kubernetes"]["engine"] == "gravity" and not shape_only:
        _require_tarball(profile)


def require_operation(engine: str, operation: str, configs: Path = paths.CONFIGS) -> None:
    """Raise DevenvError engine_cannot when clusters of the engine have no such ``operation``."""
    instead = traits(engine, configs)["cannot"].get(operation)
    if instead:
        raise DevenvError("engine_cannot", f"{operation}: not with the engine {engine}; {instead}")


def _unsupported(profile: Profile, engine: EngineTraits) -> Iterator[str]:
    """What of the profile the engine does not have, in words."""
    name = profile["kubernetes"]["engine"]
    for node in profile["nodes"]:
        if node["cluster"] is not None and node["group"] not in engine["groups"]:
            yield f"nodes.{node['name']}: the engine {name} has no {node['group']}"
    for family in profile["families"]:
        if family not in engine["families"]:
            yield f"stack: the engine {name} has no {family}"
    most = engine["groups"]["control_plane"].get("most")
    for cluster, spec in profile["clusters"].items():
        masters = [n for n in profile["nodes"] if n["cluster"] == cluster and n["group"] == "control_plane"]
        if most and len(masters) > most:
            yield f"clusters.{cluster}: the engine {name} makes at most {most} masters, not {len(masters)}"
        if spec["endpoint"]["kind"] not in engine["endpoints"]:
            yield f"clusters.{cluster}.endpoint.kind: the engine {name} has no {spec['endpoint']['kind']}"


def _require_tarball(profile: Profile) -> None:
    said = profile["kubernetes"]["gravity"]
    if said["prepared"] and said["script"]:
        raise DevenvError("profile_invalid", "kubernetes.gravity: prepared and script exclude each other")
    for key in ("tarball", "sha256"):
        if not said[key] and not said["prepared"]:
            raise DevenvError("profile_invalid", f"kubernetes.gravity.{key}: the engine gravity needs it")
