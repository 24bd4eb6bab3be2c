"""Run an existing shell script with declared variables, as an idempotent step."""

from __future__ import annotations

import os
import secrets as randomness
import shlex
import shutil
import tempfile
import time
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.script import request, shell, state, supervise
from ansible_collections.devenv.lab.plugins.module_utils.script.attempts import Attempts
from ansible_collections.devenv.lab.plugins.module_utils.script.control import Control, Interrupted
from ansible_collections.devenv.lab.plugins.module_utils.script.delivery import Delivery
from ansible_collections.devenv.lab.plugins.module_utils.script.guards import Guards
from ansible_collections.devenv.lab.plugins.module_utils.script.programs import Programs, Stop
from ansible_collections.devenv.lab.plugins.module_utils.script.request import Call
from ansible_collections.devenv.lab.plugins.module_utils.script.state import State
from ansible_collections.devenv.lab.plugins.module_utils.script.values import Invalid


def supervised(call: Call, params: dict[str, Any], check: bool, diff: bool, runtime: str = "") -> dict[str, Any]:
    """Do `perform` in a supervisor, with a private folder in ``runtime``. Raises what `supervise.supervised` raises."""
    # For this user alone, and gone in any case: who is left of the two processes removes it.
    folder = tempfile.mkdtemp(prefix=state.PREFIX, dir=runtime or state.runtime())
    finish = params["on_interrupt"] == "finish" and not check

    def work(control: Control) -> dict[str, Any]:
        try:
            return perform(call, params, folder, check, diff, control)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    try:
        return supervise.supervised(work, os.path.basename(folder), finish, params["grace"] + 10)
    except supervise.Lost:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def perform(
    call: Call, params: dict[str, Any], folder: str, check: bool, diff: bool, control: Control
) -> dict[str, Any]:
    """Do the whole of it, in the supervisor. Returns the module's result; a failed one has ``failed``, and ``ended`` or
    a reason of ours.
    """
    absent = request.missing(call, params)
    if absent and check:
        changed = params["changed_when"] != "never"
        return {"changed": changed, "ran": False, "msg": f"there is no {', '.join(absent)} yet"}
    try:
        if absent:
            raise Invalid(f"there is no {', '.join(absent)}")
        if call.exports and not shell.kind(call.argv):
            raise Invalid(f"exports: only a shell can export, not {call.argv[0] if call.argv else 'a program'}")
        own = State(
            os.path.join(params["state"] or state.default_folder(), call.name), params["log"], params["keep_logs"]
        )
        if check:
            return ScriptRun(call, params, own, folder, control).check(diff)
        with own.locked(params["timeout"], control):
            own.end_killed(params["grace"])
            # The record is read under the lock: the run that was waited for may have been the same.
            return ScriptRun(call, params, own, folder, control).run(diff)
    except Invalid as error:
        return {"failed": True, "msg": str(error), "devenv_reason": "script_invalid"}
    except TimeoutError:
        return _failed("busy", f"another run of {call.name} still goes on after {params['timeout']:g} s")
    except Interrupted:
        return _failed("interrupted", f"{call.name} was interrupted before it began")
    except OSError as error:
        return _failed("failed", f"{error.filename or call.name}: {error.strerror}")


def _failed(ended: str, message: str, **more: Any) -> dict[str, Any]:
    return {"failed": True, "ended": ended, "msg": message, "changed": False, "ran": False, **more}


class ScriptRun:
    """One run of a script whose parameters are right."""

    def __init__(self, call: Call, params: dict[str, Any], own: State, folder: str, control: Control) -> None:
        self._call, self._params, self._state, self._folder = call, params, own, folder
        self._record = own.last()
        self._salt = str(self._record.get("salt") or randomness.token_hex(16))
        self._described = request.description(call, params, self._salt)
        self._programs = Programs(call, params, control)
        self._delivery = Delivery(call, params, folder, self._programs)
        self._guards = Guards(call, params, self._described, self._record, self._delivery)

    def check(self, diff: bool) -> dict[str, Any]:
        """Look at the guards in check mode; the script runs only with arguments that make it change nothing."""
        try:
            guard = self._guards.holding(self._programs)
            if guard:
                return self._guards.result(guard)
            changed = self._params["changed_when"] != "never"
            result: dict[str, Any] = {"changed": changed, "ran": False, "msg": "would run"}
            if self._params["check_arguments"]:
                arguments = [*self._call.arguments, *map(str, self._params["check_arguments"])]
                result = self._attempts(self._call._replace(arguments=arguments, exports=[]))
        except Stop as stop:
            return self._stopped(stop)
        return {**result, **(self._difference() if diff else {})}

    def run(self, diff: bool) -> dict[str, Any]:
        """Run the script unless a guard holds."""
        with self._state.running(os.path.basename(self._folder), self._folder):
            guard, early = "", None
            try:
                guard = self._guards.holding(self._programs)
            except Stop as stop:
                early = stop
            if guard:
                # The log of the last run that did something stays.
                return self._guards.result(guard)
            result = self._logged(early)
        if not result.get("failed"):
            facts = result.get("ansible_facts") or {}
            record = {"salt": self._salt, "described": self._described, "facts": facts, "ended": int(time.time())}
            self._state.succeeded(record)
        return {**result, **(self._difference() if diff else {})}

    def _attempts(self, call: Call) -> dict[str, Any]:
        return Attempts(call, self._params, self._delivery, self._programs).run()

    def _logged(self, early: Stop | None) -> dict[str, Any]:
        """Run the script (or say why it cannot be run) with a log."""
        call, clean = self._call, self._programs.lines.clean
        path, log = self._state.open_log()
        try:
            before = self._programs.screen.output
            self._programs.show(log)
            screen = self._programs.screen
            screen.note(f"{call.name}: {clean(shlex.join([*call.argv, call.path or call.name]))}")
            for line in before:
                screen.note(line)
            try:
                if early:
                    screen.output = before
                    raise early
                result = self._attempts(call)
            except Stop as stop:
                result = self._stopped(stop)
            screen.note(f"end: {clean(str(result['msg']))}")
        finally:
            os.close(log)
        if result.get("failed"):
            result["msg"] = f"{result['msg']} (log: {path})"
        return {**result, "log": path}

    def _stopped(self, stop: Stop) -> dict[str, Any]:
        message, output = self._programs.lines.clean(stop.message), self._programs.screen.output
        result = _failed(stop.ended, message, output=output, ran=stop.ran)
        result["changed"] = stop.ran and self._params["changed_when"] != "never"
        if stop.left:
            result["left"] = stop.left
            result["msg"] += f"; could not be ended: {', '.join(stop.left)}"
        if stop.code is not None and stop.ended != "interrupted":
            result["rc"] = stop.code
        return result

    def _difference(self) -> dict[str, Any]:
        clean, name = self._programs.lines.clean, self._call.name
        return {
            "diff": {
                "before_header": f"{name}: the last run that succeeded",
                "after_header": f"{name}: this run",
                "before": clean(request.shown(self._record.get("described") or {})),
                "after": clean(request.shown(self._described)),
            }
        }
