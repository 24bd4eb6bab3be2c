# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: expiry
short_description: Extend the life of an environment, or list the expired ones
version_added: 0.1.0
description:
  - Runs on the controller, with the state directory (C(devenv_state)). The variable C(devenv_ttl) of C(cluster.yml)
    lets an environment expire. An expired environment exists until it is removed.
options:
  action:
    description:
      - V(extend) lets the environment expire O(ttl) later. It fails if the environment does not expire.
      - V(list) returns the names of the expired environments.
    type: str
    required: true
    choices: [extend, list]
  ttl:
    description: A time such as V(30m), V(2h), V(7d) or V(1d12h); V(never) ends the expiry. For V(extend).
    type: str
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode: {description: Changes nothing., support: full}
"""

EXAMPLES = r"""
- name: Keep the environment for two more hours
  devenv.lab.expiry:
    action: extend
    ttl: 2h
"""

RETURN = r"""
expires:
  description: When the environment expires, in UTC and ISO 8601. Empty for never.
  returned: V(extend)
  type: str
expired: {description: Names of the expired environments., returned: V(list), type: list, elements: str}
"""
