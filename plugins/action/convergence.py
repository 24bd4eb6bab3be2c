"""Compare an environment with the state after its last complete run, or record that state."""

from __future__ import annotations

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
from ansible_collections.devenv.lab.plugins.plugin_utils.records import expiry
from ansible_collections.devenv.lab.plugins.plugin_utils.variables import check

# A run with these extra variables is still complete. devenv_snapshot adds more than the profile, so it is not here.
RUN_VARIABLES = {"profile", *overrides.SHORT} | {
    f"devenv_{word}" for word in ("artifacts", "full", "gather", "home", "name", "overrides", "timeout", "ttl")
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
            and variables.get("devenv_kubernetes_version") == resolved["kubernetes"]["version"]
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
        if resolved is None or not run_dir or self._is_partial():
            return {"changed": False, "recorded": False}
        recorded = unchanged.record(inventory.state_folder(variables), resolved, Path(run_dir))
        return {"changed": False, "recorded": recorded}

    def _is_partial(self) -> bool:
        """Return whether this run's options omit or add steps, compared with a plain run of the same profile."""
        arguments = context.CLIARGS
        options = ("skip_tags", "subset", "start_at_task", "step")
        return (
            self.check
            or bool(set(arguments.get("tags") or ()) - {"all"})
            or any(arguments.get(option) for option in options)
            or not set(load_extra_vars(self._loader)) <= RUN_VARIABLES
        )
