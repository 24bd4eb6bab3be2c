"""Skip the module call if the node is known to match."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.module_utils.node import converge
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action


class ActionModule(Action, ActionBase):
    """Compares on the controller (13 ms) before it sends a module to the node (190 ms)."""

    VALIDATES = False
    _requires_connection = True

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        observed = (args.pop("known", None) or {}).get("observed")
        parts = args.get("parts")
        if observed and isinstance(parts, list) and _matches(parts, observed):
            return converge.result(converge.NOTHING)
        done: dict[str, Any] = self._execute_module(module_args=args, task_vars=variables)
        return done


def _matches(parts: list[Any], observed: dict[str, Any]) -> bool:
    try:
        todo = converge.plan(parts, observed)
    except (KeyError, TypeError, ValueError, AttributeError):
        return False  # the module reports the invalid argument
    return not todo.changes() and todo.managed is None
