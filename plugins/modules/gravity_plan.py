# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: gravity_plan
short_description: Plan what a Gravity tarball installs on which node
version_added: 0.1.0
description:
  - Verifies the tarball's digest and reads its manifest, on the controller. The result is cached, so that a tarball
    is read once.
  - Fails before anything changes if Gravity would reject something later, such as an unknown node profile.
options:
  tarball: {description: The tarball on the controller., type: path, required: true}
  sha256: {description: Its digest., type: str, required: true}
  flavor:
    description: Flavor of the installation, one with a single node. If empty, the manifest's default, or the first one
      with a single node.
    type: str
    default: ""
  nodes:
    description: Hosts of the cluster, masters first. Their variables C(devenv_group) and C(devenv_node_type) are used.
    type: list
    elements: str
    required: true
  state:
    description: State directory of an environment, whose profile is updated to name this tarball. Empty for none.
    type: path
    default: ""
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode: {description: Changes nothing but the cache., support: full}
"""

EXAMPLES = r"""
- name: Plan the installation
  devenv.lab.gravity_plan:
    tarball: /srv/lab.tar
    sha256: 5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8
    nodes: [master-0, worker-0]
"""

RETURN = r"""
program: {description: "The program gravity of the tarball, on the controller.", returned: success, type: str}
version: {description: Version of the application., returned: success, type: str}
flavor: {description: Flavor of the installation., returned: success, type: str}
node_types: {description: Node profile by host., returned: success, type: dict}
"""
