#!/usr/bin/python
# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bring a node of a living cluster to another version of Kubernetes with kubeadm."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kubeadm_upgrade
short_description: Bring a node of a cluster to another version of Kubernetes with kubeadm
version_added: 0.1.0
description:
  - One step of an upgrade, on the node itself or, for V(drain) and V(back), on a control plane node. The steps of one
    node follow each other as in the list of O(step); nodes follow each other in kubeadm's order.
  - Idempotent by the real state. What was killed is finished by the same steps.
  - The programs of the new version have been laid down in C(/var/lib/devenv/upgrade), and its images are there
    (M(devenv.lab.upgrade)).
  - kubeadm's output is kept in C(/var/log/devenv/kubeadm-upgrade.log), redacted.
options:
  step:
    description:
      - V(control) lets kubeadm upgrade what it made on the node, static pods and etcd included.
      - V(drain) closes O(node) and moves its pods away.
      - V(programs) replaces the programs and starts containerd and kubelet anew where they run an older one.
      - V(back) waits until O(node) and its static pods are Ready with the new version, then opens it again, unless
        somebody else had closed it.
      - V(tidy) removes what an upgrade leaves on the node. For when all nodes are upgraded.
    type: str
    required: true
    choices: [control, drain, programs, back, tidy]
  version:
    description: The new version of Kubernetes.
    type: str
    required: true
  node:
    description: Name of the node in the cluster.
    type: str
    required: true
  control_plane:
    description: Whether it is a control plane node.
    type: bool
    default: false
  first:
    description: Whether it is the first node of its cluster, which upgrades the cluster's own objects. For V(control).
    type: bool
    default: false
  config:
    description: Configuration documents of C(kubeadm.k8s.io/v1beta4), those of an init, for V(control) on the O(first).
    type: str
  upgrade_config:
    description: An C(UpgradeConfiguration), for V(control). Its patches directory is
      C(/run/devenv/kubeadm-upgrade/patches).
    type: str
  patches:
    description: Patch files for kubeadm by name.
    type: dict
    default: {}
  programs:
    description: Programs of the new version, name to sha256 (hexadecimal). For V(control) and V(programs).
    type: dict
    default: {}
  restart:
    description: Whether V(programs) starts kubelet anew in any case, since its configuration may be another.
    type: bool
    default: false
  images:
    description: Names of images that V(tidy) removes.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds that each part of a step may take.
    type: int
    default: 600
  drain_timeout:
    description: Seconds that pods get to leave the node.
    type: int
    default: 60
attributes:
  check_mode:
    description: Says from the node's state whether something would be done.
    support: full
  diff_mode:
    description: There is no content to compare.
    support: none
author:
  - devenv maintainers (@devenv)
"""

EXAMPLES = r"""
- name: Move pods away
  devenv.lab.kubeadm_upgrade:
    step: drain
    version: 1.36.3
    node: "{{ inventory_hostname }}"
  delegate_to: master-0
"""

RETURN = r"""
output:
  description: Last lines of kubeadm's output, redacted.
  returned: when kubeadm ran
  type: list
  elements: str
installed:
  description: Programs that were replaced.
  returned: with O(step=programs)
  type: list
  elements: str
restarted:
  description: Units that were started anew.
  returned: with O(step=programs)
  type: list
  elements: str
removed:
  description: Folders and images that were removed.
  returned: with O(step=tidy)
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import cluster as kubeadm
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import upgrade as kubeadm_upgrade

ARGUMENTS = {
    "step": {"type": "str", "required": True, "choices": ["control", "drain", "programs", "back", "tidy"]},
    "version": {"type": "str", "required": True},
    "node": {"type": "str", "required": True},
    "control_plane": {"type": "bool", "default": False},
    "first": {"type": "bool", "default": False},
    "config": {"type": "str", "no_log": True},
    "upgrade_config": {"type": "str"},
    "patches": {"type": "dict", "default": {}},
    "programs": {"type": "dict", "default": {}},
    "restart": {"type": "bool", "default": False},
    "images": {"type": "list", "elements": "str", "default": []},
    "timeout": {"type": "int", "default": 600},
    "drain_timeout": {"type": "int", "default": 60},
}


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        required_if=[
            ("step", "control", ["upgrade_config", "programs"]),
            ("step", "programs", ["programs"]),
            ("first", True, ["config"]),
        ],
        supports_check_mode=True,
    )
    try:
        result = kubeadm_upgrade.perform(module.params["step"], module.params, module.check_mode)
    except kubeadm.Failed as error:
        module.fail_json(**kubeadm.failure(error))
    except OSError as error:
        module.fail_json(msg=str(error), devenv_reason="kubernetes_upgrade")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
