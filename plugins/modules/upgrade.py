# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: upgrade
short_description: Plan, prepare and record the upgrade of an environment to another version of Kubernetes
version_added: 0.1.0
description:
  - Runs on the controller, with the state folder (C(devenv_state)), the profile in it (C(devenv_profile)) and the
    connections of the nodes. M(devenv.lab.kubeadm_upgrade) is what changes a node.
options:
  action:
    aliases: [verb]
    description:
      - V(plan) fails when the version cannot be had, is the same, older, or not the next minor, when another upgrade
        has not come to its end, or when a cluster is not whole. Otherwise it says what would be done.
      - V(deliver) brings the programs and images of the bundle to all nodes that lack them, then notes that the upgrade
        has begun.
      - V(finish) writes the new version into the environment's profile and takes the note away.
    type: str
    required: true
    choices: [plan, deliver, finish]
  version: {description: The new version of Kubernetes., type: str, default: ""}
  running: {description: "Names of the nodes that run, for V(plan).", type: list, elements: str, default: []}
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode: {support: full, description: "Nodes are looked at, and nothing is written."}
"""

EXAMPLES = r"""
- name: See what would be done
  devenv.lab.upgrade:
    action: plan
    version: 1.36.3
    running: "{{ groups['live'] }}"
"""

RETURN = r"""
plan: {description: "What is done, in its order.", returned: with O(action=plan), type: dict}
first:
  description: Names of the nodes that upgrade their cluster's own objects, one a cluster.
  returned: with O(action=plan)
  type: list
  elements: str
outdated:
  description: Names of images that the new version has no use for.
  returned: with O(action=plan)
  type: list
  elements: str
programs: {description: "Programs of the new version, name to sha256.", returned: with O(action=deliver), type: dict}
delivered: {description: What was brought to each node., returned: with O(action=deliver), type: dict}
"""
