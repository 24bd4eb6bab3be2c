# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Controller side of the podman provider: see plugins/modules/podman_nodes.py for its documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core import errors, paths, progress
from ansible_collections.devenv.lab.plugins.plugin_utils.core.program import ProgramFailed
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory, ssh_keys, state
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import cli as podman
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import nodes as podman_nodes


class ActionModule(ActionBase):
    """Run one verb on all nodes of an environment at once."""

    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset(("environment", "verb", "image", "store", "stores", "names", "grace"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _ignored, args = self.validate_argument_spec(
            argument_spec={
                "environment": {"type": "str", "required": True},
                "verb": {
                    "type": "str",
                    "required": True,
                    "choices": ["create", "start", "stop", "status", "destroy", "remove"],
                },
                "image": {"type": "str"},
                "store": {"type": "path"},
                "stores": {"type": "dict", "default": {}},
                "names": {"type": "list", "elements": "str", "default": []},
                "grace": {"type": "int", "default": 30},
            },
            required_if=[("verb", "create", ("image", "store")), ("verb", "remove", ("names",))],
        )
        try:
            return self._run_verb(args, task_vars or {})
        except errors.DevenvError as error:
            return errors.as_result(error)
        except ProgramFailed as error:
            return errors.as_result(errors.DevenvError("podman_failed", str(error)))

    def _run_verb(self, args: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        name, verb, check = args["environment"], args["verb"], self._task.check_mode
        folder = paths.environment(name)
        if verb in ("status", "create", "start") and check:
            verb = "status"
        if check and verb != "status":
            return {"changed": bool(podman.containers(name)), "nodes": [], "notes": []}
        if verb == "status":
            return self._status(name, task_vars, would_create=args["verb"] == "create")
        if verb == "destroy":
            outcome = podman_nodes.destroy(name)
        elif verb == "stop":
            outcome = podman_nodes.stop(name, args["grace"])
        elif verb == "remove":
            outcome = podman_nodes.remove_nodes(name, folder, args["names"])
        else:
            outcome = self._up(verb, name, folder, args, task_vars)
        for note in outcome.notes:
            progress.say(note)
        live = [c.node for c in podman.containers(name) if c.state == "running"] if verb in ("create", "start") else []
        return {
            "changed": outcome.changed,
            "nodes": live,
            "made": outcome.made,
            "started": outcome.started,
            "stopped": outcome.stopped,
            "removed": outcome.removed,
            "notes": outcome.notes,
        }

    def _up(
        self, verb: str, name: str, folder: Path, args: dict[str, Any], task_vars: dict[str, Any]
    ) -> podman_nodes.Outcome:
        resolved = inventory.profile_of(task_vars) or {}
        home = str(paths.home())
        plan = podman_nodes.claim(name, home, resolved, state.read_network(folder))
        state.write_network(folder, plan)
        nodes = podman_nodes.node_specs(resolved, plan)
        if verb == "start":
            return podman_nodes.start(name, folder, plan, nodes)
        known = ssh_keys.node_addresses(plan)
        ssh_keys.ensure_hosts(folder, known)
        ssh_keys.write_known_hosts(folder, known)
        return podman_nodes.create(
            name,
            home,
            folder,
            nodes,
            plan,
            args["image"],
            Path(args["store"]),
            progress.say,
            {str(node): Path(str(place)) for node, place in args["stores"].items()},
        )

    def _status(self, name: str, task_vars: dict[str, Any], *, would_create: bool) -> dict[str, Any]:
        states = {container.node: container.state for container in podman.containers(name)}
        wanted = list(task_vars.get("groups", {}).get("nodes", []))
        told = podman_nodes.status(states, wanted, would_create=would_create)
        for note in told["notes"]:
            progress.say(note)
        return told
