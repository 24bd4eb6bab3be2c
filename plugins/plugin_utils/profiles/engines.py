"""Traits of engines (configs/engines), and what an engine supports of a profile.

They are read here and not in the package engines: resolving a profile and building the inventory need them, and the
engines' own code is in a layer above both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import data
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import (
    EngineGroup,
    EngineSettings,
    EngineTraits,
    Profile,
)


def traits(engine: str) -> EngineTraits:
    """Return the traits of an engine."""
    return cast(EngineTraits, data.read(f"engines/{engine}"))


def names() -> list[str]:
    """Return the names of the engines."""
    return data.names_in("engines")


def default() -> str:
    """Return the engine of a profile that names none."""
    return str(data.read("defaults")["kubernetes"]["engine"])


def of_installer(installer: str) -> str:
    """Return the engine that an installer of the test plugin stands for."""
    return next(name for name in names() if installer in traits(name)["installers"])


def group_of(group: str, engine: EngineTraits) -> EngineGroup:
    """Return an engine's traits of a group of nodes; those of control planes for a group that it does not support."""
    return engine["groups"].get(group) or engine["groups"]["control_plane"]


def in_use(nodes: Iterable[Mapping[str, Any]], engine: str) -> dict[str, int]:
    """Return the measured usage of ``nodes`` in total, without applications: ``memory`` and ``disk`` in bytes,
    ``inotify`` instances. A bare node counts as one of its group.
    """
    found, engine_traits = list(nodes), traits(engine)
    sizes: list[Any] = [group_of(node["group"], engine_traits)["in_use"] for node in found]
    used = {key: sum(data.parse_quantity(size[key]) for size in sizes) for key in ("memory", "disk", "inotify")}
    clusters = {node["cluster"] for node in found if node["group"] == "control_plane" and node.get("cluster")}
    return {**used, "inotify": used["inotify"] + len(clusters) * engine_traits.get("leader_inotify", 0)}


def require(profile: Profile, *, shape_only: bool = False) -> None:
    """Raise DevenvError engine_cannot if the profile's engine does not support what the profile requests.

    With ``shape_only``, the engine's own settings may still be missing: the cluster exists, or they come later.
    """
    engine = traits(profile["kubernetes"]["engine"])
    for text in _unsupported(profile, engine):
        raise DevenvError("engine_cannot", text, where=profile["profile"])
    if not shape_only:
        _require_settings(profile["kubernetes"], engine["settings"])


def require_operation(engine: str, operation: str) -> None:
    """Raise DevenvError engine_cannot if the engine does not support ``operation``."""
    instead = traits(engine)["cannot"].get(operation)
    if instead:
        raise DevenvError("engine_cannot", f"{operation}: not supported by the engine {engine}; {instead}")


def _unsupported(profile: Profile, engine: EngineTraits) -> Iterator[str]:
    name = profile["kubernetes"]["engine"]
    for node in profile["nodes"]:
        if node["cluster"] is not None and node["group"] not in engine["groups"]:
            yield f"nodes.{node['name']}: the engine {name} does not support {node['group']}"
    for family in profile["families"]:
        if family not in engine["families"]:
            yield f"stack: the engine {name} does not support {family}"
    most = engine["groups"]["control_plane"].get("most")
    for cluster, spec in profile["clusters"].items():
        masters = [n for n in profile["nodes"] if n["cluster"] == cluster and n["group"] == "control_plane"]
        if most and len(masters) > most:
            yield f"clusters.{cluster}: the engine {name} supports at most {most} masters, not {len(masters)}"
        if spec["endpoint"]["kind"] not in engine["endpoints"]:
            yield f"clusters.{cluster}.endpoint.kind: the engine {name} does not support {spec['endpoint']['kind']}"


def _require_settings(kubernetes: Mapping[str, Any], rules: EngineSettings) -> None:
    engine = kubernetes["engine"]
    settings: Mapping[str, Any] = kubernetes.get(engine, {})
    for keys in rules["exclusive"]:
        if all(settings[key] for key in keys):
            raise DevenvError("profile_invalid", f"kubernetes.{engine}: {' and '.join(keys)} are mutually exclusive")
    for key, instead in rules["needed"].items():
        if not settings[key] and not settings[instead]:
            raise DevenvError("profile_invalid", f"kubernetes.{engine}.{key}: the engine {engine} requires it")
