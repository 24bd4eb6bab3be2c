"""Collect the logs and state of an environment in one archive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action
from ansible_collections.devenv.lab.plugins.plugin_utils.diagnostics import archive as gather
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import state


class ActionModule(Action, ActionBase):
    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        # An environment that has lost its profile is not in the inventory.
        name = str(variables.get("devenv_name") or "")
        source = gather.source_of(Path(args["state"] or (state.folder_of(name) if name else "")))
        path = gather.archive_path(args["output"], source.name)
        if self.check:
            return {"changed": False, "path": str(path), "parts": [], "troubles": []}
        outcome = gather.collect(source, path, timeout=args["timeout"], progress=self.progress)
        return {
            "changed": False,
            "path": str(outcome.path),
            "parts": [vars(part) for part in outcome.parts],
            "troubles": outcome.troubles,
        }
