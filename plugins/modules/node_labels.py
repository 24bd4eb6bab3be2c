# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: node_labels
short_description: Apply the profile's labels, taints and pod ranges to the nodes of clusters
version_added: 0.1.0
description:
  - Runs on the controller, once for all nodes, and uses each cluster's API with the kubeconfig in the state directory.
  - The desired values are the host variables C(devenv_labels), C(devenv_taints) and C(devenv_pod_cidrs) of the profile
    inventory. Workers also get the label C(node-role.kubernetes.io/worker).
  - Waits until every node has a Node object. A node that already matches is not written.
  - The annotations C(devenv.lab/labels) and C(devenv.lab/taints) of a node record what this module set, with its
    values. What is no longer in the profile is removed if it still has that value. Other labels and taints stay.
  - A label or taint that someone else set to a value other than the desired one is a conflict; the task then writes
    nothing at all.
  - Taints with which a new node registers count as set by this module.
  - Pod ranges are set only on nodes that have none.
options:
  nodes: {description: Names of the nodes. Bare nodes are skipped., type: list, elements: str, required: true}
  timeout: {description: "Time limit of the wait for Node objects, in seconds.", type: float, default: 120}
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode: {support: full, description: "Only reads, and does not wait."}
  diff_mode:
    support: full
    description: Shows labels, taints, pod ranges and the record of what devenv set, for each node that changes.
"""

EXAMPLES = r"""
- name: Label the nodes
  devenv.lab.node_labels:
    nodes: "{{ groups['nodes'] }}"
"""

RETURN = r"""
nodes: {description: Names of the nodes that were changed., returned: success, type: list, elements: str}
absent:
  description: Names of the nodes that have no Node object yet (check mode only).
  returned: success
  type: list
  elements: str
"""
