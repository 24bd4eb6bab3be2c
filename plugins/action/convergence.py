"""Compare an environment with the state after its last complete run, or record that state."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ansible import context
from ansible.plugins.action import ActionBase
from ansible.utils.vars import load_extra_vars
from ansible_collections.devenv.lab.plugins.plugin_utils.convergence import unchanged
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import overrides
from ansible_collections.devenv.lab.plugins.plugin_utils.records import expiry, selection
from ansible_collections.devenv.lab.plugins.plugin_utils.variables import check

# A run with these extra variables is still complete. devenv_snapshot adds more than the profile, so it is not here.
RUN_VARIABLES = {"profile", *overrides.SHORT} | {
    f"devenv_{word}"
    for word in ("artifacts", "full", "gather", "home", "name", "overrides", "recreate", "timeout", "ttl")
}


class ActionModule(Action, ActionBase):
    SELECT = "action"

    def _compare(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        check.require_options(load_extra_vars(self._loader), context.CLIARGS.get("extra_vars") or ())
        resolved = inventory.profile_of(variables)
        # With these, the user expects the output or the artifacts of the stages.
        artifacts = variables.get("devenv_artifacts") or os.environ.get("ARTIFACT_DIR")
        in_detail = self._display.verbosity or self._task.diff or artifacts
        is_unchanged = (
            resolved is not None
            and variables.get("devenv_kubernetes_version") in (None, resolved["kubernetes"]["version"])
            and not (args["full"] or in_detail or self._is_partial())
            and unchanged.is_unchanged(inventory.state_folder(variables), resolved)
        )
        if is_unchanged and variables.get("devenv_ttl"):
            expiry.start(inventory.state_folder(variables), str(variables["devenv_ttl"]))
        if is_unchanged:
            self._display.display(unchanged.TEXT)
        return {"changed": False, "unchanged": is_unchanged}

    def _record(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        resolved, run_dir = inventory.profile_of(variables), str(variables.get("devenv_run_dir") or "")
        complete = bool(run_dir) and not self._leaves_out()
        if resolved is None or not complete or self._is_partial():
            return {"changed": False, "recorded": False, "complete": complete}
        recorded = unchanged.record(inventory.state_folder(variables), resolved, Path(run_dir))
        return {"changed": False, "recorded": recorded, "complete": complete}

    def _leaves_out(self) -> bool:
        """Return whether this run left out stages or hosts: by its options, or by the record of the callback."""
        # Without the callback, any limit counts.
        record = os.environ.get("DEVENV_REMAINING")
        missing = json.loads(record) if record else context.CLIARGS.get("subset")
        return bool(missing) or selection.is_partial(context.CLIARGS)

    def _is_partial(self) -> bool:
        """Return whether this run's options omit or add steps, compared with a plain run of the same profile."""
        return (
            self.check
            or selection.is_partial(context.CLIARGS)
            or bool(context.CLIARGS.get("subset"))
            or not set(load_extra_vars(self._loader)) <= RUN_VARIABLES
        )
