#!/usr/bin/python
# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: node_status
short_description: Collect from a node everything that stages base their decisions on
version_added: 0.1.0
description:
  - Inspects a node once and returns everything that the stages of the collection need, so that a run queries a
    converged node only once.
  - With O(run_id), first terminates processes that a killed run left on the node. It changes nothing else.
options:
  run_id:
    description:
      - ID of this run. Processes whose environment has E(DEVENV_RUN) with another value are terminated.
      - If empty, none are.
    type: str
    default: ""
  files:
    description: Paths to report on, besides those that M(devenv.lab.node_config) manages.
    type: list
    elements: str
    default: []
  units:
    description: Units to report on, besides those that M(devenv.lab.node_config) manages.
    type: list
    elements: str
    default: [containerd.service, kubelet.service]
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode: {description: "Terminates nothing; RV(ended) lists what would be terminated.", support: full}
"""

EXAMPLES = r"""
- name: Inspect the node
  devenv.lab.node_status:
    run_id: "{{ lookup('ansible.builtin.env', 'DEVENV_RUN') }}"
  register: devenv_node_status
"""

RETURN = r"""
kubernetes:
  description:
    - V(absent), V(partial), V(control_plane) or V(worker).
    - V(partial) is a node where kubeadm started and did not succeed, or one that lost files since
      (RV(kubernetes_marker) is then not empty).
  returned: success
  type: str
  sample: control_plane
kubernetes_marker:
  description: What was recorded when kubeadm succeeded on this node. Empty if it never did.
  returned: success
  type: dict
kubernetes_missing:
  description: Files that a finished node has and this one lacks.
  returned: success
  type: list
  elements: str
apiserver_ready:
  description: Whether the readiness check of this node's API server returns 200.
  returned: success
  type: bool
registered:
  description:
    - Whether the cluster has the Node object of this node.
    - Not set if the API did not say, or if the node is in no cluster.
  returned: success
  type: bool
kubelet_healthy: {description: Whether kubelet's health check returns 200., returned: success, type: bool}
ca_hash:
  description: Digest of the cluster CA's public key, in the format of discovery by token. Empty if there is no CA.
  returned: success
  type: str
  sample: "sha256:4f2a0b5f7c8d6d62d1a8a2f5c1f9b6a7f0c4a5b3c2d1e0f9a8b7c6d5e4f3a2b1"
kubeconfig_digest:
  description: Digest of the administrator's kubeconfig on the node. Empty if there is none.
  returned: success
  type: str
  sample: "sha256:4f2a0b5f7c8d6d62d1a8a2f5c1f9b6a7f0c4a5b3c2d1e0f9a8b7c6d5e4f3a2b1"
certificates: {description: "Expiry of each certificate on the node, by path.", returned: success, type: dict}
cgroup:
  description: Keys C(version) (1 or 2) and C(driver) (the driver that kubelet and runc should use).
  returned: success
  type: dict
capabilities:
  description: Key C(sys_resource) (whether the bounding set has CAP_SYS_RESOURCE).
  returned: success
  type: dict
capacity:
  description: Keys C(cpus) and C(memory) (bytes) as kubelet sees them. In a container, they are those of its host.
  returned: success
  type: dict
addresses:
  description: Addresses of the node, each with C(interface), C(family), C(address), C(prefix), C(scope).
  returned: success
  type: list
  elements: dict
observed:
  description: Actual state of what M(devenv.lab.node_config) manages, and of O(files) and O(units).
  returned: success
  type: dict
ended:
  description: Processes of an older run that were terminated, each with C(pid), C(run), C(command).
  returned: success
  type: list
  elements: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.devenv.lab.plugins.module_utils.node import facts as node_facts
from ansible_collections.devenv.lab.plugins.module_utils.node import kubernetes, observe, processes


def status(files: list[str], units: list[str]) -> dict[str, Any]:
    """Return the module's result, except for the processes."""
    names = dict(observe.managed(), requested={"files": files, "units": units})
    state = kubernetes.state()
    return {
        **node_facts.facts(),
        "observed": observe.observe(names),
        "kubernetes": state["state"],
        "kubernetes_marker": state["marker"],
        "kubernetes_missing": state["missing"],
        "ca_hash": kubernetes.ca_hash(),
        "kubeconfig_digest": kubernetes.kubeconfig_digest(),
        "certificates": kubernetes.certificate_ends(),
        "registered": kubernetes.is_registered(),
        "kubelet_healthy": kubernetes.kubelet_healthy(),
        "apiserver_ready": kubernetes.apiserver_ready(),
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "run_id": {"type": "str", "default": ""},
            "files": {"type": "list", "elements": "str", "default": []},
            "units": {"type": "list", "elements": "str", "default": ["containerd.service", "kubelet.service"]},
        },
        supports_check_mode=True,
    )
    run_id = module.params["run_id"]
    ended = processes.leftovers(run_id) if run_id else []
    if not module.check_mode:
        remaining = processes.end(ended)
        if remaining:
            message = f"processes of an older run do not end: {remaining}"
            module.fail_json(msg=message, devenv_reason="node_leftovers", ended=ended)
    result = status(module.params["files"], module.params["units"])
    module.exit_json(changed=bool(ended), ended=ended, **result)


if __name__ == "__main__":
    main()
