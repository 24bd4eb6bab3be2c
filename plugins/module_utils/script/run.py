"""Run an existing shell script with declared variables, as an idempotent step."""

from __future__ import annotations

import glob
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
from ansible_collections.devenv.lab.plugins.module_utils.script.programs import Programs, Stop
from ansible_collections.devenv.lab.plugins.module_utils.script.request import Call
from ansible_collections.devenv.lab.plugins.module_utils.script.state import State
from ansible_collections.devenv.lab.plugins.module_utils.script.values import Invalid


def supervised(call: Call, params: dict[str, Any], check: bool, diff: bool, runtime: str = "") -> dict[str, Any]:
    """Call `perform` in a supervisor, with a private folder in ``runtime``. Raises as `supervise.supervised` does."""
    # The folder is readable by this user only. Whichever of the two processes survives removes it.
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
    """Run the script, in the supervisor. Return the module's result; a failed one has ``failed``, and ``ended`` or
    ``devenv_reason``.
    """
    missing = request.missing(call, params)
    if missing and check:
        changed = params["changed_when"] != "never"
        return {"changed": changed, "ran": False, "msg": f"does not exist yet: {', '.join(missing)}"}
    try:
        if missing:
            raise Invalid(f"does not exist: {', '.join(missing)}")
        if call.exports and not shell.kind(call.argv):
            raise Invalid(f"exports: only a shell can export, not {call.argv[0] if call.argv else 'a binary'}")
        script_state = State(
            os.path.join(params["state"] or state.default_folder(), call.name), params["log"], params["keep_logs"]
        )
        if check:
            return ScriptRun(call, params, script_state, folder, control).check(diff)
        with script_state.locked(params["timeout"], control):
            script_state.end_killed(params["grace"])
            # The record is read under the lock: the run that held it may have been the same.
            return ScriptRun(call, params, script_state, folder, control).run(diff)
    except Invalid as error:
        return {"failed": True, "msg": str(error), "devenv_reason": "script_invalid"}
    except TimeoutError:
        return _failed("busy", f"another run of {call.name} did not end in {params['timeout']:g} s")
    except Interrupted:
        return _failed("interrupted", f"{call.name} was interrupted before it began")
    except OSError as error:
        return _failed("failed", f"{error.filename or call.name}: {error.strerror}")


def _failed(ended: str, message: str, **more: Any) -> dict[str, Any]:
    return {"failed": True, "ended": ended, "msg": message, "changed": False, "ran": False, **more}


def _with_facts(result: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    return {**result, "ansible_facts": facts, "exported": facts} if facts else result


class ScriptRun:
    """One run of a script whose parameters are valid."""

    def __init__(self, call: Call, params: dict[str, Any], script_state: State, folder: str, control: Control) -> None:
        self._call, self._params, self._state = call, params, script_state
        self._record = script_state.last()
        self._salt = str(self._record.get("salt") or randomness.token_hex(16))
        self._described = request.description(call, params, self._salt)
        self._programs = Programs(call, params, folder, control)

    def check(self, diff: bool) -> dict[str, Any]:
        """Evaluate the guards in check mode; the script runs only with arguments that make it change nothing."""
        try:
            skipped = self._skipped()
            if skipped:
                return skipped
            if self._params["check_arguments"]:
                arguments = [*self._call.arguments, *map(str, self._params["check_arguments"])]
                result = self._attempts(self._call._replace(arguments=arguments, exports=[]))
            else:
                result = {"changed": self._params["changed_when"] != "never", "ran": False, "msg": "would run"}
        except Stop as stop:
            return self._stopped(stop)
        return {**result, **(self._difference() if diff else {})}

    def run(self, diff: bool) -> dict[str, Any]:
        """Run the script unless a guard prevents it."""
        folder = self._programs.folder
        with self._state.running(os.path.basename(folder), folder):
            early = None
            try:
                skipped = self._skipped()
                if skipped:
                    # The log of the last run that did something stays.
                    return skipped
            except Stop as stop:
                early = stop
            result = self._logged(early)
        if not result.get("failed"):
            facts = result.get("ansible_facts") or {}
            record = {"salt": self._salt, "described": self._described, "facts": facts, "ended": int(time.time())}
            self._state.succeeded(record)
        return {**result, **(self._difference() if diff else {})}

    def _skipped(self) -> dict[str, Any] | None:
        """Return the result if a guard prevents the run, with the facts of the last run. Raises Stop."""
        guard = self._guard()
        if not guard:
            return None
        why = {
            "creates": f"{self._params['creates']} exists",
            "unless": "unless succeeds",
            "rerun": "nothing differs from the last successful run",
        }
        recorded = self._record.get("facts") or {}
        facts = {export.fact: recorded[export.fact] for export in self._call.exports if export.fact in recorded}
        result = {"changed": False, "ran": False, "skipped_by": guard, "msg": f"not run: {why[guard]}"}
        return _with_facts(result, facts)

    def _guard(self) -> str:
        """Return the guard that prevents the run, "" for none. Raises Stop."""
        creates, unless = self._params["creates"], self._params["unless"]
        if creates and glob.glob(os.path.join(self._call.chdir, os.path.expanduser(creates))):
            return "creates"
        if self._params["rerun"] == "changed" and self._record.get("described") == self._described:
            return "rerun"
        if unless:
            ended = self._programs.query("unless", ["bash", "-c", unless], self._programs.environment())
            return "unless" if ended.code == 0 else ""
        return ""

    def _logged(self, early: Stop | None) -> dict[str, Any]:
        """Run the script with a log; ``early`` is why it cannot run."""
        call, clean = self._call, self._programs.lines.clean
        path, log = self._state.open_log()
        try:
            before = self._programs.screen.output
            self._programs.open_screen(log)
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

    def _attempts(self, call: Call) -> dict[str, Any]:
        result = Attempts(call, self._params, self._programs).run()
        return _with_facts(result, result.pop("facts"))

    def _stopped(self, stop: Stop) -> dict[str, Any]:
        result = _failed(
            stop.ended,
            self._programs.lines.clean(stop.message),
            output=self._programs.screen.output,
            ran=stop.ran,
        )
        result["changed"] = stop.ran and self._params["changed_when"] != "never"
        if stop.how and stop.how.remaining:
            result["left"] = stop.how.remaining
            result["msg"] += f"; could not be terminated: {', '.join(stop.how.remaining)}"
        if stop.how and stop.ended != "interrupted":
            result["rc"] = stop.how.code
        return result

    def _difference(self) -> dict[str, Any]:
        clean, name = self._programs.lines.clean, self._call.name
        return {
            "diff": {
                "before_header": f"{name}: the last successful run",
                "after_header": f"{name}: this run",
                "before": clean(request.shown(self._record.get("described") or {})),
                "after": clean(request.shown(self._described)),
            }
        }
