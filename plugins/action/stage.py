"""Begin or end a stage: the lock, the state directory and the folder of the run."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

from ansible import constants, context
from ansible.plugins.action import ActionBase
from ansible.utils.vars import load_extra_vars
from ansible_collections.devenv.lab.plugins.plugin_utils.core import (
    deadline,
    errors,
    processes,
    program,
    redact,
)
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory, lock, runs, stages, state
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import kubeconfig_merge
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import changes, rules
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile
from ansible_collections.devenv.lab.plugins.plugin_utils.records import expiry
from ansible_collections.devenv.lab.plugins.plugin_utils.variables import check, kept


class ActionModule(Action, ActionBase):
    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        name = variables.get("devenv_name")
        if not name:
            raise errors.DevenvError("profile_not_given", "no profile was given")
        folder = Path(str(variables.get("devenv_state") or state.folder_of(str(name))))
        holder = lock.holder_of(
            _main_pid(), _run_id(), args["command"] or _command(), os.environ.get("DEVENV_OWNER", "")
        )
        if args["state"] == "end":
            if args["name"] == "down" and not self.check:
                kubeconfig_merge.unmerge(folder)
            run_dir = None if self.check else stages.end(folder, holder, args["name"], last=args["last"])
            return {"changed": False, "devenv_run_dir": str(run_dir or "")}
        _require_order()
        # Again, since a static inventory does not check them.
        extra = load_extra_vars(self._loader)
        check.require_options(extra, context.CLIARGS.get("extra_vars") or ())
        ttl = str(variables.get("devenv_ttl") or "")
        if ttl:
            expiry.parse(ttl)
        if args["name"] != "down":
            deadline.check(f"stage {args['name']}")
        resolved = inventory.profile_of(variables)
        if resolved is None and args["name"] == "preflight" and variables.get("devenv_snapshot"):
            # Imported here, since every stage runs this action and only this case needs it.
            from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import catalogue

            # An existing snapshot would have yielded a profile, so this fails and names the closest match.
            catalogue.read(folder.parent.parent, str(variables["devenv_snapshot"]))
        version = extra.get("devenv_kubernetes_version")
        if resolved and version and args["name"] == "preflight" and not args["while_upgrading"]:
            _refuse_version(resolved, str(version))
        begun = stages.begin(
            folder,
            holder,
            args["name"],
            resolved=resolved,
            hosts=len(variables.get("groups", {}).get("nodes", [])),
            variables=kept.selected(resolved["kubernetes"]["engine"], extra) if resolved else {},
            check=self.check,
            while_upgrading=args["while_upgrading"],
            needs_nodes=args["needs_nodes"],
            progress=self.progress,
        )
        if ttl and begun.first and args["name"] == "preflight" and not self.check:
            expiry.start(folder, ttl)
        if begun.first and begun.run_dir:
            # Imported here, since every stage runs this action and only the first one needs it.
            from ansible_collections.devenv.lab.plugins.plugin_utils.records import killed

            killed.complete_older(folder, begun.run_id)
        facts = {"devenv_run_id": begun.run_id, "devenv_run_dir": str(begun.run_dir or "")}
        return {
            "changed": False,
            **facts,
            "devenv_state": str(folder),
            "devenv_first": begun.first,
            "devenv_created": begun.created,
            "devenv_command": holder.command,
            "devenv_profile_name": resolved["profile"] if resolved else "",
            "ansible_facts": facts,
            "warnings": rules.warnings(resolved) if resolved and begun.first and args["name"] != "down" else [],
        }


def _refuse_version(resolved: Profile, version: str) -> None:
    """Raise DevenvError profile_changed if the extra variable requests another version than the environment has."""
    new: Profile = {**resolved, "kubernetes": {**resolved["kubernetes"], "version": version}}
    for change in changes.between(resolved, new):
        message = f"{change.path}: {change.old!r} -> {change.new!r} ({change.why})"
        raise errors.DevenvError("profile_changed", message, where="devenv_kubernetes_version")


def _require_order() -> None:
    """Raise DevenvError for a setting with which the hosts of a play would not wait for each other."""
    strategy = str(constants.config.get_config_value("DEFAULT_STRATEGY"))
    if strategy.rpartition(".")[2] in ("free", "host_pinned"):
        raise errors.DevenvError("ansible_setting", f"the strategy {strategy} breaks the order of tasks")


def _main_pid() -> int:
    """Return the process of Ansible, which runs actions in forks."""
    parent = multiprocessing.parent_process()
    return os.getpid() if parent is None or parent.pid is None else parent.pid


def _run_id() -> str:
    """Return the ID that the command (with DEVENV_OWNER) or the callback `record` (with DEVENV_RECORD) has chosen.
    Without either, an inherited ID belongs to another run.
    """
    chosen = os.environ.get(program.MARKER, "")
    is_own = "DEVENV_OWNER" in os.environ or os.environ.get("DEVENV_RECORD") == str(_main_pid())
    return chosen if chosen and is_own else runs.new_id()


def _command() -> str:
    return redact.redact(os.environ.get("DEVENV_COMMAND") or processes.command_line(_main_pid()))[:300]
