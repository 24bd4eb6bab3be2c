# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: gather
short_description: Collect what an environment knows of itself
version_added: 0.1.0
description:
  - Runs on the controller. Asks all nodes over ssh, the API of each cluster and the host at the same time, and writes
    one archive.
  - Journals, logs of pods, what etcd says, network state and configuration of each node; every object of each cluster
    with the content of Secrets left out, and its events; containers and networks of this host; records of the newest
    runs.
  - Parts do not depend on each other. One that does not answer is named in the archive's C(index.txt).
  - Secrets are taken out of every text; keys and kubeconfigs are not read.
options:
  state: {description: State folder of the environment., type: path, required: true}
  output:
    description:
      - The archive's name, which ends in C(.tar.gz), or a folder for it.
      - Empty stands for the working directory.
    type: str
    default: ""
  timeout: {description: Seconds for the whole. What came by then is kept., type: float, default: 60}
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode: {support: full, description: Says where the archive would be.}
"""

EXAMPLES = r"""
- name: Collect what the nodes tell
  devenv.lab.gather:
    state: "{{ devenv_state }}"
    output: /tmp/gather.tar.gz
"""

RETURN = r"""
path: {description: The archive. Only its owner may read it., returned: success, type: str}
parts:
  description: What became of each part.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Such as V(nodes/master-0) or V(clusters/main).
      type: str
    files:
      description: How many files came.
      type: int
    bytes:
      description: Their size.
      type: int
    seconds:
      description: How long it took.
      type: float
    trouble:
      description: Why something is missing; empty when nothing is.
      type: str
troubles: {description: A line for each part that did not give all., returned: success, type: list, elements: str}
"""
