# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: gravity_token
short_description: Bring what nodes need to join a Gravity cluster to the controller
version_added: 0.1.0
description:
  - Asks the master that it runs on for the cluster's token and for the masters that are healthy, and keeps both in a
    private file on the controller while nodes join.
  - The token is never in a result.
options:
  path:
    description: The file on the controller, made with mode 0600. JSON with C(token) and C(peers).
    type: path
    required: true
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode: {description: Nothing is asked or written., support: full}
"""

EXAMPLES = r"""
- name: Read the token from a master
  devenv.lab.gravity_token:
    path: "{{ devenv_state }}/clusters/{{ devenv_cluster }}/join.json"
  delegate_to: master-0
"""

RETURN = r"""
path: {description: The file., returned: success, type: str}
masters: {description: Addresses of the masters that are healthy., returned: success, type: list, elements: str}
"""
