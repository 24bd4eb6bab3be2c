"""Run an existing shell script with declared variables, as an idempotent step.

A run that succeeded leaves ``last.json`` in its state folder: what it ran with (secrets only as keyed digests) and what
it exported. ``running.json`` is there while a script runs: what a killed run left is found by it.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import hmac
import json
import os
import re
import secrets as randomness
import shlex
import shutil
import stat
import tempfile
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from ansible_collections.devenv.lab.plugins.module_utils import observe, script_output, script_run, script_values
from ansible_collections.devenv.lab.plugins.module_utils.script_values import Invalid

PREFIX = "devenv-script-"
# Secrets of fewer characters stand in too many texts to be looked for.
SHORTEST_SECRET = 4
_SHEBANG = 256  # bytes of a first line that Linux looks at (BINPRM_BUF_SIZE)
_SHELLS = {"bash": "bash", "sh": "sh", "dash": "sh", "ash": "sh", "ksh": "sh"}


class Call(NamedTuple):
    """A script, ready to be run."""

    name: str
    path: str  # "": the text is content
    content: bytes
    argv: list[str]  # of the interpreter, without the script
    arguments: list[str]
    chdir: str
    texts: script_values.Texts
    exports: list[script_values.Export]


class Folders(NamedTuple):
    """Where a run keeps what: its state (private, stays) and its log ("": a new one in the state folder)."""

    state: str
    log: str


# --- what was given ---------------------------------------------------------------------------------------------------


def prepare(params: dict[str, Any]) -> Call:
    """Check all that can be known before anything runs. Raises Invalid."""
    path, content = params["path"], params["content"]
    if bool(path) == bool(content):
        raise Invalid("give either path or src")
    if path and not os.path.isabs(path):
        raise Invalid(f"path: {path} is relative: which folder of the host is meant?")
    for key in ("changed_pattern", "show_pattern"):
        try:
            re.compile(params[key])
        except re.error as error:
            raise Invalid(f"{key}: {params[key]!r} is no regular expression: {error}") from None
    for when, key in (("code", "changed_codes"), ("pattern", "changed_pattern")):
        if (params["changed_when"] == when) != bool(params[key]):
            raise Invalid(f"{key} and changed_when={when} belong together")
    name = params["name"] or _default_name(path)
    if not re.match(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z", name):
        raise Invalid(f"name: {name!r} cannot be the name of a folder")
    declared = script_values.declare(params["variables"])
    texts = script_values.texts(declared, params["values"], params["secrets"])
    arguments = [str(word) for word in params["arguments"]]
    for word in [*arguments, *map(str, params["check_arguments"]), params["unless"]]:
        if _holds(word, texts.secrets):
            raise Invalid("arguments: a secret is among them, and every user of the host could read it there")
    raw = content.encode() if content else _first_bytes(path)
    return Call(
        name,
        path,
        content.encode(),
        list(params["interpreter"]) or interpreter(raw),
        arguments,
        params["chdir"] or (os.path.dirname(path) if path else os.path.expanduser("~")),
        texts,
        script_values.exports(params["exports"]),
    )


def _default_name(path: str) -> str:
    if not path:
        raise Invalid("name: a script that is given as text needs one")
    base = re.sub(r"[^A-Za-z0-9._-]", "_", os.path.basename(path)).lstrip("._-") or "script"
    return f"{base[:80]}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"


def _first_bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read(_SHEBANG)
    except OSError:
        return b""


def _holds(text: str, secrets: dict[str, str]) -> bool:
    found = [value for value in secrets.values() if len(value) >= SHORTEST_SECRET and value in text]
    return bool(found)


def interpreter(first: bytes) -> list[str]:
    """argv in front of a script that begins with ``first``: as Linux does for ``#!``, nothing for a program, else
    bash.
    """
    if first.startswith(b"\x7fELF"):
        return []
    if not first.startswith(b"#!"):
        return ["bash"]
    words = first[2:].split(b"\n")[0].decode(errors="replace").strip().split(None, 1)
    return [word.strip() for word in words] or ["bash"]


def shell_of(argv: Sequence[str]) -> str:
    """``bash``, ``sh`` (any other POSIX shell) or "" for an interpreter's argv."""
    words = [word for given in argv for word in given.split()]
    if words and os.path.basename(words[0]) == "env":
        words = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
    return _SHELLS.get(os.path.basename(words[0]), "") if words else ""


def missing(call: Call, params: dict[str, Any]) -> list[str]:
    """Files that are needed and are not there."""
    found = [path for path in [call.path, *params["source"], *params["inputs"]] if path and not os.path.exists(path)]
    return found + ([] if os.path.isdir(call.chdir) else [call.chdir])


# --- what it would run with -------------------------------------------------------------------------------------------


def digest_of(path: str) -> str:
    """sha256 of a file, or of all files below a folder and their names."""
    if not os.path.isdir(path):
        return observe.digest(path)
    whole = hashlib.sha256()
    for folder, below, names in os.walk(path):
        below.sort()
        for name in sorted(names):
            file = os.path.join(folder, name)
            found = observe.digest(file) if os.path.isfile(file) else "no file"
            whole.update(f"{os.path.relpath(file, path)}\0{found}\n".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()


def description(call: Call, params: dict[str, Any], salt: str) -> dict[str, str]:
    """What a run depends on, as texts to compare and to show. A secret, and what holds one, is a digest that nobody can
    try words on without ``salt``.
    """

    def hidden(text: str) -> str:
        return f"(secret {hmac.new(salt.encode(), text.encode('utf-8', 'surrogateescape'), 'sha256').hexdigest()[:16]})"

    content = hashlib.sha256(call.content).hexdigest() if call.content else digest_of(call.path)
    found = {
        "script": f"{call.path or call.name} {content}",
        "interpreter": shlex.join(call.argv),
        "arguments": shlex.join(call.arguments),
        "chdir": call.chdir,
        "exports": json.dumps([list(one) for one in call.exports]) if call.exports else "",
    }
    for kind in ("source", "inputs"):
        for path in params[kind]:
            found[f"{kind} {path}"] = digest_of(path)
    for name, text in call.texts.variables.items():
        if text is not None:
            found[f"variable {name}"] = hidden(text) if _holds(text, call.texts.secrets) else text
    for name, text in call.texts.secrets.items():
        found[f"secret {name}"] = f"{call.texts.ways[name]} {hidden(text)}"
    return found


def shown(described: dict[str, Any]) -> str:
    """A description as lines, for a difference."""
    return "".join(f"{key}: {json.dumps(described[key], ensure_ascii=False)}\n" for key in sorted(described))


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


def _lock(folder: str, timeout: float, control: script_run.Control) -> int:
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
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(data)


def _deliver(texts: script_values.Texts, folder: str) -> tuple[dict[str, str], list[int]]:
    """Put secrets where the script finds them. Variables that say where, and descriptors to inherit."""
    found, keep = {}, []
    for name, text in texts.secrets.items():
        if texts.ways[name] == "env":
            found[name] = text
            continue
        path = os.path.join(folder, name)
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
    found = {**given, **where, script_run.MARKER: mark}
    for name, text in call.texts.variables.items():
        if text is None:
            found.pop(name, None)
        else:
            found[name] = text
    return found


# Files are checked first: bash goes on after an error of syntax in a file that it reads.
_SOURCE = """
__files=("$@"); set --; set -a
for __file in "${__files[@]}"; do
  "$BASH" -n "$__file" || exit 65
  . "$__file"
done
unset __files __file
ENV -0 > DUMP
"""


def _read_dump(path: str) -> dict[str, str] | None:
    try:
        with open(path, "rb") as stream:
            entries = stream.read().split(b"\0")
    except OSError:
        return None
    pairs = [entry.decode("utf-8", "surrogateescape").partition("=") for entry in entries if b"=" in entry]
    return {name: value for name, _equals, value in pairs}


# A script in bash reads this before its own first line. What it exports is written when it ends, also where it sets a
# trap of its own for that, and what the shell ended with stays as it is.
_BASH = """
unset BASH_ENV
RESTORE
__devenv_dump() { local code=$?; [ "$BASHPID" != "$$" ] || (umask 077; exec ENV -0 > DUMP); return $code; }
__devenv_hold() {
  [ "$BASHPID" = "$$" ] || return 0
  local words
  eval "words=($(builtin trap -p EXIT))"
  builtin trap -- "__devenv_dump; ${words[2]-}" EXIT
}
trap() {
  builtin trap "$@" || return
  case " $* " in *" EXIT "* | *" exit "* | *" SIGEXIT "* | *" 0 "*) __devenv_hold ;; esac
}
__devenv_hold
"""

# Other shells read nothing first, so the script is read by one that has the trap already.
_SH = """
__devenv_dump() { __devenv_code=$?; (umask 077; exec ENV -0 > DUMP); return $__devenv_code; }
trap __devenv_dump EXIT
. "$0"
__devenv_end=$?
__devenv_dump
exit $__devenv_end
"""


def _filled(text: str, dump: str, restore: str = "") -> str:
    env = shutil.which("env") or "/usr/bin/env"
    return (
        text.replace("RESTORE", restore).replace("ENV -0", f"{shlex.quote(env)} -0").replace("DUMP", shlex.quote(dump))
    )


def command(call: Call, file: str, folder: str, dump: str, env: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """argv and environment of the script, so that what it exports is written to ``dump``."""
    plain = [*call.argv, file, *call.arguments]
    if not call.exports:
        return plain, env
    if shell_of(call.argv) == "bash":
        prelude = os.path.join(folder, "prelude")
        before = env.get("BASH_ENV", "")
        restore = f"export BASH_ENV={shlex.quote(before)}; . {shlex.quote(before)}" if before else ""
        if not os.path.exists(prelude):
            _secret_file(prelude, _filled(_BASH, dump, restore).encode("utf-8", "surrogateescape"))
        return plain, {**env, "BASH_ENV": prelude}
    return [*call.argv, "-c", _filled(_SH, dump), file, *call.arguments], env


# --- the run ----------------------------------------------------------------------------------------------------------


class Screen:
    """Where a script's output goes: all to the log, the last lines and those that match to the result."""

    def __init__(self, lines: script_output.Lines, log: int, keep: int, show: str, changed: str) -> None:
        self.lines = lines
        self.output: list[str] = []
        self.shown: list[str] = []
        self.matched = False
        self._log = log
        self._keep = keep
        self._show = re.compile(show) if show else None
        self._changed = re.compile(changed) if changed else None
        self._began = time.monotonic()

    def write(self, data: bytes) -> None:
        """Output as it comes."""
        self._take(self.lines.feed(data))

    def end(self) -> None:
        """A program ended."""
        self._take(self.lines.end())

    def note(self, text: str) -> None:
        """A line of ours, in the log alone."""
        if self._log >= 0:
            data = f"{time.monotonic() - self._began:8.2f} {text}\n".encode("utf-8", "replace")
            os.write(self._log, data)

    def _take(self, lines: list[str]) -> None:
        for line in lines:
            self.note(line)
            self.matched = self.matched or (self._changed is not None and self._changed.search(line) is not None)
            if self._show is not None and self._show.search(line):
                self.shown.append(line)
        if lines:
            self.output = [*self.output, *lines][-self._keep :] if self._keep else []


def supervised(call: Call, params: dict[str, Any], check: bool, diff: bool) -> dict[str, Any]:
    """`perform` in a supervisor. Raises what `script_run.supervised` raises."""
    # For this user alone, and gone in any case: who is left of the two processes removes it.
    folder = tempfile.mkdtemp(prefix=PREFIX, dir=_runtime())
    mark = os.path.basename(folder)
    finish = params["on_interrupt"] == "finish" and not check

    def work(control: script_run.Control) -> dict[str, Any]:
        try:
            return perform(call, params, folder, check, diff, control)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    try:
        return script_run.supervised(work, mark, finish, params["grace"] + 10)
    except script_run.Lost:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def perform(
    call: Call, params: dict[str, Any], folder: str, check: bool, diff: bool, control: script_run.Control
) -> dict[str, Any]:
    """The whole of it, in the supervisor. Returns the module's result; a failed one has ``failed``, and ``ended`` or a
    reason of ours.
    """
    absent = missing(call, params)
    if absent and check:
        changed = params["changed_when"] != "never"
        return {"changed": changed, "ran": False, "msg": f"there is no {', '.join(absent)} yet"}
    try:
        if absent:
            raise Invalid(f"there is no {', '.join(absent)}")
        if call.exports and not shell_of(call.argv):
            raise Invalid(f"exports: only a shell can tell them, not {call.argv[0] if call.argv else 'a program'}")
        return _perform(call, params, folder, check, diff, control)
    except Invalid as error:
        return {"failed": True, "msg": str(error), "devenv_reason": "script_invalid"}
    except TimeoutError:
        return _failed("busy", f"another run of {call.name} still goes on after {params['timeout']:g} s")
    except script_run.Interrupted:
        return _failed("interrupted", f"{call.name} was interrupted before it began")
    except OSError as error:
        return _failed("failed", f"{error.filename or call.name}: {error.strerror}")


def _perform(
    call: Call, params: dict[str, Any], folder: str, check: bool, diff: bool, control: script_run.Control
) -> dict[str, Any]:
    state = os.path.join(params["state"] or default_state(), call.name)
    last = os.path.join(state, "last.json")
    if check:
        return _Run(call, params, Folders(state, ""), folder, observe.read_json(last), control).check(diff)
    os.makedirs(state, mode=0o700, exist_ok=True)
    os.chmod(state, 0o700)
    lock = _lock(state, params["timeout"], control)
    try:
        _end_killed(state, params["grace"])
        # Read under the lock: the run that was waited for may have been the same.
        record = observe.read_json(last)
        return _Run(call, params, Folders(state, params["log"]), folder, record, control).run(diff)
    finally:
        os.close(lock)


def _failed(ended: str, message: str, **more: Any) -> dict[str, Any]:
    return {"failed": True, "ended": ended, "msg": message, "changed": False, "ran": False, **more}


def _end_killed(state: str, grace: float) -> None:
    """End what a run left that was killed with its supervisor."""
    path = os.path.join(state, "running.json")
    left = observe.read_json(path)
    if not left:
        return
    mark = str(left.get("mark", ""))
    if mark and left.get("boot") == _boot():
        script_run.end(lambda: script_run.marked(mark), grace)
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
    return observe.read_text("/proc/sys/kernel/random/boot_id").strip()


class _Run:
    """One run of a script whose parameters are right."""

    def __init__(
        self,
        call: Call,
        params: dict[str, Any],
        folders: Folders,
        folder: str,
        record: dict[str, Any],
        control: script_run.Control,
    ) -> None:
        self.call = call
        self.params = params
        self.folders = folders
        self.folder = folder
        self.record = record
        self.control = control
        self.mark = os.path.basename(folder)
        self.salt = str(record.get("salt") or randomness.token_hex(16))
        self.described = description(call, params, self.salt)
        self.lines = script_output.Lines(call.texts.secrets.values())
        self.screen = Screen(self.lines, -1, 0, "", "")
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
        ended = self._program(["bash", "-c", _filled(_SOURCE, dump), "bash", *self.params["source"]], env)
        found = _read_dump(dump)
        if found is None or ended.code != 0:
            raise _Stop("failed", f"the files to source ended with code {ended.code}", ended)
        os.unlink(dump)
        self.lines.hide(
            text for name, text in found.items() if script_output.looks_secret(name) and len(text) >= SHORTEST_SECRET
        )
        return {name: text for name, text in found.items() if name not in ("_", "SHLVL", "PWD", "OLDPWD")}

    def _skip(self) -> str:
        """Which guard says that nothing is to be done; "" for none."""
        creates, unless = self.params["creates"], self.params["unless"]
        if creates and glob.glob(os.path.join(self.call.chdir, os.path.expanduser(creates))):
            return "creates"
        if self.params["rerun"] == "changed" and self.record.get("described") == self.described:
            return "rerun"
        if unless and self._program(["bash", "-c", unless], self._env()).code == 0:
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
                "before": self.lines.clean(shown(self.record.get("described") or {})),
                "after": self.lines.clean(shown(self.described)),
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
            self.screen.note(f"{self.call.name}: {self.lines.clean(shlex.join([*self.call.argv, self.call.path or self.call.name]))}")
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

    def _new_screen(self, log: int) -> Screen:
        params = self.params
        pattern = params["changed_pattern"] if params["changed_when"] == "pattern" else ""
        return Screen(self.lines, log, params["output_lines"], params["show_pattern"], pattern)

    def _stopped(self, stop: _Stop) -> dict[str, Any]:
        result = _failed(stop.ended, self.lines.clean(stop.message), output=self.screen.output, ran=stop.ran)
        result["changed"] = stop.ran and self.params["changed_when"] != "never"
        if stop.left:
            result["left"] = stop.left
            result["msg"] += f"; could not be ended: {', '.join(stop.left)}"
        if stop.code is not None:
            result["rc"] = stop.code
        return result

    # -- programs --

    def _program(self, argv: Sequence[str], env: dict[str, str], file: str = "", ran: bool = False) -> script_run.Ended:
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
        except script_run.Interrupted as stop:
            self.screen.end()
            how = script_run.Ended(-1, 0, False, stop.left)
            raise _Stop("interrupted", f"{self.call.name} was interrupted and ended", how, ran) from None
        except OSError as error:
            raise _Stop("failed", f"{argv[0]} cannot be started: {error.strerror}") from None
        self.screen.end()
        if ended.timed_out:
            what = file or argv[0]
            raise _Stop("timeout", f"{what} did not end in {self.params['timeout']:g} s and was ended", ended, ran)
        return ended

    def _attempts(self, call: Call) -> dict[str, Any]:
        """Run the script until it ends otherwise than with a code to try again. Raises _Stop."""
        params = self.params
        file = call.path
        if call.content:
            file = os.path.join(self.folder, call.name)
            _secret_file(file, call.content)
        dump = os.path.join(self.folder, "exported")
        argv, env = command(call, file, self.folder, dump, self._env())
        good = set(params["ok_codes"]) | (set(params["changed_codes"]) if params["changed_when"] == "code" else set())
        attempts = 0
        began = time.monotonic()
        while True:
            attempts += 1
            for number in self.keep:
                os.lseek(number, 0, os.SEEK_SET)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(dump)
            self.screen.matched = False
            try:
                ended = self._program(argv, env, call.path or call.name, ran=True)
            except _Stop as stop:
                again = stop.ended == "timeout" and script_run.TIMED_OUT in params["retry_codes"]
                if not again or attempts > params["retries"]:
                    raise
                ended = script_run.Ended(script_run.TIMED_OUT, 0, True, stop.left)
            if ended.code in good or ended.code not in params["retry_codes"] or attempts > params["retries"]:
                break
            self.screen.note(f"attempt {attempts} ended with code {ended.code}; again in {params['retry_delay']:g} s")
            try:
                self.control.wait(params["retry_delay"])
            except script_run.Interrupted:
                raise _Stop("interrupted", f"{call.name} was interrupted between attempts", ran=True) from None
        result = {"rc": ended.code, "attempts": attempts, "seconds": round(time.monotonic() - began, 3)}
        if ended.code not in good:
            last = next((line.strip() for line in reversed(self.screen.output) if line.strip()), "")
            message = f"{call.path or call.name} ended with code {ended.code}{last and f': {last[:200]}'}"
            raise _Stop("failed", message, ended, ran=True)
        changed = {
            "always": True,
            "never": False,
            "code": ended.code in params["changed_codes"],
            "pattern": self.screen.matched,
        }[params["changed_when"]]
        facts = _facts(self._read_exports(call, dump))
        told = {"output": self.screen.output, "shown": self.screen.shown}
        return {
            "changed": changed,
            "ran": True,
            "ended": "done",
            "msg": f"code {ended.code}",
            **result,
            **told,
            **facts,
        }

    def _read_exports(self, call: Call, dump: str) -> dict[str, Any]:
        """The facts of what the script exported. Raises _Stop."""
        if not call.exports:
            return {}
        found = _read_dump(dump)
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
                if _holds(text, call.texts.secrets):
                    message = f"{one.name} holds a secret, and cannot become a fact, which -vvv prints"
                    raise _Stop("failed", message, ran=True)
                try:
                    facts[one.fact] = script_values.read_back(one, text)
                except Invalid as error:
                    raise _Stop("failed", str(error), ran=True) from None
        return facts


def _facts(found: dict[str, Any]) -> dict[str, Any]:
    return {"ansible_facts": found, "exported": found} if found else {}


class _Stop(Exception):
    """The run is over, and not well."""

    def __init__(self, ended: str, message: str, how: script_run.Ended | None = None, ran: bool = False) -> None:
        self.ended = ended
        self.message = message
        self.code = how.code if how else None
        self.left = how.left if how else []
        self.ran = ran
        super().__init__(message)
