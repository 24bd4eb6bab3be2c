# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: kubeconfig
short_description: Fetch the kubeconfig of a cluster into the state directory
version_added: 0.1.0
description:
  - Runs for a control plane node and copies the administrator's kubeconfig with the connection's own file transfer, so
    that no verbosity level prints it.
  - The copy points to O(address). It has one cluster, user and context, named C(devenv-<environment>) for the cluster
    V(main) and C(devenv-<environment>-<cluster>) for others.
  - It is written to C(<state>/clusters/<cluster>/kubeconfig) with mode 0600. C(<state>/kubeconfig) links to that of
    the cluster V(main).
options:
  src: {description: The kubeconfig on the node., type: path, default: /etc/kubernetes/admin.conf}
  known:
    description:
      - Digest of O(src) as returned by M(devenv.lab.node_status) in this run
        (RV(devenv.lab.node_status#module:kubeconfig_digest)).
      - If the copy was made from that file, it stays as it is, without a connection to the node.
    type: str
    default: ""
  state: {description: "State directory of the environment, on the controller.", type: path, required: true}
  environment: {description: Name of the environment., type: str, required: true}
  cluster: {description: Name of the cluster within the environment., type: str, default: main}
  address:
    description: Address or name of the API. The certificate of the API server must include it.
    type: str
    required: true
  port: {description: Port of the API., type: int, default: 6443}
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode: {support: full, description: Reads the node's file and reports whether the copy would change.}
  diff_mode: {support: partial, description: Names what changes; the content is secret and never shown.}
"""

EXAMPLES = r"""
- name: Fetch the kubeconfig
  devenv.lab.kubeconfig:
    state: "{{ devenv_state }}"
    environment: "{{ devenv_name }}"
    cluster: "{{ devenv_cluster }}"
    address: "{{ devenv_addresses[0] }}"
"""

RETURN = r"""
path: {description: The kubeconfig on the controller., returned: success, type: str}
context: {description: "Name of its context, cluster and user.", returned: success, type: str}
server: {description: URL of the API., returned: success, type: str}
"""
