# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: libvirt_nodes
short_description: Create, start, stop and remove the nodes of an environment as virtual machines
version_added: 0.1.0
description:
  - Works on all nodes of an environment at the same time and finds them by the metadata of their definitions.
  - The environment has its own libvirt driver; a libvirtd of the host is neither needed nor touched.
  - Runs on the controller; needs root, virsh and QEMU there.
extends_documentation_fragment: [devenv.lab.attributes, devenv.lab.nodes]
options:
  image:
    description: Directory of the image, as returned by M(devenv.lab.libvirt_image). Required for V(present).
    type: str
  images_disk:
    description: Disk of images, as returned by M(devenv.lab.libvirt_image), for nodes that run Kubernetes.
    type: str
    default: ""
  kvm: {description: "Whether the nodes use KVM, with V(present).", type: bool, default: false}
  grace: {description: "Seconds that a node gets to shut down, with V(stopped).", type: int, default: 90}
"""

EXAMPLES = r"""
---
- name: Create the nodes of the environment
  devenv.lab.libvirt_nodes:
    environment: lab
    state: present
    image: /root/.cache/devenv/virtual-machines/root-0123456789ab
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
