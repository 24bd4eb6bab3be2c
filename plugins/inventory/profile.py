# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Turn a profile into hosts and groups."""

from __future__ import annotations

DOCUMENTATION = r"""
name: profile
short_description: Hosts and groups of a devenv profile
version_added: 0.1.0
author:
  - devenv maintainers (@devenv)
description:
  - Provides the hosts, groups and variables of the profile in the extra variable C(profile).
  - With C(devenv_name) alone it reads the state directory of that environment, and applies C(devenv_overrides) to the
    profile stored there. An environment that is still to be created from C(devenv_snapshot) has the saved profile.
    With none of these variables, the inventory is empty.
  - It reads the extra variables C(profile) (a name or a file), C(devenv_name) (default, the profile's name or the
    file's stem), C(devenv_overrides) (a mapping of profile paths to values), C(devenv_provider), C(devenv_engine) and
    C(devenv_kubernetes_version) (short for the overrides C(provider), C(kubernetes.engine), C(kubernetes.version)),
    C(devenv_snapshot) (a name) and C(devenv_home) (default, E(DEVENV_HOME)).
requirements:
  - jsonschema
options:
  plugin:
    description: Marks the file as a source of this plugin.
    type: str
    required: true
    choices: [devenv.lab.profile]
"""

EXAMPLES = r"""
---
# The whole file inventories/profile/devenv.yml. Use: ansible-inventory -i inventories/profile -e profile=aio --list
plugin: devenv.lab.profile
"""

import json
import os
from pathlib import Path
from typing import Any

from ansible import context
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
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import amend, overrides
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import names as profile_names
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile
from ansible_collections.devenv.lab.plugins.plugin_utils.variables import check, kept

display = Display()

_READ = ("profile", "devenv_name", "devenv_overrides", "devenv_home", "devenv_snapshot", *overrides.SHORT)


class InventoryModule(BaseInventoryPlugin):
    """Reads extra variables, so that plain ``ansible-playbook -e profile=NAME`` suffices."""

    NAME = "devenv.lab.profile"

    def verify_file(self, path: str) -> bool:
        return bool(super().verify_file(path)) and path.endswith((".yml", ".yaml"))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        # Extra variables are tagged text; the logic uses and stores plain JSON types.
        variables = load_extra_vars(loader)
        extra = json.loads(json.dumps({key: variables[key] for key in _READ if key in variables}, default=str))
        try:
            check.require_options(variables, context.CLIARGS.get("extra_vars") or ())
            content = _content(extra)
            check.require_roles(variables, content["vars"] if content else {})
        except DevenvError as error:
            raise AnsibleParserError(f"{error} [{error.reason.id}]") from None
        if content is not None:
            _fill(inventory, content)


def _fill(inventory: Any, content: Inventory) -> None:
    for key, value in content["vars"].items():
        inventory.set_variable("all", key, _tagged(value))
    for host, variables in content["hosts"].items():
        inventory.add_host(host)
        for key, value in variables.items():
            inventory.set_variable(host, key, _tagged(value))
    for group, members in content["groups"].items():
        inventory.add_group(group)
        for host in members:
            inventory.add_host(host, group=group)


def _content(extra: dict[str, Any]) -> Inventory | None:
    """Return the inventory that the extra variables select; None if they select none."""
    profile, name, home, snapshot = (
        str(extra.get(key) or "") for key in ("profile", "devenv_name", "devenv_home", "devenv_snapshot")
    )
    changes = overrides.of_variables(extra, stored=not profile and not snapshot)
    if name:
        profile_names.validate(name)
    resolved = resolve(profile, overrides=changes) if profile else None
    if resolved is not None:
        name = name or resolved["name"]
    if not name:
        return None
    folder = paths.environment(name, {**os.environ, "DEVENV_HOME": home} if home else os.environ)
    if resolved is None:
        if not snapshot or (folder / "profile.yml").exists():
            return _stored(folder, changes)
        resolved = _saved(snapshot, folder, changes)
    return _built(resolved, state.read_network(folder), folder) if resolved else None


def _stored(folder: Path, changes: dict[str, Any]) -> Inventory | None:
    """Return the inventory of the state directory with ``changes`` applied; None without a profile there.

    A broken state is a warning only: it must not prevent the removal of the environment.
    """
    try:
        resolved, network = state.read_profile(folder), state.read_network(folder)
        if resolved is None or not changes:
            return _built(resolved, network, folder) if resolved else None
    except (DevenvError, KeyError, TypeError) as error:
        display.warning(f"The environment's state is not used: {error}")
        return None
    return _built(amend.amend(resolved, changes), network, folder)


def _saved(snapshot: str, folder: Path, changes: dict[str, Any]) -> Profile | None:
    """Return the profile that an environment gets from a snapshot; None if the snapshot does not exist."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import begin, catalogue

    home = folder.parent.parent
    if snapshot not in catalogue.names(home):
        # It may be about to be saved; otherwise, the play reports that it is missing.
        return None
    return begin.profile_of(catalogue.read(home, snapshot), changes)


def _built(resolved: Profile, network: NetworkPlan | None, folder: Path) -> Inventory:
    if network is not None:
        ssh_options.prepare_control_folder(folder)
    return hosts.build(resolved, network, folder, variables=kept.read(folder))


def _tagged(value: Any) -> Any:
    """Mark text without a template as trusted, so that listings do not show it as unsafe."""
    if isinstance(value, dict):
        return {key: _tagged(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_tagged(inner) for inner in value]
    return trust_as_template(value) if isinstance(value, str) and "{" not in value else value
