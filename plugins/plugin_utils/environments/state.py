"""The state directory of an environment: find it, read and write its files (docs/design/state.md)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import data, files, paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory, lock, runs
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.lock import Holder
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.types import NetworkPlan
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import names
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile
from ansible_collections.devenv.lab.plugins.plugin_utils.variables import kept

# What every reader of the two files relies on.
_PROFILE = {"profile": str, "name": str, "provider": str, "kubernetes": dict, "clusters": dict, "nodes": list}
_NETWORK = {"subnets": dict, "clusters": dict, "nodes": dict}
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@dataclass(frozen=True)
class State:
    """The content of a state directory. ``last_run`` and ``failure`` are the newest run's summary.json and
    failure.json; ``holder`` is the process that works on the environment now.
    """

    name: str
    folder: Path
    profile: Profile | None
    network: NetworkPlan | None
    run_dir: Path | None
    last_run: dict[str, Any] | None
    failure: dict[str, Any] | None
    holder: Holder | None


def environments(home: Path) -> list[str]:
    """Return the names of the environments with a state directory."""
    folders = (home / "environments").glob("*")
    return sorted(folder.name for folder in folders if folder.is_dir() and names.is_name(folder.name))


def folder_of(name: str, env: Mapping[str, str] | None = None) -> Path:
    """Return the state directory of the environment ``name``. Raises DevenvError name_invalid."""
    return paths.environment(names.validate(name), os.environ if env is None else env)


def read(folder: Path) -> State:
    """Read the state of an environment. Missing parts are None; for a missing directory, all are."""
    newest = next(reversed(runs.folders(folder)), None)
    holder = lock.read(folder)
    return State(
        name=folder.name,
        folder=folder,
        profile=read_profile(folder),
        network=read_network(folder),
        run_dir=newest,
        last_run=files.read_json(newest / "summary.json", dict) if newest else None,
        failure=files.read_json(newest / "failure.json", dict) if newest else None,
        holder=holder if holder is not None and lock.is_alive(holder) else None,
    )


def read_profile(folder: Path) -> Profile | None:
    """Return the environment's resolved profile; None without one. Raises DevenvError ``state_broken``."""
    profile = _yaml(folder / "profile.yml", _PROFILE)
    if profile and not all(isinstance(node, dict) and "name" in node for node in profile["nodes"]):
        raise DevenvError("state_broken", "nodes: must be a list of named nodes", where=str(folder / "profile.yml"))
    return cast("Profile | None", profile)


def stored_profile(folder: Path) -> Profile:
    """Return the environment's resolved profile. Raises DevenvError state_broken without one."""
    profile = read_profile(folder)
    if profile is None:
        raise DevenvError("state_broken", "profile.yml is missing", where=str(folder))
    return profile


def read_network(folder: Path) -> NetworkPlan | None:
    """Return the subnets and addresses that the provider chose (docs/design/network.md); None before that.
    Raises DevenvError ``state_broken``.
    """
    return cast("NetworkPlan | None", _yaml(folder / "network.yml", _NETWORK))


def _yaml(path: Path, keys: Mapping[str, type]) -> dict[str, Any] | None:
    """Return the mapping in a YAML file if it has ``keys`` with values of these types."""
    try:
        content = data.read(path)
    except FileNotFoundError:
        return None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DevenvError("state_broken", f"is not valid YAML: {str(error).splitlines()[0]}", where=str(path)) from None
    except OSError as error:
        raise DevenvError("state_broken", f"cannot be read: {error.strerror}", where=str(path)) from None
    if not isinstance(content, dict):
        raise DevenvError("state_broken", "must be a mapping", where=str(path))
    wrong = [key for key, kind in keys.items() if not isinstance(content.get(key), kind)]
    if wrong:
        raise DevenvError("state_broken", f"{wrong[0]}: is missing or has the wrong type", where=str(path))
    return content


def dump(content: Mapping[str, Any]) -> str:
    """Return a mapping as YAML, in its own order."""
    text: str = yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=120)
    return f"---\n{text}"


def write_profile(folder: Path, resolved: Profile) -> bool:
    """Write profile.yml; return whether it changed."""
    return files.write(folder / "profile.yml", dump(resolved))


def write_network(folder: Path, network: NetworkPlan) -> bool:
    """Write network.yml; return whether it changed."""
    return files.write(folder / "network.yml", dump(network))


def write_inventory(folder: Path) -> bool:
    """Write inventory.yml, for plain ``ansible -i``, from profile.yml and network.yml; return whether it changed."""
    built = inventory.build(stored_profile(folder), read_network(folder), folder, variables=kept.read(folder))
    return files.write(folder / "inventory.yml", inventory.to_yaml(built))
