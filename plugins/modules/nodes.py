# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: nodes
short_description: Create, start, stop and remove the nodes of an environment
version_added: 0.1.0
description:
  - Works on all nodes of an environment at the same time, with any provider (docs/design/providers.md).
  - Runs on the controller.
extends_documentation_fragment: [devenv.lab.attributes, devenv.lab.nodes]
options:
  provider:
    description: Name of the provider, by default that of the profile. V(absent) without it applies to every provider.
    type: str
  options: {description: The provider's own options., type: dict, default: {}}
"""

EXAMPLES = r"""
---
- name: Remove the nodes of an environment
  devenv.lab.nodes:
    provider: podman
    environment: aio
    state: absent
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
