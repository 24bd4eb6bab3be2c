# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: upgrade
short_description: Plan, prepare and record the upgrade of an environment to another Kubernetes version
version_added: 0.1.0
description:
  - Runs on the controller, with the state directory (C(devenv_state)), the profile in it (C(devenv_profile)) and the
    connections of the nodes. M(devenv.lab.kubeadm_upgrade) upgrades the nodes themselves.
options:
  action:
    aliases: [verb]
    description:
      - V(plan) fails if the version is unavailable, the same, older, or not the next minor version, if another upgrade
        is unfinished, or if a cluster is not healthy. Otherwise it returns the plan.
      - V(deliver) copies the binaries and images of the bundle to all nodes that lack them, then records that the
        upgrade has begun.
      - V(finish) writes the new version to the environment's profile and removes the record.
    type: str
    required: true
    choices: [plan, deliver, finish]
  version: {description: The new Kubernetes version., type: str, default: ""}
  running: {description: "Names of the running nodes, for V(plan).", type: list, elements: str, default: []}
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode: {support: full, description: "Reads the nodes and writes nothing."}
"""

EXAMPLES = r"""
- name: Plan the upgrade
  devenv.lab.upgrade:
    action: plan
    version: 1.36.3
    running: "{{ groups['live'] }}"
"""

RETURN = r"""
plan: {description: "The steps, in order.", returned: with O(action=plan), type: dict}
first:
  description: Names of the nodes that upgrade their cluster's own objects, one per cluster.
  returned: with O(action=plan)
  type: list
  elements: str
outdated:
  description: Names of images that the new version does not use.
  returned: with O(action=plan)
  type: list
  elements: str
programs: {description: "Binaries of the new version, name to SHA-256.", returned: with O(action=deliver), type: dict}
delivered: {description: What was copied to each node., returned: with O(action=deliver), type: dict}
"""
