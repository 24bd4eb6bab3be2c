"""Which environment a run is for, and the profile that it is to have."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile

from devenv import errors
from devenv.environments import names


@dataclass(frozen=True)
class Target:
    """The environment of a run, the variables for its playbook, and its profile (None: the state's own is kept)."""

    name: str
    variables: Mapping[str, Any] = field(default_factory=dict)
    resolved: Profile | None = None


def resolve(
    profile_name: str | None, name: str | None, overrides: Mapping[str, Any] | None = None, *, compare: bool = True
) -> Target:
    """What `up` works on. Without a profile it is an existing environment, whose own profile is kept, with
    ``overrides`` laid over it.

    Everything that can be wrong with name and profile is found here, before Ansible starts; with ``compare`` also a
    change that an existing environment cannot take (ProfileChangeRefused), and that someone else is at work on it
    (EnvironmentBusy).
    """
    if not profile_name:
        return _kept(name, overrides, compare)
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import names as profile_names
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve as resolve_profile

    with names.translated():
        resolved = resolve_profile(profile_name, overrides=dict(overrides or {}))
    given = str(Path(profile_name).expanduser().absolute()) if profile_names.is_path(profile_name) else profile_name
    return _named(resolved, name, overrides, {"profile": given}, compare=compare)


def from_snapshot(
    snapshot: str, profile_name: str | None, name: str | None, overrides: Mapping[str, Any] | None = None
) -> Target:
    """What `up --snapshot` works on; without a profile, with that of the snapshot. Raises UsageError."""
    if profile_name:
        goal = resolve(profile_name, name, overrides)
        return Target(goal.name, {**goal.variables, "devenv_snapshot": snapshot}, goal.resolved)
    from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import begin, catalogue

    with names.translated():
        resolved = begin.profile_of(catalogue.read(paths.home(), snapshot), overrides)
    return _named(resolved, name, overrides, {"devenv_snapshot": snapshot})


def _named(
    resolved: Profile,
    name: str | None,
    overrides: Mapping[str, Any] | None,
    variables: Mapping[str, Any],
    *,
    compare: bool = True,
) -> Target:
    """The environment that a profile is for, by ``name`` or the profile's own; with ``compare``, one that is there and
    cannot become this is refused.
    """
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import lock, stages
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import names as profile_names

    with names.translated():
        chosen = profile_names.validate(name or os.environ.get("DEVENV_NAME") or resolved["name"])
        engines.require(resolved)
        folder = paths.environment(chosen)
        if compare:
            lock.check(folder)
            stages.compare(folder, resolved)
    changed = {"devenv_overrides": dict(overrides)} if overrides else {}
    return Target(chosen, {**variables, "devenv_name": chosen, **changed}, resolved)


def _kept(name: str | None, overrides: Mapping[str, Any] | None, compare: bool) -> Target:
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import stages, state, upgrade_record

    if not (name or os.environ.get("DEVENV_NAME")) and not names.known():
        raise errors.UsageError(
            "no profile was given",
            advice="devenv up --profile aio; devenv profile list shows all",
            reason="profile_not_given",
        )
    chosen = names.choose(name)
    folder = paths.environment(chosen)
    with names.translated():
        resolved = state.read_profile(folder)
        if compare:
            upgrade_record.require_finished(folder)
    if resolved is None:
        raise errors.UsageError(
            f"no profile was given, and there is no environment {chosen} that has one",
            advice="devenv up --profile aio; devenv profile list shows all", reason="profile_not_given",
        )  # fmt: skip
    if not overrides:
        return Target(chosen, {"devenv_name": chosen}, resolved)
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import lock
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import amend

    with names.translated():
        wanted = amend.amend(resolved, overrides)
        if compare:
            lock.check(folder)
            stages.compare(folder, wanted)
    return Target(chosen, {"devenv_name": chosen, "devenv_overrides": dict(overrides)}, wanted)
