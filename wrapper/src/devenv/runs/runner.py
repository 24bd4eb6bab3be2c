"""Run a playbook through ansible-runner. The only module that uses it.

This module restricts ansible-runner: it gets a new private directory per run, writes no fact cache and no environment
variables to disk, and passes events through a queue. It does not stop runs, because it would use SIGKILL and leave
children of modules alive.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import shlex
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, paths, processes
from ansible_collections.devenv.lab.plugins.plugin_utils.host import path_check

from devenv.runs import inherited, settings, supervision
from devenv.runs.outcome import NO_CODE, RunOutcome
from devenv.runs.supervision import Silent, Watcher

# Variables that ansible-runner sets for its callback.
_CALLBACK_VARIABLES = (
    "ANSIBLE_CALLBACK_PLUGINS", "ANSIBLE_STDOUT_CALLBACK", "AWX_ISOLATED_DATA_DIR", "RUNNER_OMIT_EVENTS",
    "RUNNER_ONLY_FAILED_EVENTS",
)  # fmt: skip
_FOLDER_PREFIX = "devenv-run-"
_named: set[str] = set()
INVENTORY = paths.COLLECTION / "inventories" / "profile"


@dataclass(frozen=True)
class Options:
    """Options of a run: those of ansible-playbook, and those that every run has.

    ``timeout`` is in seconds; ``extra`` is what extra_vars.parse returns; ``arguments`` is passed to ansible-playbook
    unchanged; ``ansible_env`` are variables of Ansible for the run, which ignores those of the caller's environment;
    ``full`` runs every stage; ``watcher`` observes the run.
    """

    extra: Sequence[Mapping[str, Any] | Path] = ()
    tags: str = ""
    limit: str = ""
    check: bool = False
    diff: bool = False
    verbosity: int = 0
    forks: int = 0
    timeout: float | None = None
    artifacts: Path | None = None
    arguments: Sequence[str] = ()
    ansible_env: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    full: bool = False
    watcher: Watcher | None = None

    @property
    def complete(self) -> bool:
        """Whether a run with these options does exactly what a run without options does."""
        return not (self.extra or self.tags or self.limit or self.check or self.arguments or self.ansible_env)

    @property
    def shown(self) -> bool:
        """Whether the options request every stage, or output that only stages produce."""
        return bool(self.full or self.diff or self.verbosity or self.artifacts or os.environ.get("ARTIFACT_DIR"))

    def ansible_arguments(self) -> list[str]:
        """Return the arguments of ansible-playbook for these options."""
        flags = [flag for flag, given in (("--check", self.check), ("--diff", self.diff)) if given]
        valued = [("--tags", self.tags), ("--limit", self.limit), ("--forks", str(self.forks) if self.forks else "")]
        return [*flags, *(word for flag, value in valued if value for word in (flag, value)), *self.arguments]


NO_OPTIONS = Options()


def run(
    playbook: str, variables: Mapping[str, Any], options: Options = NO_OPTIONS, inventory: Path = INVENTORY
) -> RunOutcome:
    """Run a playbook, given by its name in the collection or by path, with extra variables that override
    ``options.extra``. A failed run does not raise: see RunOutcome.

    In the main thread, SIGINT and SIGTERM are handled while it runs: the first one interrupts ansible, the second one
    kills it.
    """
    path_check.require_usable()
    run_id = secrets.token_hex(6)
    events: supervision.Events = queue.SimpleQueue()
    watcher = options.watcher or Silent()
    outcome, began = RunOutcome(run_id), time.monotonic()
    with _private_folder() as folder, supervision.signals(events):
        deadline = began + options.timeout + supervision.GRACE if options.timeout else None
        control = supervision.Control(deadline)
        thread = _start(playbook, variables, options, inventory, folder, run_id, events, control)
        try:
            supervision.follow(events, control, watcher, outcome)
        except BaseException:
            # The watcher failed, for example because its terminal is closed. Stop the run too.
            control.interrupt(signal.SIGINT)
            thread.join(supervision.PATIENCE)
            control.interrupt(signal.SIGINT)
            thread.join()
            processes.end_run(run_id)
            raise
        thread.join()
        watcher.end()
    outcome.seconds = time.monotonic() - began
    outcome.signal, outcome.timed_out = control.signal, control.timed_out
    if not outcome.ok:
        processes.end_run(run_id)
    return outcome


def playbook_path(name: str) -> Path:
    """Return the path of a playbook, given by its name in the collection (``cluster``) or by path."""
    if "/" in name or name.endswith((".yml", ".yaml")):
        return Path(name).absolute()
    return paths.COLLECTION / "playbooks" / f"{name}.yml"


def _start(
    playbook: str,
    variables: Mapping[str, Any],
    options: Options,
    inventory: Path,
    folder: Path,
    run_id: str,
    events: supervision.Events,
    control: supervision.Control,
) -> threading.Thread:
    # By way of the package: another thread may be importing it, and its last lines replace a module of that name by a
    # dictionary.
    from ansible_runner import interface

    def handler(event: dict[str, Any]) -> bool:
        events.put(("event", event))
        return bool(event.get("event") == "playbook_on_stats")

    _discard_command_file(folder / "artifacts" / run_id)
    runner = interface.init_runner(
        private_data_dir=str(folder),
        ident=run_id,
        project_dir=_working_directory(),
        playbook=str(playbook_path(playbook)),
        inventory=str(inventory),
        extravars=dict(variables),
        cmdline=shlex.join([*_extra_arguments(options.extra, folder), *options.ansible_arguments()]),
        verbosity=options.verbosity,
        settings={"pexpect_timeout": 0.2, "suppress_output_file": True, "suppress_ansible_output": True},
        fact_cache_type="",
        quiet=True,
        event_handler=handler,
        cancel_callback=control.cancelled,
    )
    runner.config.command[0] = settings.ansible_playbook()
    # ansible-runner starts from os.environ. Keep only what it sets for its callback.
    callback = {key: runner.config.env[key] for key in _CALLBACK_VARIABLES if key in runner.config.env}
    # It appends its directory to the caller's.
    callback["ANSIBLE_CALLBACK_PLUGINS"] = callback["ANSIBLE_CALLBACK_PLUGINS"].rpartition(":")[2]
    command = {"DEVENV_COMMAND": options.command} if options.command else {}
    effective = settings.environment(run_id, os.environ, folder, options.ansible_env)
    _name_ignored(inherited.ignored(os.environ, effective), events)
    runner.config.env = {**effective, **command, **callback}

    def work() -> None:
        error: Exception | None = None
        try:
            runner.run()
        except Exception as caught:  # passed to the main thread, which raises
            error = caught
        events.put(("done", (int(runner.rc) if runner.rc is not None and error is None else NO_CODE, error)))

    thread = threading.Thread(target=work, name="ansible-runner", daemon=True)
    thread.start()
    return thread


def _name_ignored(names: Sequence[str], events: supervision.Events) -> None:
    """Warn of variables that the run ignores, each once per process."""
    new = [name for name in names if name not in _named]
    _named.update(new)
    if new:
        text = (
            f"ignored, because the environment must not change a run: {', '.join(new)} ({inherited.OPTION} passes one)"
        )
        events.put(("event", {"event": "warning", "stdout": f"[WARNING]: {text}"}))


def _extra_arguments(extra: Sequence[Mapping[str, Any] | Path], folder: Path) -> list[str]:
    """Return ``-e @file`` for each, in the user's order. Values are passed in files, because argv is public."""
    arguments = []
    for number, item in enumerate(extra):
        path = item if isinstance(item, Path) else folder / f"extra-{number}.json"
        if not isinstance(item, Path):
            files.write(path, json.dumps(item))
        arguments += ["-e", f"@{path}"]
    return arguments


def _working_directory() -> str:
    """Return the user's working directory, to which relative paths in arguments refer. Leave one that was removed:
    neither ansible-runner nor Ansible works there.
    """
    with contextlib.suppress(FileNotFoundError):
        return os.getcwd()
    os.chdir("/")
    return "/"


def _discard_command_file(artifacts: Path) -> None:
    """Keep the environment off the disk: ansible-runner writes it to the file ``command``, so make that a pipe and
    discard what it writes.
    """
    artifacts.mkdir(parents=True, mode=0o700)
    pipe = artifacts / "command"
    os.mkfifo(pipe, 0o600)

    def drain() -> None:
        with contextlib.suppress(OSError), open(pipe, "rb") as stream:
            while stream.read(65536):
                pass

    threading.Thread(target=drain, name="devenv-drain", daemon=True).start()


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    _sweep()
    with tempfile.TemporaryDirectory(
        prefix=f"{_FOLDER_PREFIX}{settings.identity().replace(':', '-')}-", ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


def _sweep() -> None:
    """Remove the private directories of killed commands."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER_PREFIX}*-*-*"):
        pid, start = folder.name.removeprefix(_FOLDER_PREFIX).split("-")[:2]
        alive = pid.isdecimal() and start.isdecimal() and processes.alive(int(pid), int(start))
        with contextlib.suppress(OSError):
            if not alive and folder.stat().st_uid == os.geteuid():
                shutil.rmtree(folder)
