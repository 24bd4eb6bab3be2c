# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: snapshot
short_description: Save what an environment's clusters hold, and start another environment from it
version_added: 0.1.0
description:
  - A snapshot has the objects of each cluster, the data of apps on each node and the images that nodes have beyond the
    bundle. It stands below C(snapshots) of the folder that holds the environments, for its owner's eyes only.
  - Keys, certificates and tokens of the saved cluster are not kept.
  - Runs on the controller, and reaches the nodes by ssh with the variables of the inventory.
options:
  action:
    aliases: [verb]
    description:
      - V(list) says which snapshots there are, V(remove) removes the snapshot O(name).
      - V(save) saves the environment under O(name).
      - V(begin) looks at everything that could keep the environment from starting with the snapshot O(name), and puts
        it on record; without O(name) it only says what an earlier run began.
      - V(prepare) says what the provider needs, V(deliver) brings authorities, etcd's data and data of apps to
        O(nodes).
      - V(finish) says that the clusters are made, V(wait) waits until the pods are ready that were when it was saved.
    type: str
    required: true
    choices: [list, remove, save, begin, prepare, deliver, finish, wait]
  name: {description: Name of the snapshot., type: str, default: ""}
  nodes: {description: Names of the nodes., type: list, elements: str, default: []}
  force: {description: Whether to save a cluster that is not healthy., type: bool, default: false}
  encryption:
    description: What the keys of the new authorities are (C(encryptionAlgorithm) of kubeadm).
    type: str
    default: ECDSA-P256
  timeout: {description: Seconds that V(wait) waits., type: float, default: 300}
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode:
    description: Says whether something would be done, and finds what V(begin) would refuse.
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
  description:
    - What is known of each snapshot (name, profile, kubernetes, made, environment, nodes, images, bytes, state).
  returned: with V(list)
  type: list
  elements: dict
pending:
  description: Name of the snapshot that the environment is still to be made from, empty for none.
  returned: with V(begin) and V(prepare)
  type: str
archives:
  description: Path of the archive of further images, by node.
  returned: with V(save) and V(prepare)
  type: dict
path: {description: Folder of the snapshot., returned: with V(save), type: str}
bytes: {description: Size of the snapshot., returned: with V(save), type: int}
pods: {description: How many pods are ready., returned: with V(wait), type: int}
"""
