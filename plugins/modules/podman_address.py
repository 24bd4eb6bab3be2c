# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: podman_address
short_description: Give a node that runs another address
version_added: 0.1.0
description:
  - Chooses an address, writes it into the state folder, and puts it on the node's link beside the old one; in the end
    it takes the old one away.
  - Runs on the controller; needs root and podman there.
options:
  environment: {description: Name of the environment., type: str, required: true}
  node: {description: "Name of the node, the only one of its cluster.", type: str, required: true}
  action:
    description: V(begin) adds the new addresses, V(end) removes those that are no longer the node's.
    type: str
    required: true
    aliases: [verb]
    choices: [begin, end]
  address:
    description: The new address, of any family; the other family's follows from it. Empty, the next that is free.
    type: str
    default: ""
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode: {support: full, description: "Refuses what cannot be done, and changes nothing."}
"""

EXAMPLES = r"""
- name: Give the node another address, beside its own
  devenv.lab.podman_address:
    environment: aio
    node: master-0
    action: begin
"""

RETURN = r"""
addresses:
  description: Addresses, with prefix length, that were added or taken away.
  returned: success
  type: list
  elements: str
"""
