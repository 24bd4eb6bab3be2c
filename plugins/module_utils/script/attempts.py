"""Run a script until it succeeds or no retries remain."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.script import request, shell, values
from ansible_collections.devenv.lab.plugins.module_utils.script.control import Ended
from ansible_collections.devenv.lab.plugins.module_utils.script.programs import Programs, Stop
from ansible_collections.devenv.lab.plugins.module_utils.script.request import Call
from ansible_collections.devenv.lab.plugins.module_utils.script.values import Invalid


class Attempts:
    """The attempts of one run."""

    def __init__(self, call: Call, params: dict[str, Any], programs: Programs) -> None:
        self._call, self._params, self._programs = call, params, programs
        self._dump = os.path.join(programs.folder, "exported") if call.exports else ""

    def run(self) -> dict[str, Any]:
        """Run the script, with retries; return the module's result and the exported ``facts``. Raises Stop unless it
        succeeds.
        """
        params, call, programs = self._params, self._call, self._programs
        argv, env = shell.run(
            call.argv, programs.script(), call.arguments, programs.environment(), programs.folder, self._dump
        )
        began = time.monotonic()
        attempts = 1
        ended = self._attempt(argv, env)
        while ended.code in params["retry_codes"] and not self._is_good(ended.code) and attempts <= params["retries"]:
            programs.screen.note(
                f"attempt {attempts} ended with code {ended.code}; retry in {params['retry_delay']:g} s"
            )
            programs.wait(params["retry_delay"])
            attempts += 1
            ended = self._attempt(argv, env)
        self._require_success(ended)
        return {
            "changed": self._is_changed(ended.code),
            "ran": True,
            "ended": "done",
            "msg": f"code {ended.code}",
            "rc": ended.code,
            "attempts": attempts,
            "seconds": round(time.monotonic() - began, 3),
            "output": programs.screen.output,
            "shown": programs.screen.shown,
            "facts": self._facts(),
        }

    def _attempt(self, argv: Sequence[str], env: dict[str, str]) -> Ended:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._dump)
        self._programs.screen.matched = False
        return self._programs.run(argv, env, ran=True)

    def _is_good(self, code: int) -> bool:
        more = self._params["changed_codes"] if self._params["changed_when"] == "code" else []
        return code in self._params["ok_codes"] or code in more

    def _require_success(self, ended: Ended) -> None:
        what = self._call.path or self._call.name
        if ended.timed_out:
            message = f"{what} did not end in {self._params['timeout']:g} s and was terminated"
            raise Stop("timeout", message, ended, ran=True)
        if not self._is_good(ended.code):
            last = next((line.strip() for line in reversed(self._programs.screen.output) if line.strip()), "")
            message = f"{what} ended with code {ended.code}{last and f': {last[:200]}'}"
            raise Stop("failed", message, ended, ran=True)

    def _is_changed(self, code: int) -> bool:
        rules = {
            "always": True,
            "never": False,
            "code": code in self._params["changed_codes"],
            "pattern": self._programs.screen.matched,
        }
        return rules[self._params["changed_when"]]

    def _facts(self) -> dict[str, Any]:
        """Return the facts from the exported variables. Raises Stop."""
        call = self._call
        if not call.exports:
            return {}
        exported = shell.read_dump(self._dump)
        if exported is None:
            message = f"{call.name} did not end in its own shell, so its exported variables are unknown"
            raise Stop("failed", message, ran=True)
        missing = [export.name for export in call.exports if export.required and export.name not in exported]
        if missing:
            raise Stop("failed", f"{call.name} did not export {', '.join(missing)}", ran=True)
        facts = {}
        for export in call.exports:
            if export.name in exported:
                text = exported[export.name].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
                if request.holds(text, call.texts.secrets):
                    message = f"{export.name} contains a secret, and cannot become a fact, which -vvv prints"
                    raise Stop("failed", message, ran=True)
                try:
                    facts[export.fact] = values.read_back(export, text)
                except Invalid as error:
                    raise Stop("failed", str(error), ran=True) from None
        return facts
