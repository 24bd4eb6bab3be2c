# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filter that describes how to use an environment that is up."""

from __future__ import annotations

DOCUMENTATION = r"""
name: next_steps
short_description: Describe how to use and remove an environment
version_added: 0.1.0
author:
  - devenv maintainers (@devenv)
description:
  - Reports what is up, where the kubeconfig is, and how to remove the environment with C(ansible-playbook).
positional: name, state
options:
  _input:
    description: The resolved profile, C(devenv_profile).
    type: dict
    required: true
  name:
    description: Name of the environment, C(devenv_name).
    type: str
    required: true
  state:
    description: State directory of the environment, C(devenv_state).
    type: path
    required: true
"""

EXAMPLES = r"""
- name: Print the next steps
  ansible.builtin.debug:
    msg: "{{ devenv_profile | combine({'nodes': groups['nodes']}) | devenv.lab.next_steps(devenv_name, devenv_state) }}"
"""

RETURN = r"""
_value:
  description: Three lines.
  type: list
  elements: str
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import next_steps


def _next_steps(resolved: Mapping[str, Any], name: str, state: str) -> list[str]:
    return next_steps.with_ansible(name, resolved, Path(state))


class FilterModule:
    """The filter ``devenv.lab.next_steps``."""

    def filters(self) -> dict[str, Callable[..., list[str]]]:
        return {"next_steps": _next_steps}
