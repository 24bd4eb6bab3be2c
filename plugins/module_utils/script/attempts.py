"""Run a script until it ended well, or its attempts are used up."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.script import request, shell, values
from ansible_collections.devenv.lab.plugins.module_utils.script.control import Ended
from ansible_collections.devenv.lab.plugins.module_utils.script.delivery import Delivery
from ansible_collections.devenv.lab.plugins.module_utils.script.guards import as_facts
from ansible_collections.devenv.lab.plugins.module_utils.script.programs import Programs, Stop
from ansible_collections.devenv.lab.plugins.module_utils.script.request import Call
from ansible_collections.devenv.lab.plugins.module_utils.script.values import Invalid


class Attempts:
    """The attempts of one run."""

    def __init__(self, call: Call, params: dict[str, Any], delivery: Delivery, programs: Programs) -> None:
        self._call, self._params, self._delivery, self._programs = call, params, delivery, programs
        self._dump = os.path.join(delivery.folder, "exported") if call.exports else ""

    def run(self) -> dict[str, Any]:
        """Run the script, again after the codes for that; return the result. Raises Stop unless it ended well."""
        params, call, delivery = self._params, self._call, self._delivery
        file = delivery.script(call)
        environment = delivery.environment()
        argv, env = shell.run(call.argv, file, call.arguments, environment, delivery.folder, self._dump)
        began = time.monotonic()
        attempts = 1
        ended = self._attempt(argv, env)
        while ended.code in params["retry_codes"] and not self._is_good(ended.code) and attempts <= params["retries"]:
            again = f"attempt {attempts} ended with code {ended.code}; again in {params['retry_delay']:g} s"
            self._programs.screen.note(again)
            self._programs.wait(params["retry_delay"])
            attempts += 1
            ended = self._attempt(argv, env)
        self._judge(ended)
        return {
            "changed": self._is_changed(ended.code),
            "ran": True,
            "ended": "done",
            "msg": f"code {ended.code}",
            "rc": ended.code,
            "attempts": attempts,
            "seconds": round(time.monotonic() - began, 3),
            "output": self._programs.screen.output,
            "shown": self._programs.screen.shown,
            **as_facts(self._exports()),
        }

    def _attempt(self, argv: Sequence[str], env: dict[str, str]) -> Ended:
        self._delivery.rewind()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._dump)
        self._programs.screen.matched = False
        return self._programs.run(argv, env, ran=True)

    def _is_good(self, code: int) -> bool:
        more = self._params["changed_codes"] if self._params["changed_when"] == "code" else []
        return code in self._params["ok_codes"] or code in more

    def _judge(self, ended: Ended) -> None:
        """Raise Stop for an end that is none of the good ones."""
        what = self._call.path or self._call.name
        if ended.timed_out:
            message = f"{what} did not end in {self._params['timeout']:g} s and was ended"
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

    def _exports(self) -> dict[str, Any]:
        """Return the facts of what the script exported. Raises Stop."""
        call = self._call
        if not call.exports:
            return {}
        found = shell.read_dump(self._dump)
        if found is None:
            message = f"{call.name} did not come to its end in its own shell, so what it exported is unknown"
            raise Stop("failed", message, ran=True)
        lost = [one.name for one in call.exports if one.required and one.name not in found]
        if lost:
            raise Stop("failed", f"{call.name} did not export {', '.join(lost)}", ran=True)
        facts = {}
        for one in call.exports:
            if one.name in found:
                text = found[one.name].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
                if request.holds(text, call.texts.secrets):
                    message = f"{one.name} holds a secret, and cannot become a fact, which -vvv prints"
                    raise Stop("failed", message, ran=True)
                try:
                    facts[one.fact] = values.read_back(one, text)
                except Invalid as error:
                    raise Stop("failed", str(error), ran=True) from None
        return facts
