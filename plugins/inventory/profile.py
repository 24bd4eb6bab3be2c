# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one place where a profile becomes hosts and groups."""

from __future__ import annotations

DOCUMENTATION = r"""
name: profile
short_description: Hosts and groups of a devenv profile
version_added: 0.1.0
author: devenv maintainers
description:
  - Makes the hosts, groups and variables of the profile that the extra variable C(profile) names.
  - With C(devenv_name) alone it reads what the environment's state folder holds. With neither, the inventory is empty.
  - "Extra variables that it reads: C(profile) (a name or a file), C(devenv_name) (default: the profile's name or the file's
    stem), C(devenv_overrides) (a mapping of paths of the profile to values), C(devenv_home) (default: E(DEVENV_HOME))."
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
from ansible.utils.display import Display
from ansible.utils.vars import load_extra_vars

from ansible_collections.devenv.lab.plugins.plugin_utils import inventory, paths, profile, profile_document
from ansible_collections.devenv.lab.plugins.plugin_utils.errors import DevenvError

display = Display()


class InventoryModule(BaseInventoryPlugin):
    NAME = "devenv.lab.profile"

    def verify_file(self, path: str) -> bool:
        return super().verify_file(path) and path.endswith((".yml", ".yaml"))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        # Extra variables are tagged text; the logic takes and stores plain JSON types.
        extra = json.loads(json.dumps(dict(load_extra_vars(loader)), default=str))
        try:
            found = _hosts(extra)
        except DevenvError as error:
            raise AnsibleParserError(f"{error} [{error.reason.id}]") from None
        if found:
            self._fill(found)

    def _fill(self, found: dict[str, Any]) -> None:
        for key, value in found["vars"].items():
            self.inventory.set_variable("all", key, value)
        for host, variables in found["hosts"].items():
            self.inventory.add_host(host)
            for key, value in variables.items():
                self.inventory.set_variable(host, key, value)
        for group, hosts in found["groups"].items():
            self.inventory.add_group(group)
            for host in hosts:
                self.inventory.add_host(host, group=group)


def _hosts(extra: dict[str, Any]) -> dict[str, Any] | None:
    """The inventory that the extra variables ask for; None when they ask for none."""
    wanted, name = _text(extra, "profile"), _text(extra, "devenv_name")
    overrides = extra.get("devenv_overrides") or {}
    if not isinstance(overrides, dict):
        raise DevenvError("profile_invalid", "devenv_overrides must be a mapping of paths to values")
    if not wanted and not name:
        return None
    if name:
        profile.validate_name(name)
    resolved = profile.resolve(wanted, overrides=overrides) if wanted else None
    name = name or (resolved or {})["name"]
    env = {**os.environ, **({"DEVENV_HOME": extra["devenv_home"]} if _text(extra, "devenv_home") else {})}
    state = paths.environment(name, env)
    if resolved is None:
        resolved = _stored(state / "profile.yml")
    if resolved is None:
        return None
    network = _stored(state / "network.yml")
    if network:
        inventory.prepare_control_folder(state)
    return inventory.build(resolved, network, state, name)


def _text(extra: dict[str, Any], key: str) -> str:
    value = extra.get(key)
    return "" if value is None else str(value)


def _stored(path: Path) -> dict[str, Any] | None:
    return profile_document.read(path).data if path.exists() else None
