"""Merge an environment's kubeconfig into the user's, by the rules of Kubernetes' client-go.

The rules (client-go, tools/clientcmd: loader.go, config.go): ``KUBECONFIG`` is a list of files without empty items and
duplicates; without it, ``~/.kube/config`` is the only file. An entry is changed in the file that contains it; a new one
goes to the first file that exists, else to the last of the list. ``<file>.lock``, created exclusively, locks a file.

``merged.json`` next to the environment's kubeconfig (a JSON list of paths) records the files that have its entries, so
that they are found from a shell with another ``KUBECONFIG``.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import files as whole_files
from ansible_collections.devenv.lab.plugins.plugin_utils.core import wait as waiting
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

RECORD = "merged.json"
LOCK_SECONDS = 30.0
_KINDS = ("clusters", "users", "contexts")


def files(env: Mapping[str, str] | None = None) -> list[Path]:
    """Return the user's kubeconfig files, in client-go's order."""
    env = os.environ if env is None else env
    listed = [item for item in env.get("KUBECONFIG", "").split(os.pathsep) if item]
    if not listed:
        return [Path(env.get("HOME") or os.path.expanduser("~")) / ".kube" / "config"]
    return [Path(item).absolute() for item in dict.fromkeys(listed)]


def merge(source: Path, env: Mapping[str, str] | None = None, *, wait: float = LOCK_SECONDS) -> list[Path]:
    """Add or replace the cluster, user and context of ``source`` in the user's files; return the changed files.

    The current context stays. ``wait`` is the time limit for another program's lock, in seconds. Raises DevenvError
    ``user_kubeconfig_invalid`` (a file that is not a kubeconfig) and ``user_kubeconfig_locked``.
    """
    new = _read(source)
    # `eval "$(devenv env)"` puts the environment's own file into KUBECONFIG; it is not one of the user's.
    candidates = [path for path in files(env) if path.resolve() != source.resolve()] or files(
        {"HOME": (os.environ if env is None else env).get("HOME", "")}
    )
    record = source.resolve().with_name(RECORD)

    def place(documents: dict[Path, dict[str, Any]]) -> None:
        home = next(iter(documents), candidates[-1])
        for kind in _KINDS:
            for entry in new.get(kind) or []:
                _place(documents, home, kind, entry)
        # Before the entries are written, so that those of a killed run are found.
        paths = dict.fromkeys(map(str, [*_recorded([record]), *documents]))
        whole_files.write(record, json.dumps(list(paths)) + "\n")

    return _edit(candidates, place, wait)


def unmerge(folder: Path, env: Mapping[str, str] | None = None) -> list[Path]:
    """Remove the entries of the environment with the state directory ``folder``, which may be absent, from the user's
    and the recorded files; return the changed files. Raises as `merge`.
    """
    name = f"devenv-{folder.name}"
    records = sorted(folder.glob(f"clusters/*/{RECORD}"))
    changed: list[Path] = []
    for path in dict.fromkeys([*files(env), *_recorded(records)]):
        # `eval "$(devenv env)"` puts the environment's own file into KUBECONFIG.
        is_environments = path.resolve().is_relative_to(folder.resolve())
        if not is_environments and path.is_file() and name in path.read_text(errors="replace"):
            changed += _edit([path], lambda documents: _drop(documents, name))
    for record in records:
        record.unlink()
    return changed


def _edit(
    paths: Sequence[Path], change: Callable[[dict[Path, dict[str, Any]]], None], wait: float = LOCK_SECONDS
) -> list[Path]:
    """Lock the files, apply ``change`` to the documents of those that exist, and write and return the changed ones."""
    with contextlib.ExitStack() as stack:
        for path in paths:
            stack.enter_context(_locked(path, wait))
        documents = {path: _read(path) for path in paths if path.exists()}
        before = {path: yaml.safe_dump(document) for path, document in documents.items()}
        change(documents)
        changed = [path for path, document in documents.items() if before.get(path) != yaml.safe_dump(document)]
        for path in changed:
            _write(path, documents[path])
    return changed


def _recorded(records: Iterable[Path]) -> list[Path]:
    """Return the files in the readable records."""
    return [Path(path) for record in records for path in whole_files.read_json(record, list) or []]


def _place(documents: dict[Path, dict[str, Any]], home: Path, kind: str, entry: Mapping[str, Any]) -> None:
    for document in documents.values():
        entries = document.get(kind) or []
        for number, existing in enumerate(entries):
            if _is_named(existing, entry["name"]):
                entries[number] = dict(entry)
                return
    document = documents.setdefault(home, {"apiVersion": "v1", "kind": "Config", "preferences": {}})
    document[kind] = [*(document.get(kind) or []), dict(entry)]


def _drop(documents: Mapping[Path, dict[str, Any]], name: str) -> None:
    for document in documents.values():
        for kind in _KINDS:
            if document.get(kind):
                document[kind] = [entry for entry in document[kind] if not _is_named(entry, name)]
        if document.get("current-context") == name:
            document["current-context"] = ""


def _is_named(entry: object, name: str) -> bool:
    return isinstance(entry, dict) and entry.get("name") == name


def _read(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        # Without the parser's message, which quotes the file, which contains keys.
        raise DevenvError(
            "user_kubeconfig_invalid", f"cannot be read as a kubeconfig ({type(error).__name__})", where=str(path)
        ) from None
    if not isinstance(document, dict) or any(not isinstance(document.get(kind) or [], list) for kind in _KINDS):
        raise DevenvError("user_kubeconfig_invalid", "is not a kubeconfig", where=str(path))
    return document


def _write(path: Path, document: Mapping[str, Any]) -> None:
    """Replace the file atomically. A link stays a link and the mode is kept; a new file is private."""
    real = path.resolve()
    mode = real.stat().st_mode & 0o777 if real.exists() else 0o600
    whole_files.write(real, yaml.safe_dump(dict(document), sort_keys=False, width=1 << 30), mode)


@contextlib.contextmanager
def _locked(path: Path, wait: float) -> Iterator[None]:
    """Hold client-go's lock of ``path``; wait up to ``wait`` seconds for another holder."""
    lock = path.with_name(f"{path.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    waiting.until(
        lambda: _create(lock),
        time.monotonic() + wait,
        lambda: DevenvError("user_kubeconfig_locked", f"another program holds the lock of {path}", where=str(lock)),
        pause=0.05,
    )
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def _create(lock: Path) -> bool:
    """Create the lock file; return False if it exists."""
    try:
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL, 0))
    except FileExistsError:
        return False
    return True
