# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: host_preflight
short_description: Look at this host before anything is changed
version_added: 0.1.0
description:
  - Looks at root, programs, kernel, memory, disk and subnets at once, and fails with all that is missing.
  - Runs on the controller; needs root and podman there.
extends_documentation_fragment: devenv.lab.attributes
options:
  environment: {description: Name of the environment that is to be made., type: str, required: true}
"""

EXAMPLES = r"""
---
- name: Look at this host
  devenv.lab.host_preflight:
    environment: aio
"""

RETURN = r"""
probes:
  description: What was looked at, each with name, ok, seen, needed and fix.
  returned: success
  type: list
  elements: dict
"""
