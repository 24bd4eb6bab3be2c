"""The output of the command: data on stdout, everything else on stderr; an error is a few lines without a traceback."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

import typer
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

from devenv import errors


def say(text: str) -> None:
    """Print a line for people. Without a terminal or with a full disk, nobody reads it."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)


def data(text: str) -> None:
    """Print the requested data. Raises Error if it cannot be written."""
    try:
        sys.stdout.write(text if text.endswith("\n") or not text else f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard(sys.stdout)
        raise DevenvError("output_failed", f"cannot write to stdout: {error.strerror}") from None


def _discard(stream: TextIO) -> None:
    """Discard what a broken stream still gets: Python would report the error again at exit, with code 120."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def document(form: str, value: Any, text: Callable[[Any], str]) -> None:
    """Print ``value`` as JSON or YAML, or as the text that the function ``text`` returns for it."""
    data(to_text(value, form) if form in ("json", "yaml") else text(value))


def to_text(value: Any, form: str) -> str:
    """Return ``value`` as one JSON or YAML document."""
    if form == "json":
        return json.dumps(value, indent=2, default=str)
    import yaml

    text: str = yaml.safe_dump(value, sort_keys=False, width=120)
    return text


def table(rows: Sequence[Mapping[str, Any]], *columns: str) -> str:
    """Return rows as aligned columns. A column is a key, with the key in capitals as its heading, or ``key=HEADING``.
    Empty cells are ``-``.
    """
    keys = [column.partition("=") for column in columns]
    cells = [[heading if equals else key.upper() for key, equals, heading in keys]]
    cells += [[_cell(row.get(key)) for key, _, _ in keys] for row in rows]
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
    """Print what happened and where (with the reason's id), what to do next, what was gathered, and the log's path."""
    reason = f" [{error.reason}]" if error.reason else ""
    say(f"error: {' '.join(str(error).split())}{reason}")
    details = {
        "next": " ".join(error.advice.split()),
        "gathered": error.gathered,
        "not gathered": error.gather_trouble,
        "log": error.log,
    }
    for label, detail in details.items():
        if detail:
            say(f"{label}: {detail}")


def as_error(caught: BaseException) -> errors.Error | None:
    """Return the package's exception for a known failure, None for a defect."""
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
    """Run the command, report its error, and return its exit code."""
    try:
        code = command()
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        _discard(sys.stdout)
        return 1
    except Exception as caught:
        error = as_error(caught) or _defect(caught, arguments)
        report(error)
        return error.exit_code


def _defect(caught: Exception, arguments: Sequence[str]) -> errors.Error:
    """Write the traceback of a defect to a file, which keeps it off the screen."""
    import traceback

    from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, paths, redact

    path = paths.home() / "history" / f"defect-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}.txt"
    text = f"devenv {' '.join(arguments)}\n\n{''.join(traceback.format_exception(caught))}"
    with contextlib.suppress(OSError):
        files.write(path, redact.redact(text))
    return errors.Unexpected(
        f"{type(caught).__name__}: {caught}",
        advice="this is a bug in devenv; please report it and attach the log",
        log=path if path.exists() else None,
        reason="unexpected",
    )
