# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: validate
short_description: Check that clusters are ready for applications
version_added: 0.1.0
description:
  - Runs on the controller, once for all nodes, and waits until every check passes in the same round.
  - Read-only checks, which always run, are C(kubeconfig), C(api) (the API's own readiness), C(nodes) (every node is
    Ready), C(versions), C(labels) (with taints and pod ranges), C(system_pods) (every pod of kube-system),
    C(dns_service) (ready endpoints of CoreDNS) and C(default_service_account).
  - A full validation, subject to O(probes), adds checks of each API server (C(api_masters), C(api_endpoint)), of each
    node over ssh (C(ssh), C(services), C(certificates), C(clocks), C(etcd_members), C(etcd_health)), and checks with
    real pods of the probe image, one per node. C(probe_pods) run, C(dns_FAMILY) resolves names, C(pod_to_pod_FAMILY)
    connects pods of different nodes, C(pod_to_service_FAMILY) through a Service, C(pod_to_api) reaches the API by its
    address with the service account's token and CA, C(storage) writes and reads a volume of the profile's StorageClass.
  - The profile's own checks, C(profile.NAME), run last.
  - A failing check does not hide another. The pods run in their own namespace, which is removed afterwards, also after
    a failure. They never count as changed.
  - After the timeout, the message lists what is missing for each failing check.
options:
  nodes: {description: Names of the nodes. Bare nodes are skipped., type: list, elements: str, required: true}
  clusters: {description: Names of the only clusters to check. Empty for all., type: list, elements: str, default: []}
  probes:
    description:
      - When to run real pods. V(auto) runs them if O(changed) is set or the last validation with pods did not pass.
    type: str
    choices: [auto, always, never]
    default: auto
  changed: {description: Whether this run changed anything before., type: bool, default: false}
  timeout: {description: "Time limit of all checks together, in seconds.", type: float, default: 300}
  domain: {description: DNS domain of the cluster., type: str, default: cluster.local}
  junit: {description: File for a JUnit document with one case per check., type: path}
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode: {support: full, description: "Runs the read-only checks once and never fails; no pods."}
"""

EXAMPLES = r"""
- name: Wait until the cluster is ready
  devenv.lab.validate:
    nodes: "{{ groups['nodes'] }}"
    probes: always
    timeout: 120
"""

RETURN = r"""
checks:
  description: Every check, also when the task fails.
  returned: always
  type: list
  elements: dict
  contains:
    cluster:
      description: Name of the cluster.
      type: str
    name:
      description: Name of the check.
      type: str
    ok:
      description: Whether it passed.
      type: bool
    seconds:
      description: When it passed, or how long it was waited for, in seconds from the start.
      type: float
    seen:
      description: What was observed, or what is missing.
      type: str
    warnings:
      description: What will fail in the future, such as a certificate that expires soon.
      type: list
      elements: str
"""
