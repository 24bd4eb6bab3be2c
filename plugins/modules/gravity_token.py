# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: gravity_token
short_description: Copy the join token of a Gravity cluster to the controller
version_added: 0.1.0
description:
  - Reads the cluster's token and the healthy masters on the master that it runs for, and keeps both in a private file
    on the controller while nodes join.
  - The token is never in a result.
options:
  path:
    description: The file on the controller, created with mode 0600. JSON with C(token) and C(peers).
    type: path
    required: true
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode: {description: Reads and writes nothing., support: full}
"""

EXAMPLES = r"""
- name: Read the token from a master
  devenv.lab.gravity_token:
    path: "{{ devenv_state }}/clusters/{{ devenv_cluster }}/join.json"
  delegate_to: master-0
"""

RETURN = r"""
path: {description: The file., returned: success, type: str}
masters: {description: Addresses of the healthy masters., returned: success, type: list, elements: str}
"""
