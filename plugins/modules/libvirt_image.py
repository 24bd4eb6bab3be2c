# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: libvirt_image
short_description: Build what the virtual machines of the libvirt provider boot from
version_added: 0.1.0
description:
  - Builds a kernel, an initial ramdisk and a root filesystem from Debian packages and the binaries of a bundle, once
    per set of inputs. Tests once per boot of this host whether KVM boots such a kernel.
  - Runs on the controller; needs root there.
extends_documentation_fragment: [devenv.lab.attributes, devenv.lab.node_recipe]
options:
  hook:
    description: Hook of initramfs-tools that lists the modules of the initial ramdisk.
    type: path
    required: true
  store:
    description: Image store, as returned by M(devenv.lab.podman_image); empty if no node runs Kubernetes.
    type: str
    default: ""
  kvm:
    description: V(auto) uses KVM if it has been proved to boot a kernel.
    type: str
    choices: [auto, never]
    default: auto
"""

EXAMPLES = r"""
---
- name: Ensure the image of virtual machines
  devenv.lab.libvirt_image:
    version: 1.36.3
    suite: bookworm
    packages: [systemd, openssh-server, linux-image-cloud-amd64, initramfs-tools]
    masked: [getty.target]
    files:
      /usr/local/sbin/vm-init: /usr/share/devenv/vm-init
    hook: /usr/share/devenv/initramfs-hook
"""

RETURN = r"""
image: {description: "Directory of kernel, initial ramdisk and root filesystem.", returned: always, type: str}
images_disk:
  description: Filesystem with the images of Kubernetes, if O(store) is given.
  returned: always
  type: str
kvm: {description: Whether nodes use KVM; otherwise they are emulated., returned: always, type: bool}
"""
