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

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths, processes

from devenv.runs import settings, supervision
from devenv.runs.outcome import RunOutcome
from devenv.runs.supervision import Silent, Watcher

# What ansible-runner puts into the environment for its callback.
_RUNNERS_OWN = (
    "ANSIBLE_CALLBACK_PLUGINS", "ANSIBLE_STDOUT_CALLBACK", "ORIGINAL_STDOUT_CALLBACK", "AWX_ISOLATED_DATA_DIR",
    "RUNNER_OMIT_EVENTS", "RUNNER_ONLY_FAILED_EVENTS",
)  # fmt: skip
_FOLDER_PREFIX = "devenv-run-"


@dataclass(frozen=True)
class Request:
    """One run. ``playbook`` is a name of the collection's playbooks/ or a path; ``extra`` holds the user's ``-e``
    values as parsed by `extra_vars.parse`, weaker than ``variables``; ``environment`` adds variables of the process;
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


def run(request: Request, watcher: Watcher | None = None, env: Mapping[str, str] | None = None) -> RunOutcome:
    """Run the playbook to its end and say how it went. Raises nothing for a failed run: see RunOutcome.

    In the main thread SIGINT and SIGTERM are taken over while it runs: the first asks ansible to end, the second
    kills it.
    """
    run_id = secrets.token_hex(6)
    events: supervision.Events = queue.SimpleQueue()
    watcher = watcher or Silent()
    outcome, began = RunOutcome(run_id), time.monotonic()
    with _private_folder() as folder, supervision.signals(events):
        run_env = {**settings.environment(run_id, os.environ if env is None else env, folder), **request.environment}
        deadline = began + request.timeout + supervision.GRACE if request.timeout else None
        control = supervision.Control(deadline)
        thread = _start(request, folder, run_id, run_env, events, control)
        try:
            supervision.follow(events, control, watcher, outcome)
        except BaseException:
            # The watcher cannot go on (its terminal is gone): neither does the run.
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
    """Path of a playbook of the collection by name (``cluster``), or of any playbook by path."""
    if "/" in name or name.endswith((".yml", ".yaml")):
        return Path(name).absolute()
    return paths.COLLECTION / "playbooks" / f"{name}.yml"


def _start(
    request: Request,
    folder: Path,
    run_id: str,
    env: Mapping[str, str],
    events: supervision.Events,
    control: supervision.Control,
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
    runner.config.command[0] = settings.ansible_playbook()
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
def _private_folder() -> Iterator[Path]:
    _sweep()
    with tempfile.TemporaryDirectory(
        prefix=f"{_FOLDER_PREFIX}{settings.identity().replace(':', '-')}-", ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


def _sweep() -> None:
    """Remove private folders of commands that were killed before they could."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER_PREFIX}*-*-*"):
        pid, _, rest = folder.name.removeprefix(_FOLDER_PREFIX).partition("-")
        try:
            alive = processes.alive(int(pid), int(rest.partition("-")[0]))
        except ValueError:
            alive = False
        with contextlib.suppress(OSError):
            if not alive and folder.stat().st_uid == os.geteuid():
                shutil.rmtree(folder)
