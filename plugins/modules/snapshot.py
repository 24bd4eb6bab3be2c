# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: snapshot
short_description: Save the clusters of an environment, and start another environment from them
version_added: 0.1.0
description:
  - A snapshot includes the objects of each cluster, the data of apps on each node and the images that nodes have in
    addition to the bundle. It is in the directory C(snapshots) of E(DEVENV_HOME), and only its owner can read it.
  - Keys, certificates and tokens of the saved cluster are not kept.
  - Runs on the controller, and reaches the nodes by ssh with the variables of the inventory.
options:
  action:
    aliases: [verb]
    description:
      - V(list) returns the existing snapshots, V(remove) removes the snapshot O(name).
      - V(save) saves the environment as O(name).
      - V(begin) checks everything that could prevent the environment from starting from the snapshot O(name), and
        records it; without O(name) it only returns what an earlier run recorded.
      - V(prepare) returns what the provider needs, V(deliver) copies CAs, etcd's data and the data of apps to O(nodes).
      - V(finish) records that the clusters are created, V(wait) waits until the pods that were ready at the time of the
        snapshot are ready again.
    type: str
    required: true
    choices: [list, remove, save, begin, prepare, deliver, finish, wait]
  name: {description: Name of the snapshot., type: str, default: ""}
  nodes: {description: Names of the nodes., type: list, elements: str, default: []}
  clusters:
    description: With V(save), names of the only clusters to save, and their nodes. Empty for all.
    type: list
    elements: str
    default: []
  force: {description: Whether to save a cluster that is not healthy., type: bool, default: false}
  encryption:
    description: Algorithm of the new CA keys (C(encryptionAlgorithm) of kubeadm).
    type: str
    default: ECDSA-P256
  timeout: {description: Time limit of V(wait) in seconds., type: float, default: 300}
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode:
    description: Reports whether something would change, and fails if V(begin) would.
    support: full
"""

EXAMPLES = r"""
- name: Save the environment
  devenv.lab.snapshot:
    action: save
    name: with-data
    nodes: "{{ groups['nodes'] }}"
"""

RETURN = r"""
snapshots:
  description: Each snapshot (name, profile, kubernetes, made, environment, nodes, images, bytes, state).
  returned: with V(list)
  type: list
  elements: dict
pending:
  description: Name of the snapshot that the environment still has to be started from, or empty.
  returned: with V(begin) and V(prepare)
  type: str
archives:
  description: Path of the archive of additional images, by node.
  returned: with V(save) and V(prepare)
  type: dict
path: {description: Directory of the snapshot., returned: with V(save), type: str}
bytes: {description: Size of the snapshot., returned: with V(save), type: int}
pods: {description: Number of ready pods., returned: with V(wait), type: int}
"""
