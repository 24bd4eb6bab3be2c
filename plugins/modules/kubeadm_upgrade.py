#!/usr/bin/python
# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: kubeadm_upgrade
short_description: Upgrade a node of a cluster to another Kubernetes version with kubeadm
version_added: 0.1.0
description:
  - One step of an upgrade, on the node itself or, for V(drain) and V(uncordon), on a control plane node. The steps of
    a node run in the order of O(action), the nodes in kubeadm's order.
  - Idempotent by the actual state. The same steps finish an upgrade that was killed.
  - M(devenv.lab.upgrade) has put the binaries of the new version into C(/var/lib/devenv/upgrade) and loaded its images.
  - kubeadm's output is kept in C(/var/log/devenv/kubeadm-upgrade.log), redacted.
options:
  action:
    description:
      - V(control_plane) upgrades what kubeadm manages on the node, static pods and etcd included.
      - V(drain) cordons and drains O(node).
      - V(binaries) replaces the binaries and restarts containerd and kubelet if they run an older version.
      - V(uncordon) waits until O(node) and its static pods are Ready with the new version, then uncordons it, unless
        somebody else had cordoned it.
      - V(cleanup) removes what an upgrade leaves on the node. To be used when all nodes are upgraded.
      - V(control), V(programs), V(back) and V(tidy) are the former names of V(control_plane), V(binaries), V(uncordon)
        and V(cleanup).
    type: str
    required: true
    aliases: [step]
    choices: [control_plane, drain, binaries, uncordon, cleanup, control, programs, back, tidy]
  version: {description: The new Kubernetes version., type: str, required: true}
  node: {description: Name of the node in the cluster., type: str, required: true}
  control_plane: {description: Whether it is a control plane node., type: bool, default: false}
  first:
    description: Whether it is the first node of its cluster, which upgrades the cluster's own objects. For
      V(control_plane).
    type: bool
    default: false
  config:
    description: Configuration documents of C(kubeadm.k8s.io/v1beta4), as for init, for V(control_plane) on the O(first)
      node.
    type: str
  upgrade_config:
    description: An C(UpgradeConfiguration), for V(control_plane). Its patches directory is
      C(/run/devenv/kubeadm-upgrade/patches).
    type: str
  patches: {description: Patch files for kubeadm by name., type: dict, default: {}}
  programs:
    description: Binaries of the new version, name to SHA-256 (hexadecimal). For V(control_plane) and V(binaries).
    type: dict
    default: {}
  restart:
    description: Whether V(binaries) restarts kubelet in any case, since its configuration may have changed.
    type: bool
    default: false
  images: {description: Names of images that V(cleanup) removes., type: list, elements: str, default: []}
  timeout: {description: Time limit of each part of a step in seconds., type: int, default: 600}
  drain_timeout: {description: Seconds that pods get to leave the node., type: int, default: 60}
extends_documentation_fragment: devenv.lab.attributes
"""

EXAMPLES = r"""
- name: Drain the node
  devenv.lab.kubeadm_upgrade:
    action: drain
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
installed: {description: Binaries that were replaced., returned: with O(action=binaries), type: list, elements: str}
restarted: {description: Units that were restarted., returned: with O(action=binaries), type: list, elements: str}
removed:
  description: Directories and images that were removed.
  returned: with O(action=cleanup)
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import upgrade
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import Machine, carry_out

ARGUMENTS = {
    "action": {
        "type": "str",
        "required": True,
        "aliases": ["step"],
        "choices": [*upgrade.ACTIONS, *upgrade.FORMER],
    },
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
            *(("action", name, ["upgrade_config", "programs"]) for name in ("control_plane", "control")),
            *(("action", name, ["programs"]) for name in ("binaries", "programs")),
            ("first", True, ["config"]),
        ],
        supports_check_mode=True,
    )
    carry_out(
        module,
        lambda: upgrade.perform(Machine(), module.params["action"], module.params, module.check_mode),
        "kubernetes_upgrade",
    )


if __name__ == "__main__":
    main()
