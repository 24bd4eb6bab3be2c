# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Action of M(devenv.lab.stage): the begin and the end of a stage."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any, ClassVar

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core import (
    deadline,
    errors,
    processes,
    program,
    redact,
)
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action, Spec
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory, lock, runs, stages, state
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import kubeconfig_merge
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import rules
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile

STAGES = ["preflight", "bundle", "provision", "prepare", "kubernetes", "labels", "addons", "validate", "down"]


class ActionModule(Action, ActionBase):
    """Takes and gives back the lock, makes the state folder and the run folder."""

    SPEC: ClassVar[Spec] = {
        "name": {"type": "str", "required": True, "choices": STAGES},
        "state": {"type": "str", "default": "begin", "choices": ["begin", "end"]},
        "command": {"type": "str", "default": ""},
        "last": {"type": "bool", "default": False},
        "while_upgrading": {"type": "bool", "default": False},
    }

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        name = variables.get("devenv_name")
        if not name:
            raise errors.DevenvError("profile_not_given", "no profile was given")
        folder = Path(str(variables.get("devenv_state") or state.folder_of(str(name))))
        me = lock.holder_of(_main_pid(), _run_id(), args["command"] or _command(), os.environ.get("DEVENV_OWNER", ""))
        if args["state"] == "end":
            if args["name"] == "down" and not self.check:
                kubeconfig_merge.unmerge(folder)
            place = None if self.check else stages.end(folder, me, args["name"], last=args["last"])
            return {"changed": False, "devenv_run_dir": str(place or "")}
        if args["name"] != "down":
            deadline.check(f"stage {args['name']}")
        resolved = inventory.profile_of(variables)
        if resolved is None and args["name"] == "preflight" and variables.get("devenv_snapshot"):
            from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import catalogue

            # One that is there gave a profile; of one that is not, the nearest is named.
            catalogue.read(folder.parent.parent, str(variables["devenv_snapshot"]))
        begun = stages.begin(
            folder,
            me,
            args["name"],
            resolved=resolved,
            hosts=len(variables.get("groups", {}).get("nodes", [])),
            check=self.check,
            while_upgrading=args["while_upgrading"],
            progress=self.say,
        )
        facts = {"devenv_run_id": begun.run_id, "devenv_run_dir": str(begun.run_dir or "")}
        return {
            "changed": False,
            **facts,
            "devenv_state": str(folder),
            "devenv_first": begun.first,
            "devenv_created": begun.created,
            "devenv_command": me.command,
            "devenv_profile_name": resolved["profile"] if resolved else "",
            "ansible_facts": facts,
            **_warned(resolved if begun.first and args["name"] != "down" else None),
        }


def _warned(resolved: Profile | None) -> dict[str, list[str]]:
    found = rules.warnings(resolved) if resolved else []
    return {"warnings": found} if found else {}


def _main_pid() -> int:
    """The ansible process: actions run in forks of it."""
    parent = multiprocessing.parent_process()
    return os.getpid() if parent is None or parent.pid is None else parent.pid


def _run_id() -> str:
    """The id that the command (with DEVENV_OWNER) or the record callback (with DEVENV_RECORD) has chosen; an
    inherited one is another run's.
    """
    chosen = os.environ.get(program.MARKER, "")
    ours = "DEVENV_OWNER" in os.environ or os.environ.get("DEVENV_RECORD") == str(_main_pid())
    return chosen if chosen and ours else runs.new_id()


def _command() -> str:
    return redact.redact(os.environ.get("DEVENV_COMMAND") or processes.command_line(_main_pid()))[:300]
