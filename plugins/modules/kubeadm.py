#!/usr/bin/python
# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: kubeadm
short_description: Create, join or reset a node of a cluster with kubeadm
version_added: 0.1.0
description:
  - Runs kubeadm on a node. The configuration is a file only while kubeadm runs, in a private directory in
    C(/run/devenv).
  - Idempotent by the node's actual state. A node where an earlier kubeadm was killed is reset first.
  - kubeadm's output is kept in C(/var/log/devenv/kubeadm-ACTION.log), without secrets.
options:
  action:
    description:
      - V(init) bootstraps the first control plane node, V(join) adds this node.
      - V(reset) removes Kubernetes from this node. CNI configuration and images stay.
      - V(allow_join), on a control plane node, creates the token and uploads the certificates of O(config), and removes
        what the cluster still has of earlier O(nodes) with these names.
      - V(register) creates the Node object of this finished node again after it was deleted, by a restart of kubelet,
        and, with O(control_plane), marks it as a control plane node.
      - V(drain) and V(forget), on a control plane node, drain O(nodes) and remove them from the cluster. A node that is
        not Ready is only cordoned.
      - V(renew_certificates) renews the certificates of this control plane node and restarts the components that read
        them only at startup.
      - V(change_address) moves the only node of a cluster to O(addresses), which must be on a link already.
    type: str
    required: true
    choices: [init, join, reset, allow_join, drain, forget, register, renew_certificates, change_address]
  config: {description: Configuration documents of C(kubeadm.k8s.io/v1beta4). They contain secrets., type: str}
  patches:
    description: Patch files for kubeadm by name. The configuration's patches directory is then
      C(/run/devenv/kubeadm-ACTION/patches).
    type: dict
    default: {}
  node: {description: Name of this node in the cluster., type: str, default: ""}
  control_plane: {description: Whether V(join) adds a control plane node., type: bool, default: false}
  ca_hash:
    description: Digest of the CA of the cluster to V(join). A node that belongs to another cluster is reset first.
    type: str
    default: ""
  upload_certs: {description: Whether other control plane nodes are to join., type: bool, default: false}
  nodes:
    description: Names of nodes for V(allow_join), V(drain) and V(forget).
    type: list
    elements: str
    default: []
  members:
    description: Addresses by name of the control plane nodes among O(nodes), to find their etcd members.
    type: dict
    default: {}
  least:
    description: Seconds for which an existing token must still be valid. Otherwise a new one is created.
    type: int
    default: 900
  timeout: {description: Time limit of kubeadm in seconds., type: int, default: 600}
  dns_replicas:
    description: Number of CoreDNS pods to which V(allow_join) scales a cluster that has one. 0 and 1 change nothing.
    type: int
    default: 0
  wait:
    description: Seconds that V(allow_join) waits for the cluster's API, and V(register) for kubelet.
    type: int
    default: 120
  within:
    description: V(renew_certificates) is a no-op unless a certificate expires within this many seconds. If unset, it
      always renews.
    type: float
  addresses:
    description: Addresses for V(change_address), one per family; the first is the API server's.
    type: list
    elements: str
    default: []
extends_documentation_fragment: devenv.lab.attributes
"""

EXAMPLES = r"""
- name: Bootstrap the first control plane node
  devenv.lab.kubeadm:
    action: init
    node: "{{ inventory_hostname }}"
    config: "{{ lookup('ansible.builtin.template', 'init.yml.j2') }}"

- name: Remove Kubernetes from the node
  devenv.lab.kubeadm:
    action: reset
"""

RETURN = r"""
ca_hash:
  description: Digest of the cluster CA's public key, in the format of discovery by token. Empty if the node has no CA.
  returned: success
  type: str
output:
  description: Last lines of kubeadm's output, redacted.
  returned: when kubeadm ran
  type: list
  elements: str
adopted:
  description: Whether the cluster was complete although no run had recorded the end of kubeadm.
  returned: when it was
  type: bool
removed:
  description: What V(forget) removed from the cluster.
  returned: with O(action=forget)
  type: list
  elements: str
due:
  description: Paths of the certificates that were, or are, to be renewed.
  returned: with O(action=renew_certificates)
  type: list
  elements: str
certificates:
  description: Expiry of each certificate on the node, by path.
  returned: with O(action=renew_certificates)
  type: dict
before:
  description: Addresses that Kubernetes on the node used before.
  returned: with O(action=change_address)
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import actions
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import Machine, carry_out

ARGUMENTS = {
    "action": {"type": "str", "required": True, "choices": list(actions.ACTIONS)},
    "config": {"type": "str", "no_log": True},
    "patches": {"type": "dict", "default": {}},
    "node": {"type": "str", "default": ""},
    "control_plane": {"type": "bool", "default": False},
    "ca_hash": {"type": "str", "default": ""},
    "upload_certs": {"type": "bool", "default": False},
    "nodes": {"type": "list", "elements": "str", "default": []},
    "members": {"type": "dict", "default": {}},
    "least": {"type": "int", "default": 900},
    "timeout": {"type": "int", "default": 600},
    "dns_replicas": {"type": "int", "default": 0},
    "wait": {"type": "int", "default": 120},
    "within": {"type": "float"},
    "addresses": {"type": "list", "elements": "str", "default": []},
}


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        required_if=[
            ("action", "init", ["config", "node"]),
            ("action", "join", ["config", "node"]),
            ("action", "allow_join", ["config"]),
            ("action", "register", ["node"]),
            ("action", "change_address", ["config", "node", "addresses"]),
        ],
        supports_check_mode=True,
    )
    carry_out(module, lambda: actions.perform(Machine(), module.params["action"], module.params, module.check_mode))


if __name__ == "__main__":
    main()
