# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: node_labels
short_description: Put the profile's labels, taints and pod ranges on the nodes of clusters
version_added: 0.1.0
description:
  - Runs on the controller, once for all nodes, and asks each cluster's API by the kubeconfig in its state folder.
  - Wanted values are the host variables C(devenv_labels), C(devenv_taints) and C(devenv_pod_cidrs) of the profile
    inventory. Workers also get the label C(node-role.kubernetes.io/worker).
  - Waits until every node has a Node object. A node that is right already is not written to.
  - The annotations C(devenv.lab/labels) and C(devenv.lab/taints) of a node remember what this module set there, with
    its values. What leaves the profile is taken away when it still has that value. Labels and taints of others stay.
  - A label or taint that someone else set to another value than the wanted one is a conflict; then nothing is written
    at all.
  - Taints that a new node registered with count as set by this module.
  - Pod ranges are set where the node has none.
options:
  nodes: {description: Names of the nodes. Those of no cluster are left out., type: list, elements: str, required: true}
  timeout: {description: "How long to wait for Node objects, in seconds.", type: float, default: 120}
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode: {support: full, description: "Reads only, and waits for nothing."}
  diff_mode:
    support: full
    description: Shows labels, taints, pod ranges and what is on record as ours, of each node that changes.
"""

EXAMPLES = r"""
- name: Label the nodes
  devenv.lab.node_labels:
    nodes: "{{ groups['nodes'] }}"
"""

RETURN = r"""
nodes: {description: Names of the nodes that were written to., returned: success, type: list, elements: str}
absent:
  description: Names of the nodes that have no Node object yet (check mode only).
  returned: success
  type: list
  elements: str
"""
