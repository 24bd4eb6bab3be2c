# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: image_load
short_description: Load images from the controller into nodes
version_added: 0.1.0
description:
  - Runs on the controller. Streams each archive by ssh into the container runtime of all nodes at the same time.
  - An image whose name begins with C(localhost/), which podman puts before names without a registry, and one that was
    named otherwise in O(images), also get the name by which pods look for it.
  - Then checks every node. The task fails, with the names of the nodes, if one lacks an image, or has a different
    image under its name than the others.
options:
  images:
    description:
      - Archives in the format of C(podman save), C(docker save) or OCI, or images of podman's local store.
    type: list
    elements: str
    default: []
  nodes:
    description: Names of the nodes. Their ssh variables define the connections.
    type: list
    elements: str
    required: true
  missing_only:
    description:
      - Skip nodes that already have every image of an archive, by name and digest.
      - Needs archives in OCI format.
    type: bool
    default: false
  keep:
    description:
      - Keep the archives in the state directory (C(devenv_state)), for nodes that are added or recreated later.
    type: bool
    default: false
  kept:
    description: Also load the archives that were kept, into those of O(nodes) that lack one of their images.
    type: bool
    default: false
  timeout: {description: "Time limit for one archive, in seconds.", type: float, default: 600}
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode: {support: none, description: Skipped.}
"""

EXAMPLES = r"""
- name: Load two images into all nodes
  devenv.lab.image_load:
    images:
      - localhost/shop:1
      - /srv/images/database.tar
    nodes: "{{ groups['nodes'] }}"
"""

RETURN = r"""
nodes:
  description: For each node, the references and digests of the images that were loaded.
  returned: success
  type: dict
"""
