# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Controller side of hosts that exist already: see plugins/modules/existing_hosts.py for its documentation."""

from __future__ import annotations

from typing import ClassVar

from ansible_collections.devenv.lab.plugins.action import nodes
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Spec
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import module


class ActionModule(nodes.ActionModule):
    """Bring all hosts of an environment into a state at once."""

    SPEC: ClassVar[Spec] = {
        **module.OPTIONS,
        "version": {"type": "str"},
    }
    REQUIRED_IF = module.required_if("version")
    PROVIDER = "existing"
