"""Run a playbook through ansible-runner. The only module that touches it.

ansible-runner is kept on a short lead: a fresh private folder a run, events through a queue of our own, our own end
of a run (it would kill with SIGKILL and leave module children alive), no fact cache of its own, nothing of the
environment on disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import secrets
import shlex
import shutil
import signal
import sys
import sysconfig
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths

from devenv import errors
from devenv.runs.progress import result_of, stage_of

# The settings of ansible.cfg for where that file is not: a wheel does not carry it. A test compares both.
# (section, key) of ansible.cfg -> (environment variable, value)
SETTINGS: dict[tuple[str, str], tuple[str, str]] = {
    ("defaults", "localhost_warning"): ("ANSIBLE_LOCALHOST_WARNING", "False"),
    ("defaults", "gathering"): ("ANSIBLE_GATHERING", "explicit"),
    ("defaults", "forks"): ("ANSIBLE_FORKS", "16"),
    ("defaults", "host_key_checking"): ("ANSIBLE_HOST_KEY_CHECKING", "True"),
    ("defaults", "retry_files_enabled"): ("ANSIBLE_RETRY_FILES_ENABLED", "False"),
    ("defaults", "callbacks_enabled"): ("ANSIBLE_CALLBACKS_ENABLED", "devenv.lab.record"),
    ("defaults", "any_errors_fatal"): ("ANSIBLE_ANY_ERRORS_FATAL", "False"),
    ("defaults", "display_skipped_hosts"): ("ANSIBLE_DISPLAY_SKIPPED_HOSTS", "False"),
    ("defaults", "interpreter_python"): ("ANSIBLE_PYTHON_INTERPRETER", "auto_silent"),
    ("defaults", "timeout"): ("ANSIBLE_TIMEOUT", "30"),
    ("inventory", "host_pattern_mismatch"): ("ANSIBLE_HOST_PATTERN_MISMATCH", "ignore"),
    ("inventory", "any_unparsed_is_failed"): ("ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED", "True"),
    ("inventory", "unparsed_is_failed"): ("ANSIBLE_INVENTORY_UNPARSED_FAILED", "True"),
    ("inventory", "enable_plugins"): ("ANSIBLE_INVENTORY_ENABLED", "devenv.lab.profile, yaml, ini, host_list"),
    ("connection", "pipelining"): ("ANSIBLE_PIPELINING", "True"),
    ("ssh_connection", "ssh_args"): ("ANSIBLE_SSH_ARGS", "-C -o ControlMaster=auto -o ControlPersist=120s"),
}

# What ansible-runner puts into the environment for its callback.
_RUNNERS_OWN = (
    "ANSIBLE_CALLBACK_PLUGINS", "ANSIBLE_STDOUT_CALLBACK", "ORIGINAL_STDOUT_CALLBACK", "AWX_ISOLATED_DATA_DIR",
    "RUNNER_OMIT_EVENTS", "RUNNER_ONLY_FAILED_EVENTS",
)  # fmt: skip

_ADMIN_PATHS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
_GRACE = (
    30.0  # beyond --timeout: the collection keeps the time itself and says what is missing; this is for when it cannot
)
GATHER_SECONDS = 60.0  # plugin_utils/diagnostics/archive.py, TIMEOUT
_PATIENCE = 10.0  # between asking ansible to end and killing it
_OWN_ERROR = re.compile(r"(\[ERROR\]:|ERROR!|ansible-playbook: error:)\s*(.*)")
_REASON = re.compile(r"\[([a-z][a-z0-9_]*)\]\s*$")


class Watcher(Protocol):
    """Who is told of a run: every event of ansible-runner as it comes, a tick several times a second, and the end."""

    def event(self, event: Mapping[str, Any]) -> None: ...

    def tick(self) -> None: ...

    def end(self) -> None: ...


class Silent:
    """A watcher that says nothing."""

    def event(self, event: Mapping[str, Any]) -> None:
        return

    def tick(self) -> None:
        return

    def end(self) -> None:
        return


@dataclass(frozen=True)
class Request:
    """One run. ``playbook`` is a name of the collection's playbooks/ or a path; ``extra`` holds the user's ``-e``
    values as parsed by `extra_vars`, weaker than ``variables``; ``environment`` adds variables of the process;
    ``arguments`` goes to ansible-playbook as it is; ``timeout`` in seconds.
    """

    playbook: str
    variables: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    extra: Sequence[Mapping[str, Any] | Path] = ()
    arguments: Sequence[str] = ()
    verbosity: int = 0
    timeout: float | None = None
    inventory: Path = paths.COLLECTION / "inventories" / "profile"


@dataclass
class Outcome:
    """How a run ended. ``code`` is ansible-playbook's own; ``signal`` the number of the signal that ended it, or 0;
    ``failure`` has the keys of failure.json; ``stage`` and ``task`` are where it was last; ``output`` is the end of
    what ansible said, by lines.
    """

    run_id: str
    code: int = 0
    signal: int = 0
    timed_out: bool = False
    changed: int = 0
    seconds: float = 0.0
    failure: dict[str, Any] | None = None
    stage: str = ""
    task: str = ""
    output: Sequence[str] = ()
    # The last failure of each host: an earlier one was rescued, or the host would not have gone on.
    failures: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)

    @property
    def ok(self) -> bool:
        return self.code == 0 and not self.signal and not self.timed_out


def extra_vars(value: str) -> Mapping[str, Any] | Path:
    """Parse one ``-e``: ``key=value ...``, ``@file``, or a YAML/JSON mapping. Raises UsageError for anything else."""
    text = value.strip()
    if text.startswith("@"):
        path = Path(text[1:]).expanduser().absolute()
        if not path.is_file():
            raise errors.UsageError(
                "no such file", where=f"-e {value}", advice="give -e key=value, -e @file or -e '{...}'"
            )
        return path
    if text.startswith(("{", "[")):
        return _mapping(text, value)
    try:
        pairs = [word.partition("=") for word in shlex.split(text)]
    except ValueError as error:
        raise errors.UsageError(f"cannot be read: {error}", where=f"-e {value}") from None
    if not pairs or any(not equals or not key.isidentifier() for key, equals, _ in pairs):
        raise errors.UsageError(
            "neither key=value, @file nor a YAML or JSON mapping",
            where=f"-e {value}",
            advice="give -e key=value, -e @file or -e '{...}'",
        )
    return {key: item for key, _, item in pairs}


def extra_vars_read(value: str) -> Mapping[str, Any]:
    """As `extra_vars`, with a file's content in place of its path. Raises UsageError."""
    found = extra_vars(value)
    if not isinstance(found, Path):
        return found
    try:
        return _mapping(found.read_text(), value)
    except (OSError, UnicodeDecodeError) as error:
        raise errors.UsageError(f"cannot be read: {error}", where=f"-e {value}") from None


def _mapping(text: str, shown: str) -> Mapping[str, Any]:
    import yaml

    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise errors.UsageError(f"not YAML: {str(error).splitlines()[0]}", where=f"-e {shown}") from None
    if not isinstance(data, dict) or any(not isinstance(key, str) for key in data):
        raise errors.UsageError("not a mapping of names to values", where=f"-e {shown}")
    return data


def settings(folder: Path, collection: Path = paths.COLLECTION) -> dict[str, str]:
    """Environment variables that give ansible the collection's settings, from a checkout and from an installed package.

    An installed package brings no ansible.cfg: an empty one is made in ``folder``, so that no other one comes in.
    """
    config = collection / "ansible.cfg"
    if not config.is_file():
        config = folder / "ansible.cfg"
        config.touch(mode=0o600)
    links = collection / "collections"
    # An installed package lies in .../ansible_collections/devenv/lab.
    where = links if links.is_dir() else collection.parents[2]
    return {"ANSIBLE_CONFIG": str(config), "ANSIBLE_COLLECTIONS_PATH": str(where)}


def environment(run_id: str, env: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The environment of a run: the caller's, without what harms ansible, with the collection's settings and the run's
    mark. ``folder`` is the run's own.
    """
    # PYTHONUNBUFFERED makes python read a module from stdin byte by byte: 60 ms a module.
    kept = {key: value for key, value in env.items() if key != "PYTHONUNBUFFERED"}
    callbacks = filter(None, (env.get("ANSIBLE_CALLBACKS_ENABLED"), "devenv.lab.record"))
    marks = {
        "DEVENV_RUN": run_id,
        "DEVENV_OWNER": f"{os.getpid()}:{_start_ticks()}",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_CALLBACKS_ENABLED": ",".join(callbacks),
        "PATH": _path(env.get("PATH", os.defpath)),
    }
    return {**dict(SETTINGS.values()), **kept, **settings(folder), **marks}


def _path(value: str) -> str:
    folders = [str(Path(sys.executable).parent), *value.split(os.pathsep)]
    return os.pathsep.join(dict.fromkeys([*folders, *_ADMIN_PATHS]))


def _start_ticks(pid: int | str = "self") -> int:
    """Start time of a process in clock ticks since boot (field 22 of /proc/PID/stat; the name before it may hold
    blanks).
    """
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def _ansible_playbook() -> str:
    beside = [Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))]
    for folder in beside:
        if os.access(folder / "ansible-playbook", os.X_OK):
            return str(folder / "ansible-playbook")
    found = shutil.which("ansible-playbook")
    if not found:
        raise errors.Unexpected(
            "ansible-playbook is not installed", advice="pip install ansible-core beside devenv-lab"
        )
    return found


def playbook_path(name: str) -> Path:
    """Path of a playbook of the collection by name (``cluster``), or of any playbook by path."""
    if "/" in name or name.endswith((".yml", ".yaml")):
        return Path(name).absolute()
    return paths.COLLECTION / "playbooks" / f"{name}.yml"


def run(request: Request, watcher: Watcher | None = None, env: Mapping[str, str] | None = None) -> Outcome:
    """Run the playbook to its end and say how it went. Raises nothing for a failed run: see Outcome.

    In the main thread SIGINT and SIGTERM are taken over while it runs: the first asks ansible to end, the second
    kills it.
    """
    run_id = secrets.token_hex(6)
    events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    watcher = watcher or Silent()
    began = time.monotonic()
    with _private_folder() as folder, _signals(events):
        run_env = {**environment(run_id, os.environ if env is None else env, folder), **request.environment}
        control = _Control(_deadline(request, began))
        thread = _start(request, folder, run_id, run_env, events, control)
        try:
            outcome = _follow(events, control, watcher, Outcome(run_id))
        except BaseException:
            # The watcher cannot go on (its terminal is gone): neither does the run.
            control.interrupt(signal.SIGINT)
            thread.join(_PATIENCE)
            control.interrupt(signal.SIGINT)
            thread.join()
            _end_rest(run_id)
            raise
        thread.join()
        watcher.end()
    outcome.seconds = time.monotonic() - began
    outcome.signal, outcome.timed_out = control.signal, control.timed_out
    if not outcome.ok:
        _end_rest(run_id)
    return outcome


def _deadline(request: Request, began: float) -> float | None:
    return began + request.timeout + _GRACE if request.timeout else None


def _end_rest(run_id: str) -> None:
    from ansible_collections.devenv.lab.plugins.plugin_utils.core import processes

    processes.end_run(run_id)


class _Control:
    """Ends the run: asks ansible by SIGINT first, lets ansible-runner kill its group when asked again or when it
    takes too long.
    """

    def __init__(self, deadline: float | None) -> None:
        self.pid = 0
        self.signal = 0
        self.timed_out = False
        self._deadline = deadline
        self._asked = 0.0
        self._cancel = threading.Event()

    def cancelled(self) -> bool:
        return self._cancel.is_set()

    def interrupt(self, number: int) -> None:
        self.signal = self.signal or number
        self._ask()

    def tasks_are_over(self) -> None:
        """Let the collection end the run: after a failure it gathers, whether or not the run has time left."""
        if self._deadline:
            self._deadline = max(self._deadline, time.monotonic() + GATHER_SECONDS + _GRACE)

    def tick(self) -> None:
        now = time.monotonic()
        if self._asked and now > self._asked + _PATIENCE:
            self._cancel.set()
        if self._deadline and now > self._deadline and not self._asked:
            self.timed_out = True
            self._ask()

    def _ask(self) -> None:
        if self._asked or not self.pid:
            self._cancel.set()
        self._asked = self._asked or time.monotonic()
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGINT)


def _follow(
    events: queue.SimpleQueue[tuple[str, Any]], control: _Control, watcher: Watcher, outcome: Outcome
) -> Outcome:
    output: deque[str] = deque(maxlen=400)
    while True:
        try:
            kind, value = events.get(timeout=0.2)
        except queue.Empty:
            kind, value = "tick", None
        if kind == "event":
            control.pid = control.pid or int(value.get("pid") or 0)
            output.extend(str(value.get("stdout") or "").splitlines())
            _note(outcome, value)
            watcher.event(value)
            if value.get("event") == "playbook_on_stats":
                control.tasks_are_over()
        elif kind == "signal":
            control.interrupt(value)
        elif kind == "done":
            return _finish(outcome, value, list(output))
        control.tick()
        watcher.tick()


def _note(outcome: Outcome, event: Mapping[str, Any]) -> None:
    """Take from an event what the outcome needs."""
    data = event.get("event_data") or {}
    result = result_of(data)
    name = event.get("event")
    if name in ("playbook_on_play_start", "playbook_on_task_start"):
        outcome.stage = stage_of(str(data.get("play") or ""))
        outcome.task = str(data.get("task") or "")
    if name == "playbook_on_stats":
        outcome.changed = sum(int(count) for count in (data.get("changed") or {}).values())
    if name == "runner_on_unreachable" or (name == "runner_on_failed" and not data.get("ignore_errors")):
        outcome.failures[str(data.get("host"))] = _failure(data, result, unreachable=name == "runner_on_unreachable")


def _failure(data: Mapping[str, Any], result: Mapping[str, Any], *, unreachable: bool) -> dict[str, Any]:
    """The event of a failed task in the shape of failure.json."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.core import reasons
    from ansible_collections.devenv.lab.plugins.plugin_utils.core.redact import redact

    stage = stage_of(str(data.get("play") or ""))
    reason = reasons.catalogue().get(str(result.get("devenv_reason") or "")) or reasons.of_stage(stage)
    what = redact(str(result.get("msg") or result.get("stderr") or result.get("stdout") or "no message").strip())
    return {
        "stage": stage,
        "reason": reason.id,
        "exit": reason.exit,
        "message": f"unreachable: {what}" if unreachable else what,
        "advice": str(result.get("devenv_advice") or reason.advice),
        "host": data.get("host"),
        "task": data.get("task"),
        "file": data.get("task_path"),
    }


def _finish(outcome: Outcome, ended: tuple[int, Exception | None], output: list[str]) -> Outcome:
    outcome.code, error = ended
    outcome.output = output
    if outcome.code != 0:
        outcome.failure = next(iter(outcome.failures.values()), None) or _without_task(output, error)
    return outcome


def _without_task(output: Sequence[str], error: Exception | None) -> dict[str, Any]:
    """Ansible ended before any task: a wrong argument, an inventory that was refused."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.core import reasons

    lines = [line.strip() for line in output if line.strip()]
    told = [(number, match) for number, line in enumerate(lines) if (match := _OWN_ERROR.match(line))]
    usage = next((match[2] for _, match in told if match[1].endswith("error:")), "")
    text = usage or " ".join([told[0][1][2], *lines[told[0][0] + 1 :]] if told else lines[-3:])
    text = text or (str(error) if error else "ansible-playbook said nothing")
    found = _REASON.search(text)
    reason = reasons.catalogue().get(found.group(1)) if found else None
    return {
        "stage": "",
        "reason": reason.id if reason else "",
        "exit": reason.exit if reason else 2 if usage else 1,
        "message": _REASON.sub("", text).strip() if reason else text,
        "advice": reason.advice if reason else "",
        "host": None, "task": None, "file": None,
    }  # fmt: skip


def _start(
    request: Request,
    folder: Path,
    run_id: str,
    env: Mapping[str, str],
    events: queue.SimpleQueue[tuple[str, Any]],
    control: _Control,
) -> threading.Thread:
    from ansible_runner.interface import init_runner

    def handler(event: dict[str, Any]) -> bool:
        events.put(("event", event))
        return bool(event.get("event") == "playbook_on_stats")

    _discard_command_file(folder / "artifacts" / run_id)
    runner = init_runner(
        private_data_dir=str(folder),
        ident=run_id,
        # The user's own folder, so that relative paths in arguments mean what they say.
        project_dir=os.getcwd(),
        playbook=str(playbook_path(request.playbook)),
        inventory=str(request.inventory),
        extravars=dict(request.variables),
        cmdline=shlex.join([*_extra_arguments(request.extra, folder), *request.arguments]),
        verbosity=request.verbosity,
        settings={"pexpect_timeout": 0.2, "suppress_output_file": True, "suppress_ansible_output": True},
        fact_cache_type="",
        quiet=True,
        event_handler=handler,
        cancel_callback=control.cancelled,
    )
    runner.config.command[0] = _ansible_playbook()
    # It starts from os.environ; only what it sets for its own callback is kept.
    runner.config.env = {**env, **{key: runner.config.env[key] for key in _RUNNERS_OWN if key in runner.config.env}}

    def work() -> None:
        error: Exception | None = None
        try:
            runner.run()
        except Exception as caught:  # told to the main thread, which alone may raise
            error = caught
        events.put(("done", (int(runner.rc) if runner.rc is not None and error is None else 250, error)))

    thread = threading.Thread(target=work, name="ansible-runner", daemon=True)
    thread.start()
    return thread


def _extra_arguments(extra: Sequence[Mapping[str, Any] | Path], folder: Path) -> list[str]:
    """``-e @file`` for each, in the user's order; values go by file, since argv is for all to see."""
    arguments = []
    for number, item in enumerate(extra):
        path = item
        if not isinstance(path, Path):
            path = folder / f"extra-{number}.json"
            path.touch(mode=0o600)
            path.write_text(json.dumps(item))
        arguments += ["-e", f"@{path}"]
    return arguments


def _discard_command_file(artifacts: Path) -> None:
    """ansible-runner writes the whole environment to the file ``command``. Make it a pipe that we drain."""
    artifacts.mkdir(parents=True, mode=0o700)
    pipe = artifacts / "command"
    os.mkfifo(pipe, 0o600)

    def drain() -> None:
        with contextlib.suppress(OSError), open(pipe, "rb") as stream:
            while stream.read(65536):
                pass

    threading.Thread(target=drain, name="devenv-drain", daemon=True).start()


@contextlib.contextmanager
def _signals(events: queue.SimpleQueue[tuple[str, Any]]) -> Iterator[None]:
    """While it lasts, SIGINT and SIGTERM become items of the queue. Elsewhere than in the main thread nothing is
    changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def put(number: int, frame: FrameType | None) -> None:
        events.put(("signal", number))

    before = {number: signal.signal(number, put) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_FOLDER_PREFIX = "devenv-run-"


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    _sweep()
    with tempfile.TemporaryDirectory(
        prefix=f"{_FOLDER_PREFIX}{os.getpid()}-{_start_ticks()}-", ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


def _sweep() -> None:
    """Remove private folders of commands that were killed before they could."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER_PREFIX}*-*-*"):
        pid, _, rest = folder.name.removeprefix(_FOLDER_PREFIX).partition("-")
        try:
            alive = str(_start_ticks(pid)) == rest.partition("-")[0]
        except (OSError, ValueError, IndexError):
            alive = False
        with contextlib.suppress(OSError):
            if not alive and folder.stat().st_uid == os.geteuid():
                shutil.rmtree(folder)
