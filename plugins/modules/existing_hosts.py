# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: existing_hosts
short_description: Take hosts that exist already as nodes, and leave them as they were
version_added: 0.1.0
description:
  - Works on all hosts of an environment at once, over ssh from the controller. The hosts are those of the inventory's
    group C(nodes); their connection is that of their variables.
  - A host is refused, before anything changes on any of them, when it does not answer, refuses the login, shows another
    host key than C(known_hosts) has, belongs to another cluster or environment, or lacks something.
  - V(present) brings the bundle's programs and images onto the hosts that lack them and writes C(network.yml).
    V(absent) takes away all that was put on hosts and puts back what was there before.
extends_documentation_fragment: [devenv.lab.attributes, devenv.lab.nodes]
options:
  version: {description: Kubernetes version of the bundle. Needed for V(present) and V(upgraded)., type: str}
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
nodes: {description: Names of the nodes that run., returned: always, type: list, elements: str}
made: {description: Nodes that were made., returned: when something was done, type: list, elements: str}
started: {description: Nodes that were started., returned: when something was done, type: list, elements: str}
stopped: {description: Nodes that were stopped., returned: when something was done, type: list, elements: str}
removed: {description: Nodes that were removed., returned: when something was done, type: list, elements: str}
states: {description: State of each node that exists., returned: "with O(state=status), in check mode", type: dict}
notes: {description: Notes for people., returned: always, type: list, elements: str}
"""
