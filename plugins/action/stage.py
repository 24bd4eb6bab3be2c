"""Begin or end a stage: the lock, the state directory and the folder of the run."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
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
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import rules


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
        if args["name"] != "down":
            deadline.check(f"stage {args['name']}")
        resolved = inventory.profile_of(variables)
        if resolved is None and args["name"] == "preflight" and variables.get("devenv_snapshot"):
            # Imported here, since every stage runs this action and only this case needs it.
            from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import catalogue

            # An existing snapshot would have yielded a profile, so this fails and names the closest match.
            catalogue.read(folder.parent.parent, str(variables["devenv_snapshot"]))
        begun = stages.begin(
            folder,
            holder,
            args["name"],
            resolved=resolved,
            hosts=len(variables.get("groups", {}).get("nodes", [])),
            check=self.check,
            while_upgrading=args["while_upgrading"],
            progress=self.progress,
        )
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
