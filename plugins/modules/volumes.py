# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: volumes
short_description: Report the volumes that are lost with nodes, and release them
version_added: 0.1.0
description:
  - Runs on the controller. A volume is lost with a node if only pods on that node can use it
    (C(nodeAffinity) of the PersistentVolume).
options:
  action:
    description:
      - V(report) warns of each volume that would be lost with O(nodes), and names the others that their pods use.
      - V(release) removes the volumes that were on O(nodes), and creates their claims again, so that applications get
        new, empty volumes. Call it when the nodes or their disks are gone.
    type: str
    required: true
    choices: [report, release]
  nodes:
    description: Names of the nodes. Bare nodes have no volumes.
    type: list
    elements: str
    required: true
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode: {support: full, description: Removes nothing.}
"""

EXAMPLES = r"""
- name: Warn of the volumes on a node
  devenv.lab.volumes:
    action: report
    nodes: [worker-0]
"""

RETURN = r"""
volumes: {description: Names of the lost volumes., returned: success, type: list, elements: str}
"""
