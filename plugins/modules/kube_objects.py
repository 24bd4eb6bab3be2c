# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: kube_objects
short_description: Apply a set of objects to clusters, and remove what left the set
version_added: 0.1.0
description:
  - Runs on the controller, once for all clusters and objects, and asks each cluster's API by the kubeconfig in its
    state folder.
  - Objects are applied in their order by server-side apply with the field manager C(devenv). They can be of any kind
    that the API has, custom resources included.
  - CustomResourceDefinitions are applied first, and the others once these are established.
  - What the set held before and holds no longer is removed in reverse order. The ConfigMap C(devenv-NAME) of
    C(kube-system) lists the members, which carry the label C(devenv.lab/set).
  - An object that is there without that label belongs to someone else. Then nothing is written at all.
options:
  nodes: {description: "Names of nodes, whose clusters are meant.", type: list, elements: str, required: true}
  name: {description: Name of the set., type: str, required: true}
  objects: {description: "The objects. None, and the whole set is removed.", type: list, elements: dict, required: true}
  timeout: {description: Seconds for which requests without an answer are repeated., type: float, default: 60}
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode: {support: full, description: "Asks the API what it would store, and writes nothing."}
  diff_mode: {support: full, description: "Shows each object that changes, without its status."}
"""

EXAMPLES = r"""
- name: Have a namespace and nothing else in the set
  devenv.lab.kube_objects:
    nodes: "{{ groups['nodes'] }}"
    name: mine
    objects:
      - apiVersion: v1
        kind: Namespace
        metadata: {name: mine}

- name: Take the set away again
  devenv.lab.kube_objects:
    nodes: "{{ groups['nodes'] }}"
    name: mine
    objects: []
"""

RETURN = r"""
applied:
  description: Objects that were made or changed.
  returned: success
  type: list
  elements: str
  sample: ["StorageClass local-path"]
removed: {description: Objects that were removed., returned: success, type: list, elements: str}
"""
