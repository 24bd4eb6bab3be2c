# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: image_load
short_description: Bring images from the controller to nodes
version_added: 0.1.0
description:
  - Runs on the controller. Streams each archive by ssh into the container runtime of all nodes at the same time.
  - Then every node is asked. The task fails, with the names of the nodes, when one lacks an image, or holds another
    than the others under its name.
options:
  images:
    description:
      - Archives as C(podman save) and C(docker save) write them or of OCI's form, or images of podman's local store.
    type: list
    elements: str
    required: true
  nodes:
    description: Names of the nodes. Their ssh variables say how they are reached.
    type: list
    elements: str
    required: true
  missing_only:
    description:
      - Leave nodes alone that hold every image of an archive, by name and digest, already.
      - Needs archives of OCI's form.
    type: bool
    default: false
  timeout: {description: "How long one archive may take, in seconds.", type: float, default: 600}
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode: {support: none, description: Skipped.}
"""

EXAMPLES = r"""
- name: Bring an image to all nodes
  devenv.lab.image_load:
    images:
      - localhost/shop:1
      - /srv/images/database.tar
    nodes: "{{ groups['nodes'] }}"
"""

RETURN = r"""
nodes:
  description: For each node the references and digests of the images that were loaded.
  returned: success
  type: dict
"""
