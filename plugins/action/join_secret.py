# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keep the secret for joins on the controller."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, ClassVar

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action, Spec
from ansible_collections.devenv.lab.plugins.plugin_utils.engines.kubeadm import join_secret


class ActionModule(Action, ActionBase):
    """Says whether the secret was made or removed, never the secret."""

    SPEC: ClassVar[Spec] = {
        "path": {"type": "path", "required": True},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    }

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        path = Path(args["path"])
        if args["state"] == "absent":
            join_secret.remove(path, check=self.check)
        else:
            join_secret.ensure(path, time.time(), check=self.check)
        # A file for the time of a run is no change of the environment.
        return {"changed": False, "path": str(path)}
