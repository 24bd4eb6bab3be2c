# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: members
short_description: Manage nodes that join an environment, leave it or are recreated
version_added: 0.1.0
description:
  - Runs on the controller, for all O(nodes) in one call, with the state directory (C(devenv_state)) and its profile.
options:
  action:
    description:
      - V(list) returns the state of all nodes.
      - V(add) and V(remove) add O(nodes) to the environment's stored profile, or remove them from it. They fail if that
        is impossible. The stages that follow create or remove the machines.
      - V(check) fails if O(nodes) cannot leave their clusters one by one without a cluster losing its last control
        plane node or its etcd quorum.
      - V(bootstrap) fails if the cluster of the task's host has been created before, because an empty one would replace
        it. With O(recreate), it removes the record of that cluster.
      - V(query) returns which of O(nodes) answer ssh and which are registered in a cluster.
      - V(leave) removes O(nodes) from the record of their clusters' members, before their machines are removed.
      - V(forget) removes those of O(nodes) that are no longer in the profile from the state directory, after that.
    type: str
    required: true
    choices: [list, add, remove, check, bootstrap, query, leave, forget]
  nodes:
    description: Names of nodes. Required except for V(list) and V(add); V(add) without names adds the next worker.
    type: list
    elements: str
    default: []
  keys:
    description: Keys of the profile that each new node gets, by dotted path below the node, for V(add).
    type: dict
    default: {}
  running:
    description: Names of all running nodes of the environment, for V(list), V(check) and V(query).
    type: list
    elements: str
    default: []
  recreate:
    description: Whether V(bootstrap) accepts that a cluster is created again, empty.
    type: bool
    default: false
  timeout:
    description: Seconds to wait for an answer of a running node (V(query)) or of a cluster (V(list)).
    type: float
    default: 5
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode:
    support: full
    description: V(list), V(check) and V(query) only read; the others report what they would change.
"""

EXAMPLES = r"""
- name: Refuse to remove a node that etcd needs for its quorum
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
  description: State of each node (name, group, cluster, container, kubernetes, addresses, leaving).
  returned: with O(action=list)
  type: list
  elements: dict
names:
  description: The nodes of the profile after the change.
  returned: with O(action=add) and O(action=remove)
  type: list
  elements: str
answering: {description: Those of O(nodes) that answer ssh., returned: with O(action=query), type: list, elements: str}
joined:
  description: Those of O(nodes) whose cluster came up once, in the order in which they must leave it.
  returned: with O(action=query)
  type: list
  elements: str
forgotten:
  description: Those of O(nodes) that were removed from the state directory.
  returned: with O(action=forget)
  type: list
  elements: str
"""
