# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: host_preflight
short_description: Check this host before the first change
version_added: 0.1.0
description:
  - Checks root privileges, programs, kernel, memory, disk and subnets in one pass, and fails with everything that is
    missing.
  - Runs on the controller; needs root and podman there.
extends_documentation_fragment: devenv.lab.attributes
options:
  environment: {description: Name of the environment that is to be created., type: str, required: true}
"""

EXAMPLES = r"""
---
- name: Check this host
  devenv.lab.host_preflight:
    environment: aio
"""

RETURN = r"""
probes:
  description: The checks, each with name, ok, seen, needed and fix.
  returned: success
  type: list
  elements: dict
"""
