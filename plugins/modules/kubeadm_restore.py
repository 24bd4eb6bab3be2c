#!/usr/bin/python
# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: kubeadm_restore
short_description: Start a control plane node from saved data with kubeadm
version_added: 0.1.0
description:
  - Creates a control plane node of a new cluster that has the objects of a saved one.
    M(devenv.lab.snapshot) with O(devenv.lab.snapshot#module:verb=deliver) has put the saved data on the node.
  - Keys and certificates are new. All control plane nodes of a cluster start at the same time.
  - A node where an earlier attempt was killed is reset first.
options:
  config:
    description: Configuration documents of C(kubeadm.k8s.io/v1beta4), as for init. They contain secrets.
    type: str
    required: true
  patches: {description: Patch files for kubeadm by name., type: dict, default: {}}
  node: {description: Name of this node in the cluster., type: str, required: true}
  first:
    description: Whether this node also writes the configuration, cluster-info and add-ons of the new cluster. True for
      one node of a cluster.
    type: bool
    default: true
  peers:
    description:
      - Addresses of the other control plane nodes. The O(first) node writes once their API servers are ready, too.
    type: list
    elements: str
    default: []
  timeout:
    description: Time limit in seconds of kubeadm, and of the wait for the API server.
    type: int
    default: 600
extends_documentation_fragment: devenv.lab.attributes
"""

EXAMPLES = r"""
- name: Start the control plane from saved data
  devenv.lab.kubeadm_restore:
    node: "{{ inventory_hostname }}"
    config: "{{ lookup('ansible.builtin.template', 'init.yml.j2') }}"
    first: "{{ inventory_hostname == ansible_play_hosts_all[0] }}"
    peers: "{{ ansible_play_hosts_all[1:] | map('extract', hostvars, 'ansible_host') }}"
"""

RETURN = r"""
ca_hash:
  description: Digest of the new cluster CA's public key, in the format of discovery by token.
  returned: when not in check mode
  type: str
output:
  description: Last lines of kubeadm's output, redacted.
  returned: when kubeadm ran
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import restore
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import Machine, carry_out

ARGUMENTS = {
    "config": {"type": "str", "required": True, "no_log": True},
    "patches": {"type": "dict", "default": {}},
    "node": {"type": "str", "required": True},
    "first": {"type": "bool", "default": True},
    "peers": {"type": "list", "elements": "str", "default": []},
    "timeout": {"type": "int", "default": 600},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    carry_out(module, lambda: restore.perform(Machine(), module.params, module.check_mode))


if __name__ == "__main__":
    main()
