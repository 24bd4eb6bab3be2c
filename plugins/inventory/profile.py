# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one place where a profile becomes hosts and groups."""

from __future__ import annotations

DOCUMENTATION = r"""
name: profile
short_description: Hosts and groups of a devenv profile
version_added: 0.1.0
author:
  - devenv maintainers (@devenv)
description:
  - Makes the hosts, groups and variables of the profile that the extra variable C(profile) names.
  - With C(devenv_name) alone it reads the state folder of that environment, and lays C(devenv_overrides) over the
    profile that it finds there. An environment that is yet to be made from C(devenv_snapshot) has the profile that was
    saved. With none of these, the inventory is empty.
  - Extra variables that it reads are C(profile) (a name or a file), C(devenv_name) (by default the name or the file's
    stem), C(devenv_overrides) (a mapping of paths of the profile to values), C(devenv_snapshot) (a name) and
    C(devenv_home) (by default E(DEVENV_HOME)).
requirements:
  - jsonschema
options:
  plugin:
    description: Marks the file as one for this plugin.
    type: str
    required: true
    choices: [devenv.lab.profile]
"""

EXAMPLES = r"""
---
# inventories/profile/devenv.yml, the whole file. Use: ansible-inventory -i inventories/profile -e profile=aio --list
plugin: devenv.lab.profile
"""

import json
import os
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin
from ansible.template import trust_as_template
from ansible.utils.display import Display
from ansible.utils.vars import load_extra_vars
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory as hosts
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import ssh_options, state
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.types import Inventory, NetworkPlan
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import amend
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import names as profile_names
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile

display = Display()

_READ = ("profile", "devenv_name", "devenv_overrides", "devenv_home", "devenv_snapshot")


class InventoryModule(BaseInventoryPlugin):
    """Reads extra variables, so that plain ``ansible-playbook -e profile=NAME`` is all it takes."""

    NAME = "devenv.lab.profile"

    def verify_file(self, path: str) -> bool:
        return bool(super().verify_file(path)) and path.endswith((".yml", ".yaml"))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        # Extra variables are tagged text; the logic takes and stores plain JSON types.
        given = load_extra_vars(loader)
        extra = json.loads(json.dumps({key: given[key] for key in _READ if key in given}, default=str))
        try:
            found = _wanted(extra)
        except DevenvError as error:
            raise AnsibleParserError(f"{error} [{error.reason.id}]") from None
        if found is not None:
            _fill(inventory, found)


def _fill(inventory: Any, found: Inventory) -> None:
    for key, value in found["vars"].items():
        inventory.set_variable("all", key, _tagged(value))
    for host, variables in found["hosts"].items():
        inventory.add_host(host)
        for key, value in variables.items():
            inventory.set_variable(host, key, _tagged(value))
    for group, members in found["groups"].items():
        inventory.add_group(group)
        for host in members:
            inventory.add_host(host, group=group)


def _wanted(extra: dict[str, Any]) -> Inventory | None:
    """The inventory that the extra variables ask for; None when they ask for none."""
    asked, name = _text(extra, "profile"), _text(extra, "devenv_name")
    overrides = extra.get("devenv_overrides") or {}
    if not isinstance(overrides, dict):
        raise DevenvError("profile_invalid", "must be a mapping of paths to values", where="devenv_overrides")
    if name:
        profile_names.validate(name)
    resolved = resolve(asked, overrides=overrides) if asked else None
    if resolved is not None:
        name = name or resolved["name"]
    if not name:
        return None
    home = _text(extra, "devenv_home")
    folder = paths.environment(name, {**os.environ, "DEVENV_HOME": home} if home else os.environ)
    if resolved is None:
        snapshot = _text(extra, "devenv_snapshot")
        if not snapshot or (folder / "profile.yml").exists():
            return _stored(folder, overrides)
        resolved = _saved(snapshot, folder, overrides)
        if resolved is None:
            return None
    network = state.read_network(folder)
    return _built(resolved, network, folder)


def _stored(folder: Path, overrides: dict[str, Any]) -> Inventory | None:
    """What the state folder says, with ``overrides`` laid over it; None when there is none. A broken one must not be in
    the way of taking it down."""
    try:
        resolved, network = state.read_profile(folder), state.read_network(folder)
        if resolved is None:
            return None
        if not overrides:
            return _built(resolved, network, folder)
    except (DevenvError, KeyError, TypeError) as error:
        display.warning(f"The environment's state is not used: {error}")
        return None
    return _built(amend.amend(resolved, overrides), network, folder)


def _saved(snapshot: str, folder: Path, overrides: dict[str, Any]) -> Profile | None:
    """The profile that an environment gets with a snapshot; None when there is none of that name."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import begin, catalogue

    home = folder.parent.parent
    if snapshot not in catalogue.names(home):
        # One that is to be saved has no profile to give: the play says what is missing.
        return None
    return begin.profile_of(catalogue.read(home, snapshot), overrides)


def _built(resolved: Profile, network: NetworkPlan | None, folder: Path) -> Inventory:
    if network is not None:
        ssh_options.prepare_control_folder(folder)
    return hosts.build(resolved, network, folder)


def _text(extra: dict[str, Any], key: str) -> str:
    value = extra.get(key)
    return "" if value is None else str(value)


def _tagged(value: Any) -> Any:
    """``value`` for Ansible: text without a template counts as trusted, so that listings do not mark it as unsafe."""
    if isinstance(value, dict):
        return {key: _tagged(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_tagged(inner) for inner in value]
    return trust_as_template(value) if isinstance(value, str) and "{" not in value else value
