"""Merge an environment's kubeconfig into the user's, by the rules of Kubernetes' client-go.

Those rules (client-go, tools/clientcmd: loader.go, config.go): ``KUBECONFIG`` is a list of files, empty items and
duplicates left out; without it ``~/.kube/config`` is the only one. An entry is changed in the file that has it; a new
one goes to the first file that exists, else to the last of the list. ``<file>.lock``, made exclusively, locks a file.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from devenv import errors

_KINDS = ("clusters", "users", "contexts")


def files(env: Mapping[str, str] = os.environ) -> list[Path]:
    """The user's kubeconfig files, in client-go's order."""
    listed = [item for item in env.get("KUBECONFIG", "").split(os.pathsep) if item]
    if not listed:
        return [Path(env.get("HOME") or os.path.expanduser("~")) / ".kube" / "config"]
    return [Path(item).absolute() for item in dict.fromkeys(listed)]


def merge(source: Path, env: Mapping[str, str] = os.environ, *, wait: float = 30) -> list[Path]:
    """Put the cluster, user and context of ``source`` into the user's files; return the files that changed.

    Only entries of these names are added or replaced; the current context stays. ``wait`` is how long, in seconds,
    another program's lock is waited for. Raises UsageError (a file that is no kubeconfig) and EnvironmentBusy (lock).
    """
    new = _read(source)
    # A file of the environment itself is no file of the user's: `eval "$(devenv env)"` puts it into KUBECONFIG.
    candidates = [path for path in files(env) if path.resolve() != source.resolve()] or files(
        {"HOME": env.get("HOME", "")}
    )
    with contextlib.ExitStack() as stack:
        for path in candidates:
            stack.enter_context(_locked(path, wait))
        documents = {path: _read(path) for path in candidates if path.exists()}
        home = next(iter(documents), candidates[-1])
        before = {path: yaml.safe_dump(document) for path, document in documents.items()}
        for kind in _KINDS:
            for entry in new.get(kind) or []:
                _place(documents, home, kind, entry)
        changed = [path for path, document in documents.items() if before.get(path) != yaml.safe_dump(document)]
        for path in changed:
            _write(path, documents[path])
    return changed


def unmerge(name: str, env: Mapping[str, str] = os.environ, *, wait: float = 30) -> list[Path]:
    """Remove the entries of the environment ``name`` from the user's files; return the files that changed."""
    changed = []
    for path in files(env):
        if not path.is_file() or f"devenv-{name}" not in path.read_text(errors="replace"):
            continue
        with _locked(path, wait):
            document = _read(path)
            if _drop(document, f"devenv-{name}"):
                _write(path, document)
                changed.append(path)
    return changed


def _place(documents: dict[Path, dict[str, Any]], home: Path, kind: str, entry: Mapping[str, Any]) -> None:
    for document in documents.values():
        entries = document.get(kind) or []
        for number, found in enumerate(entries):
            if isinstance(found, dict) and found.get("name") == entry["name"]:
                entries[number] = dict(entry)
                return
    document = documents.setdefault(home, {"apiVersion": "v1", "kind": "Config", "preferences": {}})
    document[kind] = [*(document.get(kind) or []), dict(entry)]


def _drop(document: dict[str, Any], name: str) -> bool:
    found = False
    for kind in _KINDS:
        kept = [
            entry for entry in document.get(kind) or [] if not (isinstance(entry, dict) and entry.get("name") == name)
        ]
        if len(kept) != len(document.get(kind) or []):
            document[kind], found = kept, True
    if found and document.get("current-context") == name:
        document["current-context"] = ""
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        # Not the parser's own words: they quote the file, which holds keys.
        raise errors.UsageError(f"cannot be read as a kubeconfig ({type(error).__name__})", where=str(path)) from None
    if not isinstance(document, dict) or any(not isinstance(document.get(kind) or [], list) for kind in _KINDS):
        raise errors.UsageError(
            "is not a kubeconfig", where=str(path), advice="correct the file, or set KUBECONFIG to another"
        )
    return document


def _write(path: Path, document: Mapping[str, Any]) -> None:
    """Replace the file at once; a link stays a link, the mode stays as it is (a new file is private)."""
    real = path.resolve()
    mode = real.stat().st_mode & 0o777 if real.exists() else 0o600
    handle, temporary = tempfile.mkstemp(dir=real.parent, prefix=f".{real.name}.")
    try:
        with os.fdopen(handle, "w") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(yaml.safe_dump(dict(document), sort_keys=False, width=1 << 30))
        os.replace(temporary, real)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def _locked(path: Path, wait: float) -> Iterator[None]:
    """Hold client-go's lock of ``path``, waiting for who has it."""
    lock = path.with_name(f"{path.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + wait
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL, 0))
            break
        except FileExistsError:
            if time.monotonic() > end:
                raise errors.EnvironmentBusy(
                    f"another program holds the lock of {path}",
                    where=str(lock),
                    advice="if none is at work, remove that lock file",
                ) from None
            time.sleep(0.05)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
