"""Which keys of a profile take effect with a provider and an engine (configs/keys.yml, and `keys` of their files)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, cast

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import data, engines, provider_traits
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.checks import quotas
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import KeyEffects, Profile

# A key that nobody would notice: its value is the one that holds without it.
_DEFAULTS = "defaults"
_BARE = "only nodes of a cluster have it, and this one is bare"


def without_effect(requested: Mapping[str, Any], provider: str, engine: str, bare: Collection[str]) -> Iterator[str]:
    """Yield a message for each key of the document ``requested`` that would be ignored.

    ``bare`` are the nodes without cluster. A value that equals its default is what holds anyway.
    """
    for path, reason in _refused(provider, engine).items():
        yield from (f"{key}: {reason}" for key in _set(requested, path))
    for path, reason in _unlimited(requested, provider):
        yield from (f"{key}: {reason}" for key in _set(requested, path))
    for path in data.read("keys")["member"]:
        yield from (f"{key}: {_BARE}" for key in _set(requested, path) if key.split(".")[1] in bare)


def _refused(provider: str, engine: str) -> dict[str, str]:
    """Return the keys that are refused, with the reason."""
    settings = {path: path.rpartition(".")[2] for path in data.read("keys")["settings"]}
    refused = {
        path: f"settings of the engine {owner}, and the engine is {engine}"
        for path, owner in settings.items()
        if owner != engine
    }
    for kind, name, effects in _effects(provider, engine):
        for path, effect in effects.items():
            if isinstance(effect, dict) and "refused" in effect:
                refused[path] = f"has no effect with the {kind} {name}: {effect['refused']}"
    return refused


def _unlimited(requested: Mapping[str, Any], provider: str) -> Iterator[tuple[str, str]]:
    """Yield the keys that need a filesystem with quotas, with the reason, unless the nodes' data are on one."""
    for path, effect in provider_traits.traits(provider).get("keys", {}).items():
        if isinstance(effect, dict) and "quota" in effect and _set(requested, path):
            missing = quotas.missing(paths.environments())
            if missing:
                yield path, f"has no effect with the provider {provider}: {missing}; {effect['quota']}"


def warnings(profile: Profile) -> list[str]:
    """Return a line for each key of a resolved profile that has no effect, where that is harmless."""
    lines = []
    for kind, name, effects in _effects(profile["provider"], profile["kubernetes"]["engine"]):
        for path, effect in effects.items():
            if isinstance(effect, dict) and "warning" in effect:
                found = _set(cast(Mapping[str, Any], profile), path)
                lines += [f"{key}: has no effect with the {kind} {name}: {effect['warning']}" for key in found]
    return lines


def _effects(provider: str, engine: str) -> Iterator[tuple[str, str, KeyEffects]]:
    yield "provider", provider, provider_traits.traits(provider).get("keys", {})
    yield "engine", engine, engines.traits(engine).get("keys", {})


def _set(document: Mapping[str, Any], path: str) -> list[str]:
    """Return the keys at or below ``path`` that ``document`` sets to something else than their default."""
    found: list[tuple[str, Any]] = [("", document)]
    for part in path.split("."):
        found = [
            (f"{key}.{name}" if key else name, value[name])
            for key, value in found
            if isinstance(value, Mapping)
            for name in (value if part == "*" else [part])
            if name in value
        ]
    defaults = {**data.read(_DEFAULTS), "kubernetes": {**data.read(_DEFAULTS)["kubernetes"], **_version()}}
    return [leaf for key, value in found for leaf in _differing(key, value, _below(defaults, path))]


def _version() -> dict[str, str]:
    return {"version": data.read("versions")["default"]}


def _below(defaults: Any, path: str) -> Any:
    """Return the default of a key; None for one of a named thing, which has no default of its own."""
    for part in path.split("."):
        defaults = defaults.get(part) if isinstance(defaults, Mapping) else None
    return defaults


def _differing(key: str, value: Any, default: Any) -> list[str]:
    if value == default or value in (None, {}, []):
        return []
    if isinstance(value, Mapping) and isinstance(default, Mapping):
        return [leaf for name, item in value.items() for leaf in _differing(f"{key}.{name}", item, default.get(name))]
    return [key]
