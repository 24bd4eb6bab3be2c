"""The state folder of an environment: its name, and reading and writing what is in it (docs/design/state.md)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory, lock, runs
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.lock import Holder
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.types import NetworkPlan
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import names
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@dataclass(frozen=True)
class State:
    """What a state folder says. ``last_run`` and ``failure`` are the newest run's summary.json and failure.json;
    ``holder`` is who works on the environment now.
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
    """Names of the environments that have a state folder."""
    folder = home / "environments"
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and names.is_name(entry.name))


def folder_of(name: str, env: Mapping[str, str] | None = None) -> Path:
    """State folder of the environment ``name``, which is checked."""
    return paths.environment(names.validate(name), os.environ if env is None else env)


def read(folder: Path) -> State:
    """What is known of the environment. Missing parts are None; a folder that is not there gives all None."""
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
    """The resolved profile the environment was made with."""
    return cast("Profile | None", _yaml(folder / "profile.yml"))


def stored_profile(folder: Path) -> Profile:
    """Return the resolved profile the environment was made with. Raises DevenvError state_broken without one."""
    profile = read_profile(folder)
    if profile is None:
        raise DevenvError("state_broken", "there is no profile.yml", where=str(folder))
    return profile


def read_network(folder: Path) -> NetworkPlan | None:
    """Subnets and addresses the provider chose (docs/design/network.md)."""
    return cast("NetworkPlan | None", _yaml(folder / "network.yml"))


def _yaml(path: Path) -> dict[str, Any] | None:
    try:
        data = yaml.load(path.read_text(), Loader=_Loader)
    except FileNotFoundError:
        return None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DevenvError(
            "state_broken", f"not readable as YAML: {str(error).splitlines()[0]}", where=str(path)
        ) from None
    if not isinstance(data, dict):
        raise DevenvError("state_broken", "a mapping is expected", where=str(path))
    return data


def dump(data: Mapping[str, Any]) -> str:
    """``data`` as YAML in its own order."""
    text: str = yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=120)
    return f"---\n{text}"


def write_profile(folder: Path, resolved: Profile) -> bool:
    """Write profile.yml; return whether it changed."""
    return files.write(folder / "profile.yml", dump(resolved))


def write_network(folder: Path, network: NetworkPlan) -> bool:
    """Write network.yml; return whether it changed."""
    return files.write(folder / "network.yml", dump(network))


def write_inventory(folder: Path) -> bool:
    """Write inventory.yml from profile.yml and network.yml, for plain ``ansible -i``; return whether it changed."""
    built = inventory.build(stored_profile(folder), read_network(folder), folder)
    return files.write(folder / "inventory.yml", inventory.to_yaml(built))
