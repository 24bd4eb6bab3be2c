#!/usr/bin/python
# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gravity
short_description: Create, join, change or leave a Gravity cluster
version_added: 0.1.0
description:
  - Runs the program C(gravity) on a node. Idempotent by the output of C(gravity status), not by its exit code, which
    is 255 for a degraded cluster that answers correctly.
  - Every command is bounded. Where Gravity itself would wait without a limit, the limit is O(timeout) seconds.
  - Output is kept in C(/var/log/devenv/gravity-ACTION.log), without secrets.
options:
  action:
    description:
      - V(look) returns the state of Gravity on the node.
      - V(check), V(install) and V(upgrade) use O(tarball). V(install) starts a stopped cluster, and with O(prepared)
        moves the cluster that is part of the image to O(address).
      - V(adopt) waits for a cluster that a script created, and records it.
      - V(wait) waits until the cluster has all O(members) and is healthy. Changes nothing.
      - V(token), on a master, writes what nodes need to join to the file O(path), C({token, peers}).
      - V(join) adds this node.
      - V(remove), on a master, removes the node with O(address); V(leave) removes Gravity from this node.
      - V(change_address) moves the only node of a cluster to O(address).
      - V(kubeconfig), on a master, writes the kubeconfig of an administrator's service account to
        C(/var/lib/devenv/gravity/kubeconfig).
      - V(auth_gateway), on a master, sets the addresses that C(tsh login) receives.
      - V(certificate), on a master, returns the certificate of the proxy for C(tsh login).
      - V(images) returns the images in the cluster's registry; V(publish) adds O(image) to it, from the
        archive O(path).
      - V(report) writes Gravity's own report to O(path).
    type: str
    required: true
    choices: [look, check, install, adopt, wait, join, token, change_address, remove, leave, kubeconfig, auth_gateway,
              certificate, images, publish, upgrade, report]
  address: {description: Address of this node; for V(remove) that of another., type: str, default: ""}
  tarball:
    description: The cluster's tarball on the node. It is removed once it is unpacked.
    type: path
    default: ""
  sha256: {description: Digest of O(tarball)., type: str, default: ""}
  version:
    description: Version of the application in O(tarball). V(upgrade) to the installed version is a no-op.
    type: str
    default: ""
  cluster: {description: Name of the cluster for V(install)., type: str, default: ""}
  flavor: {description: "Flavor of the installation, one with a single node.", type: str, default: ""}
  node_type: {description: Node profile of the application for this node (C(--role))., type: str, default: ""}
  role:
    description: The role that the node type must give the node, V(master) or V(node). Any other result is a failure.
    type: str
    default: ""
  pod_subnet: {description: Range of pods., type: str, default: ""}
  service_subnet: {description: Range of Services., type: str, default: ""}
  vxlan_port: {description: Port of the overlay network., type: int, default: 8472}
  arguments:
    description: Further arguments of C(gravity install) or C(gravity join).
    type: list
    elements: str
    default: []
  autofix: {description: Whether V(check) may load modules and set sysctls., type: bool, default: true}
  prepared:
    description: Whether the node's image includes a Gravity cluster, which is moved to O(address).
    type: bool
    default: false
  token: {description: Token for V(join)., type: str, default: ""}
  peers: {description: Addresses of masters for V(join)., type: list, elements: str, default: []}
  members:
    description: Addresses of the nodes that V(wait) waits for.
    type: list
    elements: str
    default: []
  public_addresses: {description: Addresses for V(auth_gateway)., type: list, elements: str, default: []}
  force:
    description: Whether V(remove) works without the node, and V(leave) without the cluster.
    type: bool
    default: false
  image: {description: "Name of the image for V(publish), as in the archive.", type: str, default: ""}
  registry: {description: Address of the cluster's registry for V(publish)., type: str, default: ""}
  path: {description: "File on the node for V(token), V(publish) and V(report).", type: path, default: ""}
  timeout:
    description: Time limit of the action in seconds, without the wait for the cluster.
    type: int
    default: 5400
  wait: {description: Seconds to wait until the cluster is healthy., type: int, default: 600}
  patience:
    description: How many consecutive answers may report a degraded cluster, as happens for a while after a master has
      joined.
    type: int
    default: 30
extends_documentation_fragment: devenv.lab.attributes
"""

EXAMPLES = r"""
- name: Inspect the node
  devenv.lab.gravity:
    action: look
    address: "{{ devenv_addresses[0] }}"

- name: Remove Gravity from the node
  devenv.lab.gravity:
    action: leave
    address: "{{ devenv_addresses[0] }}"
"""

RETURN = r"""
state:
  description: V(absent), V(member), V(moved) (installed with another address, or stopped) or V(partial).
  returned: with O(action=look)
  type: str
healthy: {description: Whether this node is healthy for the cluster., returned: with O(action=look), type: bool}
role: {description: V(master) or V(node)., returned: with O(action=look), type: str}
masters:
  description: Addresses of the healthy masters.
  returned: with O(action=look) and O(action=token)
  type: list
  elements: str
problem: {description: Why the cluster did not answer., returned: with O(action=look), type: str}
marker: {description: What was recorded when the node was finished., returned: with O(action=look), type: dict}
kubeconfig_digest:
  description: Digest of the kubeconfig that V(kubeconfig) wrote.
  returned: with O(action=look)
  type: str
cluster: {description: "The cluster's own status, without its token.", returned: when it answered, type: dict}
certificate: {description: The certificate as PEM., returned: with O(action=certificate), type: str}
images:
  description: Images in the cluster's registry, without its address.
  returned: with O(action=images)
  type: list
  elements: str
path: {description: The file that was written., returned: with O(action=kubeconfig) and O(action=report), type: str}
output:
  description: Last lines of Gravity's output, redacted.
  returned: with O(action=check), and after a failure
  type: list
  elements: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.devenv.lab.plugins.module_utils.gravity import actions
from ansible_collections.devenv.lab.plugins.module_utils.gravity.machine import GravityMachine
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import carry_out

ARGUMENTS: dict[str, dict[str, Any]] = {
    "action": {"type": "str", "required": True, "choices": ["look", *actions.ACTIONS]},
    "address": {"type": "str", "default": ""},
    "sha256": {"type": "str", "default": ""},
    "version": {"type": "str", "default": ""},
    "cluster": {"type": "str", "default": ""},
    "flavor": {"type": "str", "default": ""},
    "node_type": {"type": "str", "default": ""},
    "role": {"type": "str", "default": ""},
    "pod_subnet": {"type": "str", "default": ""},
    "service_subnet": {"type": "str", "default": ""},
    "tarball": {"type": "path", "default": ""},
    "path": {"type": "path", "default": ""},
    "arguments": {"type": "list", "elements": "str", "default": []},
    "members": {"type": "list", "elements": "str", "default": []},
    "peers": {"type": "list", "elements": "str", "default": []},
    "public_addresses": {"type": "list", "elements": "str", "default": []},
    "token": {"type": "str", "default": "", "no_log": True},
    "image": {"type": "str", "default": ""},
    "registry": {"type": "str", "default": ""},
    "vxlan_port": {"type": "int", "default": 8472},
    "autofix": {"type": "bool", "default": True},
    "prepared": {"type": "bool", "default": False},
    "force": {"type": "bool", "default": False},
    "timeout": {"type": "int", "default": 5400},
    "wait": {"type": "int", "default": 600},
    "patience": {"type": "int", "default": 30},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    carry_out(
        module, lambda: actions.perform(GravityMachine(), module.params["action"], module.params, module.check_mode)
    )


if __name__ == "__main__":
    main()
