"""Run a script on a host: the part on the controller."""

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
    """Reads ``src`` on the controller, and prints the lines that match ``show_pattern``."""

    VALIDATES = False
    _requires_connection = True
    _supports_async = True

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        src = args.pop("src", None)
        if src:
            if args.get("content"):
                return {"failed": True, "msg": "give either src or content", "devenv_reason": "script_invalid"}
            try:
                path = self._find_needle("files", src)
                # If the file is in a vault, this is a decrypted copy, which Ansible removes when it ends.
                args["content"] = Path(self._loader.get_real_file(path)).read_text()
            except (AnsibleError, OSError, UnicodeDecodeError) as error:
                return {"failed": True, "msg": f"src: {error}", "devenv_reason": "script_invalid"}
            args["name"] = args.get("name") or Path(path).name
        with _ends_with_ansible():
            result: dict[str, Any] = self._execute_module(
                module_name="devenv.lab.script",
                module_args=args,
                task_vars=variables,
                wrap_async=self._task.async_val,
            )
        for line in result.get("shown") or []:
            self.progress(line)
        if result.get("failed") and result.get("log"):
            result["devenv_advice"] = f"{result['log']} on the host has the complete output"
        return result


@contextlib.contextmanager
def _ends_with_ansible() -> Iterator[None]:
    """Terminate this worker when Ansible's main process ends, even if that is killed.

    A worker that outlives it would keep the connection open, and the host detects by its end that the run is over.
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
