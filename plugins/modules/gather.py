# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: gather
short_description: Collect the logs and state of an environment
version_added: 0.1.0
description:
  - Runs on the controller. Collects from all nodes over ssh, from the API of each cluster and from the host at the
    same time, and writes one archive.
  - The archive has journals, pod logs, the state of etcd and of the network, and the configuration of each node; every
    object of each cluster, without the content of Secrets, and its events; containers and networks of this host;
    records of the newest runs.
  - Parts are independent of each other. One that does not answer is listed in the archive's C(index.txt).
  - Secrets are redacted in every text; keys and kubeconfigs are not read.
options:
  state: {description: State directory of the environment., type: path, required: true}
  output:
    description:
      - Name of the archive, which ends in C(.tar.gz), or a directory for it.
      - Empty for the working directory.
    type: str
    default: ""
  timeout: {description: Seconds for all parts. What arrived by then is kept., type: float, default: 60}
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode: {support: full, description: Returns where the archive would be.}
"""

EXAMPLES = r"""
- name: Collect logs and state
  devenv.lab.gather:
    state: "{{ devenv_state }}"
    output: /tmp/gather.tar.gz
"""

RETURN = r"""
path: {description: The archive. Only its owner can read it., returned: success, type: str}
parts:
  description: The result of each part.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Such as V(nodes/master-0) or V(clusters/main).
      type: str
    files:
      description: Number of files.
      type: int
    bytes:
      description: Their size.
      type: int
    seconds:
      description: Duration.
      type: float
    trouble:
      description: Why something is missing; empty if nothing is.
      type: str
troubles: {description: One line for each incomplete part., returned: success, type: list, elements: str}
"""
