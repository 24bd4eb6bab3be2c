# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: join_secret
short_description: Keep the secret for joins on the controller
version_added: 0.1.0
description:
  - Makes a bootstrap token and a certificate key for kubeadm and keeps them in a private file on the controller,
    while nodes join a cluster.
  - Neither is ever in a result. A template reads the file when it renders a configuration.
options:
  path: {description: "The file, made with mode 0600.", type: path, required: true}
  state:
    description: V(present) makes a new secret when there is none that is young enough, V(absent) removes it.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode: {description: The file stays as it is in check mode., support: full}
"""

EXAMPLES = r"""
- name: Make the join secret
  devenv.lab.join_secret:
    path: "{{ devenv_state }}/clusters/{{ devenv_cluster }}/join.json"
"""

RETURN = r"""
path: {description: The file., returned: success, type: str}
"""
