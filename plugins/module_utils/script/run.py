"""Run an existing shell script with declared variables, as an idempotent step.

A run that succeeded leaves ``last.json`` in its state folder: what it ran with (secrets only as keyed digests) and what
it exported. ``running.json`` is there while a script runs: what a killed run left is found by it.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import secrets as randomness
import shlex
import shutil
import stat
import tempfile
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from ansible_collections.devenv.lab.plugins.module_utils.node import files
from ansible_collections.devenv.lab.plugins.module_utils.node.redact import RedactedLines
from ansible_collections.devenv.lab.plugins.module_utils.script import output, request, shell, supervise, values
from ansible_collections.devenv.lab.plugins.module_utils.script.request import Call
from ansible_collections.devenv.lab.plugins.module_utils.script.values import Invalid

PREFIX = "devenv-script-"


class Folders(NamedTuple):
    """Where a run keeps what: its state (private, stays) and its log ("": a new one in the state folder)."""

    state: str
    log: str


# --- the state folder -------------------------------------------------------------------------------------------------


def default_state() -> str:
    """Where runs keep their state: root's in /var/lib, a user's where XDG says."""
    if os.geteuid() == 0:
        return "/var/lib/devenv/scripts"
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(base, "devenv", "scripts")


def _write(path: str, data: dict[str, Any]) -> None:
    """A JSON file for its owner alone, whole or not there."""
    beside = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(beside)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
        json.dump(data, stream, indent=1)
    os.replace(beside, path)


def _logs(folder: str) -> list[str]:
    """Logs of earlier runs in a state folder, oldest first."""
    return sorted(glob.glob(os.path.join(glob.escape(folder), "*.log")))


def _open_log(folders: Folders, keep: int) -> tuple[str, int]:
    if folders.log:
        os.makedirs(os.path.dirname(folders.log), mode=0o700, exist_ok=True)
        path = folders.log
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    else:
        for old in _logs(folders.state)[: -(keep - 1) or None] if keep > 1 else _logs(folders.state):
            os.unlink(old)
        now = time.time()
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06}Z"
        path = os.path.join(folders.state, f"{stamp}.log")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    number = os.open(path, flags | os.O_CLOEXEC, 0o600)
    os.fchmod(number, 0o600)
    return path, number


def _lock(folder: str, timeout: float, control: supervise.Control) -> int:
    """Hold the state folder's lock (the descriptor closes with the process). Raises TimeoutError."""
    number = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + (timeout if timeout > 0 else float("inf"))
    while True:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return number
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(number)
                raise TimeoutError from None
            control.wait(0.2)


# --- the private folder -----------------------------------------------------------------------------------------------


def _runtime() -> str:
    """A folder in memory, when there is one that this user may write."""
    for path in ("/run" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm"):
        if path and os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK):
            return path
    return tempfile.gettempdir()


def _secret_file(path: str, data: bytes) -> None:
    # In a folder of its own: names are the user's, and others stand beside it.
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(data)


def _deliver(texts: values.Texts, folder: str) -> tuple[dict[str, str], list[int]]:
    """Put secrets where the script finds them. Variables that say where, and descriptors to inherit."""
    found, keep = {}, []
    for name, text in texts.secrets.items():
        if texts.ways[name] == "env":
            found[name] = text
            continue
        path = os.path.join(folder, "secrets", name)
        _secret_file(path, text.encode("utf-8", "surrogateescape"))
        found[name] = path
        if texts.ways[name] == "fd":
            number = os.open(path, os.O_RDONLY)
            os.unlink(path)
            keep.append(number)
            found[name] = f"/dev/fd/{number}"
    return found, keep


# --- environment ------------------------------------------------------------------------------------------------------


def _environment(call: Call, given: dict[str, str], where: dict[str, str], mark: str) -> dict[str, str]:
    found = {**given, **where, supervise.MARKER: mark}
    for name, text in call.texts.variables.items():
        if text is None:
            found.pop(name, None)
        else:
            found[name] = text
    return found


# --- the run ----------------------------------------------------------------------------------------------------------


def supervised(call: Call, params: dict[str, Any], check: bool, diff: bool) -> dict[str, Any]:
    """`perform` in a supervisor. Raises what `script_run.supervised` raises."""
    # For this user alone, and gone in any case: who is left of the two processes removes it.
    folder = tempfile.mkdtemp(prefix=PREFIX, dir=_runtime())
    mark = os.path.basename(folder)
    finish = params["on_interrupt"] == "finish" and not check

    def work(control: supervise.Control) -> dict[str, Any]:
        try:
            return perform(call, params, folder, check, diff, control)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    try:
        return supervise.supervised(work, mark, finish, params["grace"] + 10)
    except supervise.Lost:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def perform(
    call: Call, params: dict[str, Any], folder: str, check: bool, diff: bool, control: supervise.Control
) -> dict[str, Any]:
    """The whole of it, in the supervisor. Returns the module's result; a failed one has ``failed``, and ``ended`` or a
    reason of ours.
    """
    absent = request.missing(call, params)
    if absent and check:
        changed = params["changed_when"] != "never"
        return {"changed": changed, "ran": False, "msg": f"there is no {', '.join(absent)} yet"}
    try:
        if absent:
            raise Invalid(f"there is no {', '.join(absent)}")
        if call.exports and not shell.kind(call.argv):
            raise Invalid(f"exports: only a shell can tell them, not {call.argv[0] if call.argv else 'a program'}")
        return _perform(call, params, folder, check, diff, control)
    except Invalid as error:
        return {"failed": True, "msg": str(error), "devenv_reason": "script_invalid"}
    except TimeoutError:
        return _failed("busy", f"another run of {call.name} still goes on after {params['timeout']:g} s")
    except supervise.Interrupted:
        return _failed("interrupted", f"{call.name} was interrupted before it began")
    except OSError as error:
        return _failed("failed", f"{error.filename or call.name}: {error.strerror}")


def _perform(
    call: Call, params: dict[str, Any], folder: str, check: bool, diff: bool, control: supervise.Control
) -> dict[str, Any]:
    state = os.path.join(params["state"] or default_state(), call.name)
    last = os.path.join(state, "last.json")
    if check:
        return _Run(call, params, Folders(state, ""), folder, files.read_json(last), control).check(diff)
    os.makedirs(state, mode=0o700, exist_ok=True)
    os.chmod(state, 0o700)
    lock = _lock(state, params["timeout"], control)
    try:
        _end_killed(state, params["grace"])
        # Read under the lock: the run that was waited for may have been the same.
        record = files.read_json(last)
        return _Run(call, params, Folders(state, params["log"]), folder, record, control).run(diff)
    finally:
        os.close(lock)


def _failed(ended: str, message: str, **more: Any) -> dict[str, Any]:
    return {"failed": True, "ended": ended, "msg": message, "changed": False, "ran": False, **more}


def _end_killed(state: str, grace: float) -> None:
    """End what a run left that was killed with its supervisor."""
    path = os.path.join(state, "running.json")
    left = files.read_json(path)
    if not left:
        return
    mark = str(left.get("mark", ""))
    if mark and left.get("boot") == _boot():
        supervise.end(lambda: supervise.marked(mark), grace)
    folder = str(left.get("folder", ""))
    if os.path.basename(folder).startswith(PREFIX) and _own_folder(folder):
        shutil.rmtree(folder, ignore_errors=True)
    os.unlink(path)


def _own_folder(path: str) -> bool:
    with contextlib.suppress(OSError):
        found = os.lstat(path)
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    return False


def _boot() -> str:
    return files.read_text("/proc/sys/kernel/random/boot_id").strip()


class _Run:
    """One run of a script whose parameters are right."""

    def __init__(
        self,
        call: Call,
        params: dict[str, Any],
        folders: Folders,
        folder: str,
        record: dict[str, Any],
        control: supervise.Control,
    ) -> None:
        self.call = call
        self.params = params
        self.folders = folders
        self.folder = folder
        self.record = record
        self.control = control
        self.mark = os.path.basename(folder)
        self.salt = str(record.get("salt") or randomness.token_hex(16))
        self.described = request.description(call, params, self.salt)
        self.lines = RedactedLines(call.texts.secrets.values())
        self.screen = output.Screen(self.lines, -1, 0, "", "")
        self.where, self.keep = _deliver(call.texts, folder)
        self.sourced: dict[str, str] | None = None

    # -- guards --

    def _env(self) -> dict[str, str]:
        """The environment of the script; files are sourced once. Raises _Stop."""
        given = dict(os.environ)
        if self.sourced is None and self.params["source"]:
            self.sourced = self._source(_environment(self.call, given, self.where, self.mark))
        return _environment(self.call, self.sourced or given, self.where, self.mark)

    def _source(self, env: dict[str, str]) -> dict[str, str]:
        dump = os.path.join(self.folder, "sourced")
        ended = self._ask("source", shell.sourcing(self.params["source"], dump), env)
        found = shell.read_dump(dump)
        if found is None or ended.code != 0:
            raise _Stop("failed", f"the files to source ended with code {ended.code}", ended)
        os.unlink(dump)
        self.lines.hide(
            text for name, text in found.items() if output.looks_secret(name) and len(text) >= request.SHORTEST_SECRET
        )
        return {name: text for name, text in found.items() if name not in ("_", "SHLVL", "PWD", "OLDPWD")}

    def _skip(self) -> str:
        """Which guard says that nothing is to be done; "" for none."""
        creates, unless = self.params["creates"], self.params["unless"]
        if creates and glob.glob(os.path.join(self.call.chdir, os.path.expanduser(creates))):
            return "creates"
        if self.params["rerun"] == "changed" and self.record.get("described") == self.described:
            return "rerun"
        if unless and self._ask("unless", ["bash", "-c", unless], self._env()).code == 0:
            return "unless"
        return ""

    def _skipped(self, guard: str) -> dict[str, Any]:
        told = {
            "creates": f"{self.params['creates']} is there",
            "unless": "unless holds",
            "rerun": "nothing differs from the last run that succeeded",
        }
        result = {"changed": False, "ran": False, "skipped_by": guard, "msg": f"not run: {told[guard]}"}
        facts = self.record.get("facts") or {}
        return {**result, **_facts({one.fact: facts[one.fact] for one in self.call.exports if one.fact in facts})}

    def _difference(self) -> dict[str, Any]:
        return {
            "diff": {
                "before_header": f"{self.call.name}: the last run that succeeded",
                "after_header": f"{self.call.name}: this run",
                "before": self.lines.clean(request.shown(self.record.get("described") or {})),
                "after": self.lines.clean(request.shown(self.described)),
            }
        }

    # -- modes --

    def check(self, diff: bool) -> dict[str, Any]:
        """Check mode: guards are looked at; the script runs only with arguments that make it change nothing."""
        self.screen = self._new_screen(-1)
        try:
            guard = self._skip()
            if guard:
                return self._skipped(guard)
            result: dict[str, Any] = {
                "changed": self.params["changed_when"] != "never",
                "ran": False,
                "msg": "would run",
            }
            if self.params["check_arguments"]:
                arguments = [*self.call.arguments, *map(str, self.params["check_arguments"])]
                result = self._attempts(self.call._replace(arguments=arguments, exports=[]))
        except _Stop as stop:
            return self._stopped(stop)
        return {**result, **(self._difference() if diff else {})}

    def run(self, diff: bool) -> dict[str, Any]:
        """The run itself."""
        running = os.path.join(self.folders.state, "running.json")
        _write(running, {"mark": self.mark, "boot": _boot(), "folder": self.folder, "supervisor": os.getpid()})
        try:
            self.screen = self._new_screen(-1)
            early: list[_Stop] = []
            try:
                guard = self._skip()
            except _Stop as stop:
                guard, early = "", [stop]
            if guard:
                # The log of the last run that did something stays.
                return self._skipped(guard)
            result = self._logged(early)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(running)
        if not result.get("failed"):
            facts = result.get("ansible_facts") or {}
            _write(
                os.path.join(self.folders.state, "last.json"),
                {"salt": self.salt, "described": self.described, "facts": facts, "ended": int(time.time())},
            )
        return {**result, **(self._difference() if diff else {})}

    def _logged(self, early: list[_Stop]) -> dict[str, Any]:
        """Run the script (or tell why it cannot be run) with a log."""
        path, log = _open_log(self.folders, self.params["keep_logs"])
        try:
            before = self.screen.output
            self.screen = self._new_screen(log)
            self.screen.note(
                f"{self.call.name}: {self.lines.clean(shlex.join([*self.call.argv, self.call.path or self.call.name]))}"
            )
            for line in before:
                self.screen.note(line)
            try:
                if early:
                    self.screen.output = before
                    raise early[0]
                result = self._attempts(self.call)
            except _Stop as stop:
                result = self._stopped(stop)
            self.screen.note(f"end: {self.lines.clean(str(result['msg']))}")
        finally:
            os.close(log)
        if result.get("failed"):
            result["msg"] = f"{result['msg']} (log: {path})"
        return {**result, "log": path}

    def _new_screen(self, log: int) -> output.Screen:
        params = self.params
        pattern = params["changed_pattern"] if params["changed_when"] == "pattern" else ""
        return output.Screen(self.lines, log, params["output_lines"], params["show_pattern"], pattern)

    def _stopped(self, stop: _Stop) -> dict[str, Any]:
        result = _failed(stop.ended, self.lines.clean(stop.message), output=self.screen.output, ran=stop.ran)
        result["changed"] = stop.ran and self.params["changed_when"] != "never"
        if stop.left:
            result["left"] = stop.left
            result["msg"] += f"; could not be ended: {', '.join(stop.left)}"
        if stop.code is not None and stop.ended != "interrupted":
            result["rc"] = stop.code
        return result

    # -- programs --

    def _program(self, argv: Sequence[str], env: dict[str, str], ran: bool = False) -> supervise.Ended:
        try:
            ended = self.control.run(
                argv,
                env=env,
                cwd=self.call.chdir,
                timeout=self.params["timeout"],
                grace=self.params["grace"],
                keep=self.keep,
                write=self.screen.write,
            )
        except supervise.Interrupted as stop:
            self.screen.end()
            how = supervise.Ended(-1, 0, False, stop.left)
            raise _Stop("interrupted", f"{self.call.name} was interrupted and ended", how, ran) from None
        except OSError as error:
            raise _Stop("failed", f"{argv[0]} cannot be started: {error.strerror}") from None
        self.screen.end()
        return ended

    def _ask(self, what: str, argv: Sequence[str], env: dict[str, str]) -> supervise.Ended:
        """Run a program that is not the script itself."""
        ended = self._program(argv, env)
        if ended.timed_out:
            raise _Stop("timeout", f"{what} did not end in {self.params['timeout']:g} s and was ended", ended)
        return ended

    def _attempts(self, call: Call) -> dict[str, Any]:
        """Run the script, again after the codes for that. Raises _Stop unless it ended well."""
        params = self.params
        file = call.path
        if call.content:
            file = os.path.join(self.folder, "script", call.name)
            _secret_file(file, call.content)
        dump = os.path.join(self.folder, "exported") if call.exports else ""
        argv, env = shell.run(call.argv, file, call.arguments, self._env(), self.folder, dump)
        began = time.monotonic()
        attempts = 1
        ended = self._attempt(argv, env, dump)
        while ended.code in params["retry_codes"] and not self._good(ended.code) and attempts <= params["retries"]:
            self.screen.note(f"attempt {attempts} ended with code {ended.code}; again in {params['retry_delay']:g} s")
            try:
                self.control.wait(params["retry_delay"])
            except supervise.Interrupted:
                raise _Stop("interrupted", f"{call.name} was interrupted between attempts", ran=True) from None
            attempts += 1
            ended = self._attempt(argv, env, dump)
        self._judge(ended)
        return {
            "changed": self._changed(ended.code),
            "ran": True,
            "ended": "done",
            "msg": f"code {ended.code}",
            "rc": ended.code,
            "attempts": attempts,
            "seconds": round(time.monotonic() - began, 3),
            "output": self.screen.output,
            "shown": self.screen.shown,
            **_facts(self._read_exports(call, dump)),
        }

    def _attempt(self, argv: Sequence[str], env: dict[str, str], dump: str) -> supervise.Ended:
        for number in self.keep:
            os.lseek(number, 0, os.SEEK_SET)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(dump)
        self.screen.matched = False
        return self._program(argv, env, ran=True)

    def _good(self, code: int) -> bool:
        more = self.params["changed_codes"] if self.params["changed_when"] == "code" else []
        return code in self.params["ok_codes"] or code in more

    def _judge(self, ended: supervise.Ended) -> None:
        """Raise _Stop for an end that is none of the good ones."""
        what = self.call.path or self.call.name
        if ended.timed_out:
            message = f"{what} did not end in {self.params['timeout']:g} s and was ended"
            raise _Stop("timeout", message, ended, ran=True)
        if not self._good(ended.code):
            last = next((line.strip() for line in reversed(self.screen.output) if line.strip()), "")
            message = f"{what} ended with code {ended.code}{last and f': {last[:200]}'}"
            raise _Stop("failed", message, ended, ran=True)

    def _changed(self, code: int) -> bool:
        rules = {
            "always": True,
            "never": False,
            "code": code in self.params["changed_codes"],
            "pattern": self.screen.matched,
        }
        return rules[self.params["changed_when"]]

    def _read_exports(self, call: Call, dump: str) -> dict[str, Any]:
        """The facts of what the script exported. Raises _Stop."""
        if not call.exports:
            return {}
        found = shell.read_dump(dump)
        if found is None:
            message = f"{call.name} did not come to its end in its own shell, so what it exported is unknown"
            raise _Stop("failed", message, ran=True)
        lost = [one.name for one in call.exports if one.required and one.name not in found]
        if lost:
            raise _Stop("failed", f"{call.name} did not export {', '.join(lost)}", ran=True)
        facts = {}
        for one in call.exports:
            if one.name in found:
                text = found[one.name].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
                if request.holds(text, call.texts.secrets):
                    message = f"{one.name} holds a secret, and cannot become a fact, which -vvv prints"
                    raise _Stop("failed", message, ran=True)
                try:
                    facts[one.fact] = values.read_back(one, text)
                except Invalid as error:
                    raise _Stop("failed", str(error), ran=True) from None
        return facts


def _facts(found: dict[str, Any]) -> dict[str, Any]:
    return {"ansible_facts": found, "exported": found} if found else {}


class _Stop(Exception):
    """The run is over, and not well."""

    def __init__(self, ended: str, message: str, how: supervise.Ended | None = None, ran: bool = False) -> None:
        self.ended = ended
        self.message = message
        self.code = how.code if how else None
        self.left = how.left if how else []
        self.ran = ran
        super().__init__(message)
