# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: validate
short_description: Check that clusters are ready for applications
version_added: 0.1.0
description:
  - Runs on the controller, once for all nodes, and waits until every check passes in the same round.
  - Read-only checks, always made. C(kubeconfig), C(api) the API's own readiness, C(nodes) every node Ready,
    C(versions), C(labels) with taints and pod ranges, C(system_pods) every pod of kube-system, C(dns_service) ready
    endpoints of CoreDNS, C(default_service_account).
  - A full validation, made as O(probes) says, adds checks by each API server (C(api_masters), C(api_endpoint)), by
    each node over ssh (C(ssh), C(services), C(certificates), C(clocks), C(etcd_members), C(etcd_health)) and by real
    pods of the probe image, one a node. C(probe_pods) run, C(dns_FAMILY) names resolve, C(pod_to_pod_FAMILY) pods of
    different nodes reach each other, C(pod_to_service_FAMILY) through a Service, C(pod_to_api) the API by its address
    with the service account's token and authority, C(storage) a volume of the profile's StorageClass is written and
    read.
  - Last come the profile's own, C(profile.NAME) each.
  - A check that fails hides no other. The pods stand in a namespace of their own, which is removed afterwards, also on
    failure. They never count as changed.
  - When the time is over, the message lists what each failing check misses.
options:
  nodes: {description: Names of the nodes. Those of no cluster are left out., type: list, elements: str, required: true}
  probes:
    description:
      - When to make real pods. V(auto) makes them if O(changed) is set or no validation with pods passed last.
    type: str
    choices: [auto, always, never]
    default: auto
  changed: {description: Whether this run changed anything before., type: bool, default: false}
  timeout: {description: "How long to wait for all checks together, in seconds.", type: float, default: 300}
  domain: {description: DNS domain of the cluster., type: str, default: cluster.local}
  junit: {description: File for a JUnit document with a case a check., type: path}
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode: {support: full, description: "One read-only look, which fails at nothing; no pods."}
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
      description: What was seen, or what is missing.
      type: str
    warnings:
      description: What will not pass some day, such as a certificate that ends soon.
      type: list
      elements: str
"""
