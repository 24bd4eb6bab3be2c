# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: user_kubeconfig
short_description: Merge the kubeconfigs of an environment into the user's own
version_added: 0.1.0
description:
  - Runs on the controller. The user's files are those of E(KUBECONFIG), else C(~/.kube/config), by kubectl's rules.
  - Adds or replaces cluster, user and context of each cluster, all named C(devenv-<environment>[-<cluster>]). Files are
    written in place, and locked as kubectl does. C(destroy.yml) removes the entries.
options:
  folder: {description: State directory of the environment., type: path, required: true}
  state: {description: Whether the entries exist., type: str, choices: [present, absent], default: present}
  clusters:
    description: Names of the only clusters to merge. Empty for all. V(absent) always removes all.
    type: list
    elements: str
    default: []
  switch_context:
    description: Whether to make the context of the only cluster, or of V(main), the current one.
    type: bool
    default: false
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode: {support: full, description: Reports whether a file would change.}
"""

EXAMPLES = r"""
- name: Merge the kubeconfigs of all clusters
  devenv.lab.user_kubeconfig:
    folder: "{{ devenv_state }}"
"""

RETURN = r"""
files: {description: Paths of the changed files., returned: success, type: list, elements: str}
"""
