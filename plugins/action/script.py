# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run a script on a host: the controller's side. See plugins/modules/script.py for its documentation."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action

_PR_SET_PDEATHSIG = 1


class ActionModule(Action, ActionBase):
    """Reads ``src`` here, and shows the lines that were asked for."""

    _requires_connection = True
    _supports_async = True

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        src = args.pop("src", None)
        if src:
            if args.get("content"):
                return {"failed": True, "msg": "give either src or content", "devenv_reason": "script_invalid"}
            try:
                found = self._find_needle("files", src)
                # Decrypted, where it is in a vault; Ansible removes such a copy at its end.
                args["content"] = Path(self._loader.get_real_file(found)).read_text()
            except (AnsibleError, OSError, UnicodeDecodeError) as error:
                return {"failed": True, "msg": f"src: {error}", "devenv_reason": "script_invalid"}
            args["name"] = args.get("name") or Path(found).name
        with _ends_with_ansible():
            result: dict[str, Any] = self._execute_module(
                module_name="devenv.lab.script",
                module_args=args,
                task_vars=variables,
                wrap_async=self._task.async_val,
            )
        for line in result.get("shown") or []:
            self.say(line)
        if result.get("failed") and result.get("log"):
            result["devenv_advice"] = f"{result['log']} on the host has the whole output"
        return result


@contextlib.contextmanager
def _ends_with_ansible() -> Iterator[None]:
    """Let this worker end when Ansible's main process does, and be it killed.

    A worker that outlives it would keep the connection, by whose end the host knows that nobody waits for the script.
    """
    try:
        prctl = ctypes.CDLL(None).prctl
    except (AttributeError, OSError):
        yield
        return
    prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    main = multiprocessing.parent_process()
    if main is not None and os.getppid() != main.pid:
        os.kill(os.getpid(), signal.SIGTERM)
    try:
        yield
    finally:
        prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0)
