# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: podman_image
short_description: Build the node image and the image store of the podman provider
version_added: 0.1.0
description:
  - Builds the Debian root, the node image with the binaries of a bundle, and the unpacked image store, each once per
    set of inputs.
  - Runs on the controller; needs root and podman there.
extends_documentation_fragment: [devenv.lab.attributes, devenv.lab.node_recipe]
options:
  archives:
    description: Archives with the images that single nodes have in addition to the bundle, by name of the node.
    type: dict
    default: {}
  base_images:
    description: Names of base images (M(devenv.lab.base_image)) whose node images are built as well.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
---
- name: Ensure the node image
  devenv.lab.podman_image:
    version: 1.36.3
    suite: bookworm
    packages: [systemd, openssh-server]
    masked: [systemd-udevd.service]
    files:
      /usr/local/sbin/node-init: /usr/share/devenv/node-init
"""

RETURN = r"""
image: {description: Reference of the node image., returned: always, type: str}
images: {description: "References of the node images of O(base_images), by name.", returned: always, type: dict}
root: {description: Reference of the image with the Debian root below the node image., returned: always, type: str}
store: {description: Directory of the image store., returned: always, type: str}
stores: {description: Directories of the image stores of the nodes in O(archives)., returned: always, type: dict}
"""
