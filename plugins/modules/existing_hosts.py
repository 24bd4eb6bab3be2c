#!/usr/bin/python
# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Documentation of the action plugin of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: existing_hosts
short_description: Take hosts that exist already as nodes, and leave them as they were
version_added: 0.1.0
description:
  - Works on all hosts of an environment at once, over ssh from the controller. The hosts are those of the inventory's
    group C(nodes); their connection is that of their variables.
  - A host is refused, before anything changes on any of them, when it does not answer, refuses the login, shows another
    host key than C(known_hosts) has, belongs to another cluster or environment, or lacks something.
options:
  environment:
    description: Name of the environment.
    type: str
    required: true
  verb:
    description:
      - V(preflight) looks at the hosts; V(create) brings the bundle's programs and images onto those that have not got
        them and writes C(network.yml); V(status) names those that are ours.
      - V(upgrade) notes that the hosts have the bundle of O(version), which an upgrade has brought.
      - V(remove) and V(destroy) take away all that was put on hosts and put back what was there before.
      - V(start), V(stop) and V(snapshot) are refused.
    type: str
    required: true
    choices: [preflight, create, status, start, stop, snapshot, upgrade, remove, destroy]
  version:
    description: Kubernetes version of the bundle. Required by V(create) and V(upgrade).
    type: str
    default: ""
  names:
    description: Nodes to act on. Required by V(remove).
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Hosts are looked at, and nothing is written.
    support: full
  diff_mode:
    description: There is no content to compare.
    support: none
author:
  - devenv maintainers (@devenv)
"""

EXAMPLES = r"""
- name: Have the hosts
  devenv.lab.existing_hosts:
    environment: lab
    verb: create
    version: 1.36.3
  register: provider_result
"""

RETURN = r"""
nodes:
  description: Names of nodes that can be worked on.
  returned: success
  type: list
  elements: str
made:
  description: Names of nodes that got programs and images.
  returned: success
  type: list
  elements: str
started:
  description: Always empty.
  returned: success
  type: list
  elements: str
stopped:
  description: Always empty.
  returned: success
  type: list
  elements: str
removed:
  description: Names of nodes whose hosts were left as they had been.
  returned: success
  type: list
  elements: str
notes:
  description: What people should know.
  returned: success
  type: list
  elements: str
"""
