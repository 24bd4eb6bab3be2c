# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filter that returns a profile as variables."""

from __future__ import annotations

DOCUMENTATION = r"""
name: profile_env
short_description: Return the variables of a profile
version_added: 0.1.0
author:
  - devenv maintainers (@devenv)
description:
  - Returns the variables that C(devenv profile env) prints.
requirements:
  - jsonschema
positional: overrides
options:
  _input:
    description: Name or file of a profile, or a resolved one.
    type: raw
    required: true
  overrides:
    description: Values by dotted path of the profile, as in C(devenv_overrides). Only with a name or a file.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Write the profile as an env file
  ansible.builtin.copy:
    content: "{{ 'ha' | devenv.lab.profile_env({'nodes.worker-0.memory': '4GiB'}) | devenv.lab.env_file('dotenv') }}"
    dest: /srv/product/.env
    mode: "0644"
"""

RETURN = r"""
_value:
  description: Texts by name of the variable.
  type: dict
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import env_file
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve


def _profile_env(profile: Any, overrides: Mapping[str, Any] | None = None) -> dict[str, str]:
    try:
        resolved = profile if isinstance(profile, Mapping) else resolve(str(profile), overrides=overrides or {})
        return env_file.of_profile(resolved)
    except DevenvError as error:
        raise AnsibleFilterError(f"{error} [{error.reason.id}]") from None
    except KeyError as error:
        raise AnsibleFilterError(f"not a resolved profile: it has no {error}") from None


class FilterModule:
    """The filter ``devenv.lab.profile_env``."""

    def filters(self) -> dict[str, Callable[..., dict[str, str]]]:
        return {"profile_env": _profile_env}
