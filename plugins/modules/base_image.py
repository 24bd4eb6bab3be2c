# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: base_image
short_description: Build, list and remove base images, the variants of the node image
version_added: 0.2.0
description:
  - A base image is the node image with further packages and files, or a root filesystem of your own. Nodes that name it
    (C(nodes.NODE.base_image) of a profile) start from it. Images with equal content are built once.
  - It is recorded in the directory C(base-images) of E(DEVENV_HOME), with copies of its files.
  - Runs on the controller; needs root there.
options:
  action:
    aliases: [verb]
    description: What to do.
    type: str
    required: true
    choices: [build, list, remove]
  name: {description: Name of the base image., type: str, default: ""}
  packages: {description: Debian packages beyond those of a node., type: list, elements: str, default: []}
  files: {description: "Files; path on the node to path on the controller.", type: dict, default: {}}
  rootfs:
    description: Archive (tar) of a root filesystem with Debian that has the packages of a node, instead of O(packages).
    type: path
  node:
    description:
      - With V(build), what every node has, as the options C(suite), C(mirror), C(packages), C(masked) and C(files) of
        M(devenv.lab.podman_image).
    type: dict
    default: {}
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode:
    description: Reports whether something would change, and fails if V(remove) would.
    support: full
"""

EXAMPLES = r"""
- name: Remove a base image
  devenv.lab.base_image:
    action: remove
    name: tools
"""

RETURN = r"""
base_images:
  description: Each base image (name, digest, made, packages, files, rootfs, images, bytes, environments).
  returned: with V(list)
  type: list
  elements: dict
digest: {description: Identifies the content., returned: with V(build), type: str}
images: {description: References of the removed images., returned: with V(remove), type: list, elements: str}
environments:
  description: Environments whose nodes keep the former content.
  returned: with V(build)
  type: list
  elements: str
"""
