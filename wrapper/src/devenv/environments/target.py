"""The environment that a run works on, and its desired profile."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile

from devenv import errors
from devenv.environments import names


@dataclass(frozen=True)
class Target:
    """The environment of a run, the variables for its playbook, and its resolved profile."""

    name: str
    variables: Mapping[str, Any]
    resolved: Profile
    # The file of a profile from standard input, removed with the target.
    folder: tempfile.TemporaryDirectory[str] | None = None


@errors.translated()
def resolve(
    profile_name: str | None,
    name: str | None,
    overrides: Mapping[str, Any] | None = None,
    *,
    snapshot: str | None = None,
    ttl: str | None = None,
    compare: bool = True,
) -> Target:
    """Return what `up` works on. The profile is ``profile_name``, else that of ``snapshot``, else the stored profile of
    an existing environment; ``overrides`` are applied to it. ``ttl``: the time after which the environment expires.

    Validates the name and the profile before Ansible starts. With ``compare``, also raises ProfileChangeRefused for a
    change that an existing environment does not support, and EnvironmentBusy if another run holds its lock.
    """
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import lock, stages
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import document as documents
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import names as profile_names
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve as resolve_profile
    from ansible_collections.devenv.lab.plugins.plugin_utils.records import expiry

    variables: dict[str, Any] = {"devenv_snapshot": snapshot} if snapshot else {}
    if ttl:
        expiry.parse(ttl)
        variables["devenv_ttl"] = ttl
    folder = None
    if profile_name == documents.STDIN:
        folder = tempfile.TemporaryDirectory(prefix="devenv-profile-")
        profile_name = _from_stdin(Path(folder.name))
    if profile_name:
        resolved = resolve_profile(profile_name, overrides=dict(overrides or {}))
        is_path = profile_names.is_path(profile_name)
        variables["profile"] = str(Path(profile_name).expanduser().absolute()) if is_path else profile_name
    elif snapshot:
        resolved = _of_snapshot(snapshot, overrides)
    else:
        name, resolved = _stored(name, overrides, compare)
    chosen = profile_names.validate(name or os.environ.get("DEVENV_NAME") or resolved["name"])
    if profile_name or snapshot:
        engines.require(resolved)
    if compare and (profile_name or snapshot or overrides):
        lock.check(paths.environment(chosen))
        stages.compare(paths.environment(chosen), resolved)
    changed = {"devenv_overrides": dict(overrides)} if overrides else {}
    return Target(chosen, {**variables, "devenv_name": chosen, **changed}, resolved, folder)


def _from_stdin(folder: Path) -> str:
    """Write the profile in standard input to a file in ``folder``, since Ansible cannot read it; return its path."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import document as documents
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import merged

    document = merged(documents.STDIN)
    name = document.pop("name", "devenv")
    path = folder / f"{name}.yml"
    path.write_text(json.dumps(document))
    return str(path)


def _of_snapshot(snapshot: str, overrides: Mapping[str, Any] | None) -> Profile:
    from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import begin, catalogue

    return begin.profile_of(catalogue.read(paths.home(), snapshot), overrides)


def _stored(name: str | None, overrides: Mapping[str, Any] | None, compare: bool) -> tuple[str, Profile]:
    """Return the name of an existing environment, and its stored profile with the ``overrides``."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import state, upgrade_record
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import amend

    if not (name or os.environ.get("DEVENV_NAME") or names.known()):
        raise _profile_not_given("no profile was given")
    chosen = names.choose(name)
    folder = paths.environment(chosen)
    resolved = state.read_profile(folder)
    if compare:
        upgrade_record.require_finished(folder)
    if resolved is None:
        raise _profile_not_given(f"no profile was given, and environment {chosen} has no stored profile", chosen)
    return chosen, amend.amend(resolved, overrides) if overrides else resolved


def _profile_not_given(message: str, name: str = "") -> errors.UsageError:
    advice = f"devenv up {f'-n {name} ' if name else ''}--profile aio; devenv profile list shows all"
    return errors.UsageError(message, advice=advice, reason="profile_not_given")
