#!/usr/bin/python
# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Make, join, extend or reset a cluster's node with kubeadm."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kubeadm
short_description: Make, join or reset a node of a cluster with kubeadm
version_added: 0.1.0
description:
  - Runs kubeadm on a node with a configuration that exists as a file only while kubeadm runs, in a private folder
    below C(/run/devenv).
  - Idempotent by the node's real state. A node where an earlier kubeadm was killed is reset first.
  - kubeadm's output is kept in C(/var/log/devenv/kubeadm-ACTION.log) without secrets.
options:
  action:
    description:
      - V(init) makes the first control plane node, V(join) adds this node.
      - V(reset) takes Kubernetes off this node. CNI configuration and images stay.
      - V(allow_join), on a control plane node, makes the token and uploads the certificates of O(config), and forgets
        O(nodes) of an earlier life.
      - V(drain) and V(forget), on a control plane node, move pods off O(nodes) and take them out of the cluster. A node
        that is not Ready is only closed for new pods.
      - V(renew_certificates) renews the certificates of this control plane node and starts again what reads them only
        then.
      - V(change_address) lets the only node of a cluster use O(addresses), which it has on a link already.
    type: str
    required: true
    choices: [init, join, reset, allow_join, drain, forget, renew_certificates, change_address]
  config: {description: Configuration documents of C(kubeadm.k8s.io/v1beta4). They carry secrets., type: str}
  patches:
    description: Patch files for kubeadm by name. The configuration's patches directory is then
      C(/run/devenv/kubeadm-ACTION/patches).
    type: dict
    default: {}
  node: {description: Name of this node in the cluster., type: str, default: ""}
  control_plane: {description: Whether V(join) makes a control plane node., type: bool, default: false}
  ca_hash:
    description: Digest of the authority of the cluster to V(join). A node that belongs to another cluster is reset
      first.
    type: str
    default: ""
  upload_certs: {description: Whether other control plane nodes are to join., type: bool, default: false}
  nodes:
    description: Names of nodes for V(allow_join), V(drain) and V(forget).
    type: list
    elements: str
    default: []
  members:
    description: Addresses by name of those of O(nodes) that are control plane nodes, to find their etcd members.
    type: dict
    default: {}
  least:
    description: Seconds that an existing token has to be valid for at least. Otherwise it is made anew.
    type: int
    default: 900
  timeout: {description: Seconds after which kubeadm is ended., type: int, default: 600}
  dns_replicas:
    description: Pods of CoreDNS that V(allow_join) brings a cluster to that has one. 0 and 1 leave it as it is.
    type: int
    default: 0
  wait: {description: Seconds that V(allow_join) waits for the cluster's API to answer., type: int, default: 120}
  within:
    description: V(renew_certificates) does nothing unless a certificate ends within so many seconds. Unset, it renews
      in any case.
    type: float
  addresses:
    description: Addresses for V(change_address), one a family; the first is the API server's.
    type: list
    elements: str
    default: []
extends_documentation_fragment: devenv.lab.attributes
"""

EXAMPLES = r"""
- name: Make the first control plane node
  devenv.lab.kubeadm:
    action: init
    node: "{{ inventory_hostname }}"
    config: "{{ lookup('ansible.builtin.template', 'init.yml.j2') }}"

- name: Take Kubernetes off the node
  devenv.lab.kubeadm:
    action: reset
"""

RETURN = r"""
ca_hash:
  description: Digest of the cluster CA's public key, as discovery by token wants it. Empty when there is no CA on the
    node.
  returned: success
  type: str
output:
  description: Last lines of kubeadm's output, redacted.
  returned: when kubeadm ran
  type: list
  elements: str
adopted:
  description: Whether the cluster was found whole though no run had seen kubeadm's end.
  returned: when it is so
  type: bool
removed:
  description: What V(forget) took out of the cluster.
  returned: with O(action=forget)
  type: list
  elements: str
due:
  description: Paths of the certificates that were, or are, to be renewed.
  returned: with O(action=renew_certificates)
  type: list
  elements: str
certificates:
  description: End of validity of each certificate on the node, by path.
  returned: with O(action=renew_certificates)
  type: dict
before:
  description: Addresses that Kubernetes used on the node until now.
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
            ("action", "change_address", ["config", "node", "addresses"]),
        ],
        supports_check_mode=True,
    )
    carry_out(module, lambda: actions.perform(Machine(), module.params["action"], module.params, module.check_mode))


if __name__ == "__main__":
    main()
