"""The options that all commands with a run share, and what such a command shows."""

from __future__ import annotations

import functools
import inspect
import json
import os
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer
from ansible_collections.devenv.lab.plugins.plugin_utils.core import redact

from devenv import errors
from devenv.cli import options as given
from devenv.cli import output
from devenv.runs import extra_vars, inherited, progress
from devenv.runs.playbook import RunResult
from devenv.runs.runner import Options

# Last lines after Ctrl-C, by command, and those of the other commands.
_INTERRUPTED = {
    "up": ("interrupted: everything created so far is kept", "next: devenv up continues, devenv down removes it"),
    "down": ("interrupted: what is not removed yet is kept", "next: devenv down continues"),
}
_INTERRUPTED_ANY = ("interrupted", "next: run the same command again; it continues where it was interrupted")


@dataclass
class Run:
    """A run of a playbook from the command line: the shared options, the progress display and the last lines."""

    context: typer.Context
    verbose: int = 0
    check: bool = False
    timeout: str | None = None
    artifacts: Path | None = None
    as_json: bool = False
    ansible_env: list[str] | None = None
    _shown: progress.Shown | None = None
    _began: float = field(default_factory=time.monotonic)

    def options(self, extra: list[str] | None = None, **further: Any) -> Options:
        """Start the display; return the options of the playbook. ``extra`` are Ansible variables as typed. Raises
        UsageError.
        """
        self._shown = progress.Shown(progress.sink(as_json=self.as_json), verbose=bool(self.verbose))
        return Options(
            extra=[extra_vars.parse(value) for value in extra or []],
            arguments=given.after_dashes(self.context),
            command=redact.redact(shlex.join(["devenv", *sys.argv[1:]])),
            verbosity=self.verbose,
            check=self.check,
            timeout=given.seconds(self.timeout),
            artifacts=self.artifacts,
            ansible_env=inherited.passed(self.ansible_env or [], os.environ),
            watcher=self._shown,
            **further,
        )

    def close(self) -> None:
        """End the display."""
        if self._shown:
            self._shown.close()

    def done(self, result: RunResult, *lines: str) -> None:
        """Print the last lines of a successful run. ``lines`` describe the new state, so --check omits them, and a
        partial run prints what it did instead.
        """
        self.close()
        if self.as_json:
            if result.partial:
                output.data(json.dumps({"type": "partial", "lines": list(result.partial)}))
            self._end(0, result.changed)
            return
        for line in result.partial[:-1]:
            output.data(line)
        for line in result.partial[-1:] or (result.text, *(() if self.check else lines)):
            if line:
                output.say(line)
        output.data(f"changed={result.changed}")

    def failed(self, caught: Exception) -> None:
        """Print the end of a failed run as JSON. As text, output.guarded prints the error."""
        self.close()
        if self.as_json:
            error = output.as_error(caught) or errors.Unexpected(f"{type(caught).__name__}: {caught}")
            output.data(json.dumps(error.document()))
            self._end(error.exit_code, 0)

    def interrupted(self, caught: errors.Interrupted) -> None:
        """Print the last lines of an interrupted run."""
        self.close()
        if self.as_json:
            self._end(caught.exit_code, 0)
        for line in _INTERRUPTED.get(self.context.info_name or "", _INTERRUPTED_ANY):
            output.say(line)
        if caught.log:
            output.say(f"log: {caught.log}")

    def _end(self, code: int, changed: int) -> None:
        seconds = round(time.monotonic() - self._began, 3)
        output.data(json.dumps({"type": "end", "exit": code, "changed": changed, "seconds": seconds}))


_SHARED: dict[str, tuple[Any, object]] = {
    "verbose": (given.Verbose, 0),
    "check": (given.Check, False),
    "timeout": (given.Timeout, None),
    "artifacts": (given.Artifacts, None),
    "as_json": (given.Json, False),
    "ansible_env": (given.AnsibleEnv, None),
}


def run_options(*, check: bool = False, artifacts: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the shared options after a command's own; the command gets them as its first argument, a Run.

    ``check`` and ``artifacts``: whether the command has ``--check`` and ``--artifacts``.
    """
    omitted = {name for name, included in (("check", check), ("artifacts", artifacts)) if not included}
    shared = {name: row for name, row in _SHARED.items() if name not in omitted}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def call(context: typer.Context, **values: Any) -> None:
            run = Run(context, **{name: values.pop(name) for name in shared})
            try:
                command(run, **values)
            except errors.Interrupted as caught:
                run.interrupted(caught)
                # Typer would treat it as an ordinary Ctrl-C, and exit with 130 after SIGTERM too.
                raise typer.Exit(caught.exit_code) from None
            except Exception as caught:
                run.failed(caught)
                raise

        declared = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters = [
            inspect.Parameter("context", kind, annotation=typer.Context),
            *(parameter.replace(kind=kind) for parameter in declared),
            *(inspect.Parameter(name, kind, annotation=row[0], default=row[1]) for name, row in shared.items()),
        ]
        # Typer reads both.
        call.__dict__["__signature__"] = inspect.Signature(parameters)
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return call

    return decorate
