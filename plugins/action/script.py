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
from ansible_collections.devenv.lab.plugins.plugin_utils.core import progress

_PR_SET_PDEATHSIG = 1


class ActionModule(ActionBase):
    """Reads ``src`` here, and shows the lines that were asked for."""

    _supports_check_mode = True
    _supports_diff = True
    _supports_async = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        src = arguments.pop("src", None)
        if src:
            if arguments.get("content"):
                return {
                    **result,
                    "failed": True,
                    "msg": "give either src or content",
                    "devenv_reason": "script_invalid",
                }
            try:
                found = self._find_needle("files", src)
                # Decrypted, where it is in a vault; Ansible removes such a copy at its end.
                arguments["content"] = Path(self._loader.get_real_file(found)).read_text()
            except (AnsibleError, OSError, UnicodeDecodeError) as error:
                return {**result, "failed": True, "msg": f"src: {error}", "devenv_reason": "script_invalid"}
            arguments["name"] = arguments.get("name") or Path(found).name
        with _ends_with_ansible():
            ended = self._execute_module(
                module_name="devenv.lab.script",
                module_args=arguments,
                task_vars=task_vars,
                wrap_async=self._task.async_val,
            )
        for line in ended.get("shown") or []:
            progress.say(line)
        result.update(ended)
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
