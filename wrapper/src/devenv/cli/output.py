"""How the command speaks: data on stdout, all else on stderr; errors in three lines; no traceback for a user's
mistake.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

from devenv import errors

if TYPE_CHECKING:
    from devenv.runs.playbook import RunResult
    from devenv.runs.progress import Shown

TEXT, JSON, YAML = "text", "json", "yaml"


def say(text: str) -> None:
    """A line for people."""
    print(text, file=sys.stderr, flush=True)


def data(text: str) -> None:
    """What was asked for."""
    sys.stdout.write(text if text.endswith("\n") or not text else f"{text}\n")
    sys.stdout.flush()


def document(form: str, value: Any, text: Callable[[Any], str]) -> None:
    """Print ``value`` as JSON, as YAML, or as ``text`` makes of it."""
    data(to_text(value, form) if form in (JSON, YAML) else text(value))


def to_text(value: Any, form: str) -> str:
    """``value`` as one JSON or YAML document."""
    if form == JSON:
        return json.dumps(value, indent=2, default=str)
    import yaml

    text: str = yaml.safe_dump(value, sort_keys=False, width=120)
    return text


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Rows as aligned columns; ``columns`` maps a key to its heading. Empty cells are ``-``."""
    cells = [list(columns.values())]
    cells += [[_cell(row.get(key)) for key in columns] for row in rows]
    widths = [max(len(line[number]) for line in cells) for number in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def _cell(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(str(item) for item in value) or "-"
    return "-" if value is None or value == "" else str(value)


def size(count: int) -> str:
    """``0 B``, ``12.0 MiB``, ``1.5 GiB``"""
    amount = float(count)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


# --- errors ----------------------------------------------------------------------------------------------------------


def report(error: errors.Error) -> None:
    """The lines of an error: what and where (and its reason's id), what to do next, where the whole log is, and what
    was gathered because of it.
    """
    reason = f" [{error.reason}]" if error.reason else ""
    say(f"error: {' '.join(str(error).split())}{reason}")
    if error.advice:
        say(f"next: {' '.join(error.advice.split())}")
    if error.gathered:
        say(f"gathered: {error.gathered}")
    if error.gather_trouble:
        say(f"not gathered: {error.gather_trouble}")
    if error.log:
        say(f"log: {error.log}")


def as_error(caught: BaseException) -> errors.Error | None:
    """The package's exception for what was caught, or None for what nobody foresaw."""
    if isinstance(caught, errors.Error):
        return caught
    if isinstance(caught, DevenvError):
        return errors.from_logic(caught)
    if isinstance(caught, typer.TyperException):
        context = getattr(caught, "ctx", None)
        command = context.command_path if context is not None else "devenv"
        return errors.UsageError(caught.format_message().rstrip("."), advice=f"{command} --help")
    return None


def guarded(command: Callable[[], Any], arguments: Sequence[str]) -> int:
    """Run the command; return its exit code, having said what went wrong."""
    try:
        code = command()
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        # The reader has gone, and python would say so once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as caught:
        error = as_error(caught) or _unforeseen(caught, arguments)
        report(error)
        return error.exit_code


def interrupted(caught: errors.Interrupted) -> None:
    """The lines after Ctrl-C."""
    say("interrupted: what was made is kept")
    say("next: devenv up goes on, devenv down removes it")
    if caught.log:
        say(f"log: {caught.log}")


def _unforeseen(caught: Exception, arguments: Sequence[str]) -> errors.Error:
    """A defect: its traceback goes to a file, not to the screen."""
    import traceback

    from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths, redact

    path: Path | None = (
        paths.home() / "history" / f"defect-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}.txt"
    )
    text = f"devenv {' '.join(arguments)}\n\n{''.join(traceback.format_exception(caught))}"
    try:
        assert path is not None
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        path.write_text(redact.redact(text))
    except OSError:
        path = None
    return errors.Unexpected(
        f"{type(caught).__name__}: {caught}",
        advice="this is a defect of devenv; the log has what its maintainers need",
        log=path,
        reason="unexpected",
    )


# --- runs ------------------------------------------------------------------------------------------------------------


class Run:
    """What a command that runs a playbook shows: progress while it lasts, then its end."""

    def __init__(self, *, as_json: bool, verbose: bool = False) -> None:
        from devenv.runs import progress

        self.as_json = as_json
        self._began = time.monotonic()
        self.watcher: Shown = progress.Shown(progress.sink(as_json=as_json), verbose=verbose)

    def done(self, result: RunResult, lines: Sequence[str] = ()) -> None:
        """The last lines of a run that came to its end."""
        self.watcher.close()
        if self.as_json:
            self._end(0, result.changed)
            return
        for line in [result.text, *lines]:
            if line:
                say(line)
        data(f"changed={result.changed}")

    def failed(self, code: int, error: errors.Error | None = None) -> None:
        """The last lines of one that did not; the error's own lines are guarded's, except as JSON."""
        self.watcher.close()
        if self.as_json:
            if error:
                data(json.dumps(error.document()))
            self._end(code, 0)

    def _end(self, code: int, changed: int) -> None:
        seconds = round(time.monotonic() - self._began, 3)
        data(json.dumps({"type": "end", "exit": code, "changed": changed, "seconds": seconds}))


@contextlib.contextmanager
def running(*, as_json: bool, verbose: bool = False) -> Iterator[Run]:
    """A Run for the block; whatever ends the block early is told as the form asks, and goes on."""
    shown = Run(as_json=as_json, verbose=verbose)
    try:
        yield shown
    except errors.Interrupted as caught:
        shown.failed(caught.exit_code)
        interrupted(caught)
        # Typer would take it for an ordinary Ctrl-C, and end with 130 for SIGTERM too.
        raise typer.Exit(caught.exit_code) from None
    except Exception as caught:
        error = as_error(caught) or errors.Unexpected(f"{type(caught).__name__}: {caught}")
        shown.failed(error.exit_code, error)
        raise
