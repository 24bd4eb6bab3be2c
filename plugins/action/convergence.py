# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether an environment is as its last complete run left it, and the record of that run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

from ansible import context
from ansible.plugins.action import ActionBase
from ansible.utils.vars import load_extra_vars
from ansible_collections.devenv.lab.plugins.plugin_utils.convergence import unchanged
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action, Spec
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory

# Extra variables that leave a run complete; devenv_snapshot does not, since it brings more than the profile.
RUN_VARIABLES = {"profile"} | {
    f"devenv_{word}" for word in ("artifacts", "full", "gather", "home", "name", "overrides", "timeout")
}


class ActionModule(Action, ActionBase):
    SELECT = "action"
    SPEC: ClassVar[Spec] = {
        "action": {"type": "str", "required": True, "choices": ["compare", "record"]},
        "full": {"type": "bool", "default": False},
    }

    def _compare(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        resolved = inventory.profile_of(variables)
        # Who asks for details wants to see the stages.
        shown = bool(self._display.verbosity or self._task.diff or self._artifacts(variables))
        same = (
            resolved is not None
            and not (args["full"] or shown or self._is_partial())
            and unchanged.is_unchanged(Path(str(variables["devenv_state"])), resolved)
        )
        if same:
            self._display.display(unchanged.TEXT)
        return {"changed": False, "unchanged": same}

    def _record(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        resolved, run_dir = inventory.profile_of(variables), str(variables.get("devenv_run_dir") or "")
        if resolved is None or not run_dir or self._is_partial():
            return {"changed": False, "recorded": False}
        recorded = unchanged.record(Path(str(variables["devenv_state"])), resolved, Path(run_dir))
        return {"changed": False, "recorded": recorded}

    def _is_partial(self) -> bool:
        """Return whether the options of this run leave out, or add to, what a run of the same profile does."""
        given = context.CLIARGS
        options = ("skip_tags", "subset", "start_at_task", "step")
        return (
            self.check
            or bool(set(given.get("tags") or ()) - {"all"})
            or any(given.get(option) for option in options)
            or not set(load_extra_vars(self._loader)) <= RUN_VARIABLES
        )

    @staticmethod
    def _artifacts(variables: dict[str, Any]) -> bool:
        return bool(variables.get("devenv_artifacts") or os.environ.get("ARTIFACT_DIR"))
