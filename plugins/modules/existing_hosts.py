# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: existing_hosts
short_description: Prepare existing hosts as nodes, and restore them afterwards
version_added: 0.1.0
description:
  - Works on all hosts of an environment at the same time, over ssh from the controller. The hosts are those of the
    inventory's group C(nodes); their variables define the connections.
  - A host is rejected, before anything changes on any of them, if it does not answer, refuses the login, presents
    another host key than C(known_hosts) has, belongs to another cluster or environment, or lacks something.
  - V(present) installs the bundle's binaries and images on the hosts that lack them and writes C(network.yml).
    V(absent) removes everything that was installed on the hosts and restores their previous state.
extends_documentation_fragment: [devenv.lab.attributes, devenv.lab.nodes]
options:
  version: {description: Kubernetes version of the bundle. Required for V(present) and V(upgraded)., type: str}
"""

EXAMPLES = r"""
---
- name: Prepare the hosts
  devenv.lab.existing_hosts:
    environment: lab
    state: present
    version: 1.36.3
  register: provider_result
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
