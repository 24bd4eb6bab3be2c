# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: podman_nodes
short_description: Create, start, stop and remove the nodes of an environment as podman containers
version_added: 0.1.0
description:
  - Works on all nodes of an environment at the same time and finds them by their labels.
  - Runs on the controller; needs root and podman there.
extends_documentation_fragment: [devenv.lab.attributes, devenv.lab.nodes]
options:
  image: {description: "Node image, as returned by M(devenv.lab.podman_image). Required for V(present).", type: str}
  images: {description: "Images of nodes with a base image, by its name.", type: dict, default: {}}
  store: {description: "Image store, as returned by M(devenv.lab.podman_image). Required for V(present).", type: path}
  stores:
    description: Image stores of the nodes that get another one than O(store), by name.
    type: dict
    default: {}
"""

EXAMPLES = r"""
---
- name: Create the nodes of the environment
  devenv.lab.podman_nodes:
    environment: aio
    state: present
    image: localhost/devenv-node:0123456789ab
    store: /root/.cache/devenv/image-stores/0123456789ab
"""

RETURN = r"""
nodes: {description: Names of the running nodes., returned: always, type: list, elements: str}
made: {description: Nodes that were created., returned: when nodes were changed, type: list, elements: str}
started: {description: Nodes that were started., returned: when nodes were changed, type: list, elements: str}
stopped: {description: Nodes that were stopped., returned: when nodes were changed, type: list, elements: str}
removed: {description: Nodes that were removed., returned: when nodes were changed, type: list, elements: str}
states: {description: State of each existing node., returned: "with O(state=status), in check mode", type: dict}
notes: {description: Notes for the user., returned: always, type: list, elements: str}
"""
