# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: members
short_description: Look after nodes that join an environment, leave it or are made anew
version_added: 0.1.0
description:
  - Runs on the controller, for all O(nodes) in one call, with the state folder (C(devenv_state)) and the
    profile in it.
options:
  action:
    description:
      - V(list) says what is known of all nodes.
      - V(add) and V(remove) write O(nodes) into the profile that the environment keeps, or take them out of it. They
        fail when that cannot be. The stages that follow make or end the machines.
      - V(check) fails when O(nodes) cannot be taken out of their clusters one by one without a cluster losing its last
        control plane node or its etcd losing its majority.
      - V(ask) says which of O(nodes) answer ssh and which a cluster knows.
      - V(leave) takes O(nodes) off the record of their clusters' members, before their machines are ended.
      - V(forget) takes those of O(nodes) that the profile no longer has out of the state folder, after that.
    type: str
    required: true
    choices: [list, add, remove, check, ask, leave, forget]
  nodes:
    description: Names of nodes. Required but for V(list) and V(add); V(add) without names adds the next worker.
    type: list
    elements: str
    default: []
  keys:
    description: Keys of the profile that each new node gets, by dotted path below the node, for V(add).
    type: dict
    default: {}
  running:
    description: Names of all nodes of the environment that run, for V(list), V(check) and V(ask).
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds that a running node (V(ask)) or a cluster (V(list)) has to answer.
    type: float
    default: 5
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode:
    support: full
    description: V(list), V(check) and V(ask) only read; the others say what they would change.
"""

EXAMPLES = r"""
- name: Refuse what would cost etcd its majority
  devenv.lab.members:
    action: check
    nodes: [master-1]
    running: "{{ groups['live'] }}"

- name: Add a worker with more memory
  devenv.lab.members:
    action: add
    keys: {memory: 4GiB}
"""

RETURN = r"""
nodes:
  description: What is known of each node (name, group, cluster, container, kubernetes, addresses, leaving).
  returned: with O(action=list)
  type: list
  elements: dict
names:
  description: The nodes that the profile has now.
  returned: with O(action=add) and O(action=remove)
  type: list
  elements: str
answering: {description: Those of O(nodes) that answer ssh., returned: with O(action=ask), type: list, elements: str}
joined:
  description: Those of O(nodes) whose cluster came up once, in the order in which they are to leave it.
  returned: with O(action=ask)
  type: list
  elements: str
forgotten:
  description: Those of O(nodes) that were taken out of the state folder.
  returned: with O(action=forget)
  type: list
  elements: str
"""
