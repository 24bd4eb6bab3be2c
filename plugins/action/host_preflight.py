"""Check the host before the first change; fail with everything that is missing."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import module, preflight, registry
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import Request


class ActionModule(Action, ActionBase):
    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        resolved = inventory.required_profile(variables)
        recreate = module.is_accepted(variables)
        request = Request(args["environment"], resolved, variables["hostvars"], recreate=recreate)
        probes = registry.of(resolved).preflight(request)
        preflight.require(probes)
        for probe in probes:
            if not probe.ok:
                self.progress(f"{probe.name}: {probe.seen}; to change it: {probe.fix}")
        return {"changed": False, "probes": [vars(probe) for probe in probes]}
