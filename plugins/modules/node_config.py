#!/usr/bin/python
# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: node_config
short_description: Converge files, sysctls and units of a node in one call
version_added: 0.1.0
description:
  - Compares the desired state of many files, sysctls and systemd units with the actual state and changes what differs,
    in one call.
  - Files are written atomically. If a unit file changed, systemd reloads its units. A unit is restarted if a file that
    it reads changed or is newer than the unit's start (an earlier run was killed in between), or if the unit's own
    check fails.
  - A file that an earlier call wrote for the same part and that is no longer in it is removed.
  - With O(known), an action on the controller compares first and skips the call to a node that already matches.
options:
  parts:
    description: Desired state, in parts that each have an owner (a role).
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Owner of the part. Parts that a call does not name stay as they are.
        type: str
        required: true
      files:
        description: Files that must exist.
        type: list
        elements: dict
        default: []
        suboptions:
          path:
            description: Absolute path.
            type: str
            required: true
          content:
            description: Text of the file.
            type: str
          secret_content:
            description: Text of a file that no result, log or diff may show.
            type: str
          mode:
            description: Permissions, octal.
            type: str
            default: "0644"
          owner:
            description: Name of the owner.
            type: str
            default: root
          group:
            description: Name of the group.
            type: str
            default: root
      absent:
        description: Files that must not exist.
        type: list
        elements: str
        default: []
      sysctls:
        description: Kernel settings of the running node, by name. To keep them over a restart, add a file as well.
        type: dict
        default: {}
      units:
        description: systemd units, in the order in which they start.
        type: list
        elements: dict
        default: []
        suboptions:
          name:
            description: Name with its suffix.
            type: str
            required: true
          enabled:
            description: Whether it starts with the node. If unset, this stays as it is.
            type: bool
          state:
            description: If unset, the unit is neither started nor stopped, but an active one is restarted if necessary.
            type: str
            choices: [started, stopped]
          restart_on:
            description: Files that the unit reads when it starts.
            type: list
            elements: str
            default: []
          reload_on:
            description: Files that the unit reads when it starts or reloads. If one changed, the unit is reloaded.
            type: list
            elements: str
            default: []
          check:
            description: A program and its arguments, which exits with 0 if the unit works as it should.
            type: list
            elements: str
            default: []
  known: {description: What M(devenv.lab.node_status) returned for this node in this run., type: dict, default: {}}
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode: {description: Changes nothing and returns what would change., support: full}
  diff_mode:
    description: Compares files; those given by O(parts[].files[].secret_content) are only named.
    support: full
"""

EXAMPLES = r"""
- name: Configure the container runtime
  devenv.lab.node_config:
    parts:
      - name: container_runtime
        files:
          - path: /etc/containerd/config.toml
            content: "version = 3\n"
        units:
          - name: containerd.service
            enabled: true
            state: started
            restart_on: [/etc/containerd/config.toml]
"""

RETURN = r"""
written: {description: Files that were written., returned: success, type: list, elements: str}
removed: {description: Files that were removed., returned: success, type: list, elements: str}
sysctls: {description: Kernel settings that were changed., returned: success, type: list, elements: str}
reloaded: {description: Whether systemd reloaded its units., returned: success, type: bool}
enabled: {description: Units that were enabled., returned: success, type: list, elements: str}
disabled: {description: Units that were disabled., returned: success, type: list, elements: str}
started: {description: Units that were started., returned: success, type: list, elements: str}
restarted: {description: Units that were restarted., returned: success, type: list, elements: str}
stopped: {description: Units that were stopped., returned: success, type: list, elements: str}
refreshed: {description: Units that were reloaded., returned: success, type: list, elements: str}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.devenv.lab.plugins.module_utils.node import converge

FILE = {
    "path": {"type": "str", "required": True},
    "content": {"type": "str"},
    "secret_content": {"type": "str", "no_log": True},
    "mode": {"type": "str", "default": "0644"},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "root"},
}
UNIT = {
    "name": {"type": "str", "required": True},
    "enabled": {"type": "bool"},
    "state": {"type": "str", "choices": ["started", "stopped"]},
    "restart_on": {"type": "list", "elements": "str", "default": []},
    "reload_on": {"type": "list", "elements": "str", "default": []},
    "check": {"type": "list", "elements": "str", "default": []},
}
PART = {
    "name": {"type": "str", "required": True},
    "files": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": FILE,
        "mutually_exclusive": [("content", "secret_content")],
        "required_one_of": [("content", "secret_content")],
    },
    "absent": {"type": "list", "elements": "str", "default": []},
    "sysctls": {"type": "dict", "default": {}},
    "units": {"type": "list", "elements": "dict", "default": [], "options": UNIT},
}
ARGUMENTS = {
    "parts": {"type": "list", "elements": "dict", "required": True, "options": PART},
    "known": {"type": "dict", "default": {}},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        todo, changes = converge.converge(module.params["parts"], module.check_mode)
    except converge.UnitFailed as error:
        module.fail_json(msg=str(error), devenv_reason="node_unit_failed")
    except (OSError, ValueError, LookupError) as error:
        module.fail_json(msg=f"the node cannot be configured: {error}", devenv_reason="node_config_failed")
    difference = {"diff": changes} if module._diff else {}
    module.exit_json(**converge.result(todo), **difference)


if __name__ == "__main__":
    main()
