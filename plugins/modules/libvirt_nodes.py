# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: libvirt_nodes
short_description: Make, start, stop and end the nodes of an environment as virtual machines
version_added: 0.1.0
description:
  - Works on all nodes of an environment and finds them by the metadata of their definitions.
  - The environment has a libvirt driver of its own; a libvirtd of the host is neither needed nor touched.
  - Runs on the controller; needs root, virsh and QEMU there.
author:
  - devenv maintainers (@devenv)
attributes:
  check_mode:
    description: Reports what would change and changes nothing.
    support: full
  diff_mode:
    description: Has no content to show.
    support: none
options:
  environment:
    description: Name of the environment.
    type: str
    required: true
  verb:
    description:
      - What to do. V(create) makes what is missing, starts what is stopped and leaves alone what runs.
      - V(destroy) needs no state folder.
      - V(snapshot) and V(change_address) are refused.
    type: str
    choices: [create, start, stop, status, destroy, remove, snapshot, change_address]
    required: true
  image:
    description: Folder of the image, as M(devenv.lab.libvirt_image) returned it. Needed for V(create).
    type: str
  images_disk:
    description: Disk of images, as M(devenv.lab.libvirt_image) returned it, for nodes that run Kubernetes.
    type: str
    default: ""
  kvm:
    description: Whether the nodes run by KVM, for V(create).
    type: bool
    default: false
  grace:
    description: Seconds that a node gets to shut down, for V(stop).
    type: int
    default: 90
  names:
    description: Nodes to remove, for V(remove).
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
---
- name: Make the nodes of the environment
  devenv.lab.libvirt_nodes:
    environment: lab
    verb: create
    image: /root/.cache/devenv/virtual-machines/root-0123456789ab
"""

RETURN = r"""
nodes:
  description: Names of the nodes that run.
  returned: always
  type: list
  elements: str
made:
  description: Nodes that were made.
  returned: when something was done
  type: list
  elements: str
notes:
  description: What is worth telling a person.
  returned: always
  type: list
  elements: str
"""
