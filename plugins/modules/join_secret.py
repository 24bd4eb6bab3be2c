# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: join_secret
short_description: Create or remove the secret that nodes need to join
version_added: 0.1.0
description:
  - Generates a bootstrap token and a certificate key for kubeadm and keeps them in a private file on the controller
    while nodes join a cluster.
  - Neither is ever in a result. A template reads the file when it renders a configuration.
options:
  path: {description: "The file, created with mode 0600.", type: path, required: true}
  state:
    description: V(present) generates a new secret if none is recent enough, V(absent) removes it.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode: {description: Leaves the file as it is., support: full}
"""

EXAMPLES = r"""
- name: Create the join secret
  devenv.lab.join_secret:
    path: "{{ devenv_state }}/clusters/{{ devenv_cluster }}/join.json"
"""

RETURN = r"""
path: {description: The file., returned: success, type: str}
"""
