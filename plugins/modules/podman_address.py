# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: podman_address
short_description: Change the address of a running node
version_added: 0.1.0
description:
  - Chooses an address, writes it to the state directory, and adds it to the node's link next to the old one. At the
    end, removes the old one.
  - Runs on the controller; needs root and podman there.
options:
  environment: {description: Name of the environment., type: str, required: true}
  node: {description: "Name of the node, the only one of its cluster.", type: str, required: true}
  action:
    description: V(begin) adds the new addresses, V(end) removes the old ones.
    type: str
    required: true
    aliases: [verb]
    choices: [begin, end]
  address:
    description: The new address, of any family; it determines that of the other family. If empty, the next free one.
    type: str
    default: ""
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode: {support: full, description: "Rejects what is impossible, and changes nothing."}
"""

EXAMPLES = r"""
- name: Add another address to the node
  devenv.lab.podman_address:
    environment: aio
    node: master-0
    action: begin
"""

RETURN = r"""
addresses:
  description: Addresses, with prefix length, that were added or removed.
  returned: success
  type: list
  elements: str
"""
