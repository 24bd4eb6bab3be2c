# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filter that writes variables as an env file."""

from __future__ import annotations

DOCUMENTATION = r"""
name: env_file
short_description: Format a mapping as an env file
version_added: 0.1.0
author:
  - devenv maintainers (@devenv)
description:
  - Quotes every value as the reader of the format requires, including newlines and quotes.
  - Booleans become C(true) or C(false), lists and mappings become JSON, null becomes an empty value.
positional: format
options:
  _input:
    description: Values by name of the variable.
    type: dict
    required: true
  format:
    description:
      - V(shell) is for C(eval) and C(.) of any POSIX shell, V(dotenv) for readers of C(.env) files.
      - V(github) is the text that a step of GitHub Actions appends to the file that E(GITHUB_ENV) names.
      - V(prow) is the mapping C(env) of a test's C(steps) in a ci-operator configuration.
    type: str
    default: shell
    choices: [shell, dotenv, github, prow]
"""

EXAMPLES = r"""
- name: Write an env file
  ansible.builtin.copy:
    content: "{{ {'NAME': 'two words', 'COUNT': 3} | devenv.lab.env_file('dotenv') }}"
    dest: /srv/product/.env
    mode: "0600"
"""

RETURN = r"""
_value:
  description: The text of the file.
  type: str
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import env_file


def _env_file(variables: Any, format: str = "shell") -> str:
    if not isinstance(variables, Mapping):
        raise AnsibleFilterError(f"env_file requires a mapping of names to values, not {type(variables).__name__}")
    try:
        return env_file.render(variables, format)
    except DevenvError as error:
        raise AnsibleFilterError(f"{error} [{error.reason.id}]") from None


class FilterModule:
    """The filter ``devenv.lab.env_file``."""

    def filters(self) -> dict[str, Callable[..., str]]:
        return {"env_file": _env_file}
