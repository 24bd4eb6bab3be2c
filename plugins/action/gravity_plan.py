# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Controller side of an installation of Gravity: see plugins/modules/gravity_plan.py for its documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action, Spec
from ansible_collections.devenv.lab.plugins.plugin_utils.engines.gravity import tarball
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import state
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import GravitySettings


class ActionModule(Action, ActionBase):
    SPEC: ClassVar[Spec] = {
        "tarball": {"type": "path", "required": True},
        "sha256": {"type": "str", "required": True},
        "flavor": {"type": "str", "default": ""},
        "nodes": {"type": "list", "elements": "str", "required": True},
        "state": {"type": "path", "default": ""},
    }

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        hostvars = variables["hostvars"]
        nodes = [
            {
                "name": name,
                "group": hostvars[name]["devenv_group"],
                "node_type": hostvars[name].get("devenv_node_type", ""),
            }
            for name in args["nodes"]
        ]
        folder = tarball.unpacked(args["tarball"], args["sha256"], paths.cache())
        plan = tarball.plan(tarball.application(folder), nodes, args["flavor"])
        changed = bool(args["state"]) and self._record(Path(args["state"]), args)
        return {
            "changed": changed,
            "program": str(folder / tarball.PROGRAM),
            "version": plan.version,
            "flavor": plan.flavor,
            "node_types": dict(plan.types),
        }

    def _record(self, folder: Path, args: dict[str, Any]) -> bool:
        """The profile that the environment keeps names this tarball from now on."""
        resolved = state.stored_profile(folder)
        said: GravitySettings = {
            **resolved["kubernetes"]["gravity"],
            "tarball": args["tarball"],
            "sha256": args["sha256"],
        }
        resolved["kubernetes"] = {**resolved["kubernetes"], "gravity": said}
        if self.check:
            return bool(state.read_profile(folder) != resolved)
        changed = [state.write_profile(folder, resolved), state.write_inventory(folder)]
        return any(changed)
