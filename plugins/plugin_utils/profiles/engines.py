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
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import (
    EngineGroup,
    EngineSettings,
    EngineTraits,
    Profile,
)


def traits(engine: str, configs: Path = paths.CONFIGS) -> EngineTraits:
    """Return the traits of an engine."""
    return cast(EngineTraits, data.read(configs / "engines" / f"{engine}.yml"))


def names(configs: Path = paths.CONFIGS) -> list[str]:
    """Return the names of the engines."""
    return data.stems(configs / "engines")


def of_installer(installer: str) -> str:
    """Return the engine that an installer of the test plugin means."""
    return next(name for name in names() if installer in traits(name)["installers"])


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
    if not shape_only:
        _require_settings(profile["kubernetes"], engine["settings"])


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


def _require_settings(kubernetes: Mapping[str, Any], rules: EngineSettings) -> None:
    engine = kubernetes["engine"]
    given: Mapping[str, Any] = kubernetes.get(engine, {})
    for keys in rules["exclusive"]:
        if all(given[key] for key in keys):
            raise DevenvError("profile_invalid", f"kubernetes.{engine}: {' and '.join(keys)} exclude each other")
    for key, instead in rules["needed"].items():
        if not given[key] and not given[instead]:
            raise DevenvError("profile_invalid", f"kubernetes.{engine}.{key}: the engine {engine} needs it")
