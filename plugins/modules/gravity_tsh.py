# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: gravity_tsh
short_description: Log in to a Gravity cluster with tsh
version_added: 0.2.0
description:
  - Runs C(tsh login) on the controller, in a terminal of its own, and answers its prompt for the password.
  - Reads the certificate of the proxy on the master that it runs for, and accepts no other.
  - The kubeconfig and the files of tsh are kept in O(folder), apart from those of the user and from the kubeconfig
    of the service account.
options:
  program: {description: The program tsh on the controller., type: str, default: tsh}
  proxy: {description: "Address or name of the proxy, with port.", type: str, required: true}
  address: {description: Address of the master., type: str, required: true}
  user: {description: User to log in as., type: str, required: true}
  password: {description: Its password., type: str, required: true}
  folder: {description: Directory on the controller., type: path, required: true}
  arguments: {description: Further arguments of C(tsh login)., type: list, elements: str, default: []}
  timeout: {description: Time limit in seconds., type: int, default: 60}
extends_documentation_fragment: devenv.lab.attributes
attributes:
  check_mode: {description: Does nothing., support: full}
"""

EXAMPLES = r"""
- name: Log in
  devenv.lab.gravity_tsh:
    proxy: lab.example:32009
    address: "{{ devenv_addresses[0] }}"
    user: admin
    password: "{{ admin_password }}"
    folder: "{{ devenv_state }}/clusters/main/tsh"
"""

RETURN = r"""
kubeconfig: {description: The kubeconfig that tsh wrote., returned: success, type: str}
"""
