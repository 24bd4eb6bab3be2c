# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: kube_objects
short_description: Apply a set of objects to clusters, and prune what is no longer in the set
version_added: 0.1.0
description:
  - Runs on the controller, once for all clusters and objects, and uses each cluster's API with the kubeconfig in the
    state directory.
  - Objects are applied in order by server-side apply with the field manager C(devenv). They can be of any kind that the
    API serves, custom resources included.
  - CustomResourceDefinitions are applied first, and the other objects once these are established.
  - Former members of the set are removed in reverse order. The ConfigMap C(devenv-NAME) in C(kube-system) lists the
    members, which carry the label C(devenv.lab/set).
  - An existing object without that label belongs to someone else. The task then writes nothing at all.
options:
  nodes: {description: Names of nodes; the task applies to their clusters., type: list, elements: str, required: true}
  name: {description: Name of the set., type: str, required: true}
  objects: {description: The objects. An empty list removes the whole set., type: list, elements: dict, required: true}
  timeout: {description: Seconds during which unanswered requests are repeated., type: float, default: 60}
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode: {support: full, description: Applies the objects as a dry run of the API server.}
  diff_mode: {support: full, description: "Shows each object that changes, without its status."}
"""

EXAMPLES = r"""
- name: Ensure that the set is one namespace
  devenv.lab.kube_objects:
    nodes: "{{ groups['nodes'] }}"
    name: mine
    objects:
      - apiVersion: v1
        kind: Namespace
        metadata: {name: mine}

- name: Remove the set
  devenv.lab.kube_objects:
    nodes: "{{ groups['nodes'] }}"
    name: mine
    objects: []
"""

RETURN = r"""
applied:
  description: Objects that were created or changed.
  returned: success
  type: list
  elements: str
  sample: ["StorageClass local-path"]
removed: {description: Objects that were removed., returned: success, type: list, elements: str}
"""
