"""The options that all commands with a run share."""

from __future__ import annotations

import functools
import inspect
import shlex
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from devenv.cli import options as given
from devenv.cli import output

if TYPE_CHECKING:
    from devenv.runs import playbook


@dataclass(frozen=True)
class RunOptions:
    """What was typed of the shared options."""

    context: typer.Context
    verbose: int = 0
    check: bool = False
    timeout: str | None = None
    artifacts: Path | None = None
    as_json: bool = False

    def running(self) -> AbstractContextManager[output.Run]:
        """Return a context that shows the run."""
        return output.running(as_json=self.as_json, verbose=bool(self.verbose))

    def options(self, extra: list[str] | None = None, **further: Any) -> playbook.Options:
        """Return the options of the playbook; ``extra`` are Ansible variables as typed. Raises UsageError."""
        from ansible_collections.devenv.lab.plugins.plugin_utils.core import redact

        from devenv.runs import extra_vars, playbook

        return playbook.Options(
            extra=[extra_vars.parse(value) for value in extra or []],
            arguments=given.rest(self.context),
            command=redact.redact(shlex.join(["devenv", *sys.argv[1:]])),
            verbosity=self.verbose,
            check=self.check,
            timeout=given.seconds(self.timeout),
            artifacts=self.artifacts,
            **further,
        )


_SHARED: dict[str, tuple[Any, object]] = {
    "verbose": (given.Verbose, 0),
    "check": (given.Check, False),
    "timeout": (given.Timeout, None),
    "artifacts": (given.Artifacts, None),
    "as_json": (given.Json, False),
}


def run_options(*, check: bool = False, artifacts: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the shared options behind a command's own; the command gets them as RunOptions, its first argument.

    ``check`` and ``artifacts``: whether the command has ``--check`` and ``--artifacts``.
    """
    left_out = {name for name, wanted in (("check", check), ("artifacts", artifacts)) if not wanted}
    shared = {name: row for name, row in _SHARED.items() if name not in left_out}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def call(context: typer.Context, **values: Any) -> None:
            command(RunOptions(context, **{name: values.pop(name) for name in shared}), **values)

        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters = [
            inspect.Parameter("context", kind, annotation=typer.Context),
            *(parameter.replace(kind=kind) for parameter in own),
            *(inspect.Parameter(name, kind, annotation=row[0], default=row[1]) for name, row in shared.items()),
        ]
        # Typer reads both.
        call.__dict__["__signature__"] = inspect.Signature(parameters)
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return call

    return decorate
