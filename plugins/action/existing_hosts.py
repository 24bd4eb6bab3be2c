# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Controller side of hosts that exist already: see plugins/modules/existing_hosts.py for its documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import store as bundles
from ansible_collections.devenv.lab.plugins.plugin_utils.core import errors, paths, progress
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory, state
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.existing import hosts as existing
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import remote

CANNOT = {"start": "starts no hosts", "stop": "stops no hosts", "snapshot": "makes no snapshots of hosts"}


class ActionModule(ActionBase):
    """Run one verb on all hosts of an environment at once."""

    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset(("environment", "verb", "version", "names"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _ignored, args = self.validate_argument_spec(
            argument_spec={
                "environment": {"type": "str", "required": True},
                "verb": {
                    "type": "str",
                    "required": True,
                    "choices": [
                        "preflight",
                        "create",
                        "status",
                        "start",
                        "stop",
                        "snapshot",
                        "upgrade",
                        "remove",
                        "destroy",
                    ],
                },
                "version": {"type": "str", "default": ""},
                "names": {"type": "list", "elements": "str", "default": []},
            },
            required_if=[
                ("verb", "create", ("version",)),
                ("verb", "upgrade", ("version",)),
                ("verb", "remove", ("names",)),
            ],
        )
        try:
            verb = args["verb"]
            if verb in CANNOT:
                raise errors.DevenvError("provider_cannot", f"the provider existing {CANNOT[verb]}", where=verb)
            run_verb = getattr(self, f"_{verb}")
            outcome: existing.Outcome = run_verb(args, task_vars or {})
        except errors.DevenvError as error:
            return errors.as_result(error)
        for note in outcome.notes:
            progress.say(note)
        return {"changed": outcome.changed, "started": [], "stopped": [], **vars(outcome)}

    def _preflight(self, args: dict[str, Any], variables: dict[str, Any]) -> existing.Outcome:
        hosts = _hosts(variables)
        seen = self._look(hosts, variables)
        existing.require(hosts, seen, self._owner(args), str(variables["devenv_engine"]))
        return existing.Outcome(nodes=[host.name for host in hosts])

    def _create(self, args: dict[str, Any], variables: dict[str, Any]) -> existing.Outcome:
        resolved = inventory.profile_of(variables) or {}
        hosts, mine = _hosts(variables), self._owner(args)
        seen = self._look(hosts, variables)
        existing.require(hosts, seen, mine, str(variables["devenv_engine"]))
        if self._task.check_mode and bundles.find(args["version"]) is None:
            return existing.Outcome(made=[host.name for host in hosts])
        bundle = bundles.require(args["version"])
        lacking = existing.undelivered(hosts, seen, bundle.digest)
        there = [host.name for host in hosts if host not in lacking]
        if self._task.check_mode:
            return existing.Outcome(nodes=there, made=[host.name for host in lacking])
        folder = Path(str(variables["devenv_state"]))
        state.write_network(folder, existing.network(resolved, state.read_network(folder)))
        made = existing.deliver(lacking, bundle, mine, progress.say).made if lacking else []
        return existing.Outcome(nodes=[host.name for host in hosts], made=made)

    def _upgrade(self, args: dict[str, Any], variables: dict[str, Any]) -> existing.Outcome:
        hosts, mine = _hosts(variables), self._owner(args)
        bundle = bundles.require(args["version"])
        lacking = existing.undelivered(hosts, self._look(hosts, variables), bundle.digest)
        if self._task.check_mode or not lacking:
            return existing.Outcome(nodes=[host.name for host in hosts], made=[host.name for host in lacking])
        return existing.note(lacking, bundle.digest, mine)

    def _status(self, args: dict[str, Any], variables: dict[str, Any]) -> existing.Outcome:
        hosts = _hosts(variables)
        seen, mine = self._look(hosts, variables), self._owner(args)
        ours = [name for name, one in seen.items() if _is_ours(one.data.get("record", {}), mine)]
        return existing.Outcome(nodes=ours)

    def _remove(self, args: dict[str, Any], variables: dict[str, Any]) -> existing.Outcome:
        return self._reset(_hosts(variables, args["names"]), args)

    def _destroy(self, args: dict[str, Any], variables: dict[str, Any]) -> existing.Outcome:
        # Written before the first host is: without it nothing was put anywhere.
        network = state.read_network(paths.environment(args["environment"])) or {"nodes": {}}
        known = [name for name in network["nodes"] if name in variables["hostvars"]]
        return self._reset(_hosts(variables, known), args)

    def _reset(self, hosts: list[existing.Host], args: dict[str, Any]) -> existing.Outcome:
        if self._task.check_mode or not hosts:
            return existing.Outcome(removed=[host.name for host in hosts])
        progress.say(f"{len(hosts)} hosts: take away what was put there")
        return existing.reset(hosts, self._owner(args))

    def _look(self, hosts: list[existing.Host], variables: dict[str, Any]) -> dict[str, Any]:
        hostvars = variables["hostvars"]
        virtual = any(hostvars[host.name].get("devenv_endpoint_kind") == "virtual" for host in hosts)
        return existing.look(hosts, virtual)

    def _owner(self, args: dict[str, Any]) -> dict[str, str]:
        return existing.owner(args["environment"], str(paths.home()))


def _is_ours(record: dict[str, Any], mine: dict[str, str]) -> bool:
    return all(record.get(key) == value for key, value in mine.items()) and bool(record.get("digest"))


def _hosts(variables: dict[str, Any], names: list[str] | None = None) -> list[existing.Host]:
    """The named nodes, by default all of the profile, with the connection that their variables say."""
    hostvars, wanted = variables["hostvars"], variables.get("groups", {}).get("nodes", []) if names is None else names
    return [
        existing.Host(
            {"name": name, "group": hostvars[name]["devenv_group"], "host": dict(hostvars[name]["devenv_host"])},
            remote.target(name, hostvars[name], own_connection=True),
        )
        for name in wanted
    ]
