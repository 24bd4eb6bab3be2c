"""Merge the kubeconfigs of an environment into the user's, by the rules of Kubernetes' client-go.

The rules (tools/clientcmd: loader.go, config.go): an entry is changed in the file that contains it; a new one, and the
current context, go to the first file that exists, else to the last of the list.

Every merged entry names its environment in an extension, as minikube's do, so that `unmerge` removes exactly those
entries, even renamed ones. ``merged.json`` next to the environment's kubeconfig (a JSON list of paths) records the
files, so that they are found from a shell with another ``KUBECONFIG``.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files as whole_files
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import user_kubeconfig
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.user_kubeconfig import KINDS, Document

RECORD = "merged.json"
LOCK_SECONDS = 30.0
EXTENSION = "devenv.lab"
_CURRENT = "current-context"

Documents = dict[Path, Document]


def merge(
    sources: Sequence[Path],
    env: Mapping[str, str] | None = None,
    *,
    switch_to: str = "",
    wait: float = LOCK_SECONDS,
    check: bool = False,
) -> list[Path]:
    """Add or replace the entries of ``sources``, kubeconfigs of one environment, in the user's files; return the
    changed files.

    ``switch_to`` becomes the current context; without it, the current context stays. ``wait`` is the time limit for
    another program's lock, in seconds. With ``check``, nothing is written. Raises DevenvError
    ``user_kubeconfig_invalid`` (not a kubeconfig, not a regular file), ``user_kubeconfig_locked``,
    ``user_kubeconfig_unwritable``.
    """
    env = os.environ if env is None else env
    state = _state(sources[0])
    # `eval "$(devenv env)"` puts the environment's own file into KUBECONFIG; it is not one of the user's.
    candidates = [path for path in _distinct(user_kubeconfig.files(env)) if not _real(path).is_relative_to(state)]
    candidates = candidates or user_kubeconfig.files({"HOME": env.get("HOME", "")})
    missing = {path: [part for part in (path, *path.parents) if not os.path.lexists(part)] for path in candidates}
    new = [user_kubeconfig.read(source) for source in sources]

    def place(documents: Documents) -> None:
        home = next(iter(documents), candidates[-1])
        documents.setdefault(home, _new_document(missing[home]))
        for kind in KINDS:
            for entry in [entry for document in new for entry in document.get(kind) or []]:
                _place(documents, home, kind, _marked(entry, kind, {"environment": state.name}))
        if switch_to:
            _switch(documents, home, switch_to)
        if not check:
            # Before the entries are written, so that those of a killed run are found.
            _record(sources, documents)

    return _edit(candidates, place, env, wait, check=check)


def unmerge(folder: Path, env: Mapping[str, str] | None = None, *, check: bool = False) -> list[Path]:
    """Remove the entries of the environment with the state directory ``folder``, which may be absent, from the user's
    and the recorded files, and the files that `merge` created if nothing else is in them; return the changed files.
    ``check`` and errors as in `merge`.
    """
    env = os.environ if env is None else env
    name = f"devenv-{folder.name}"
    records = sorted(folder.glob(f"clusters/*/{RECORD}"))
    recorded = _recorded(records)
    changed: list[Path] = []
    for path in dict.fromkeys([*user_kubeconfig.files(env), *recorded]):
        # `eval "$(devenv env)"` puts the environment's own file into KUBECONFIG.
        is_environments = _real(path).is_relative_to(_real(folder))
        if not is_environments and _contains(path, name, required=path in recorded):
            changed += _edit([path], lambda documents: _drop(documents, folder.name, name), env, check=check)
    for record in [] if check else records:
        record.unlink()
    return changed


def _state(source: Path) -> Path:
    """Return the state directory of the environment that a kubeconfig belongs to."""
    return _real(source).parents[2]


def _real(path: Path) -> Path:
    # Unlike Path.resolve, it accepts a link to itself.
    return Path(os.path.realpath(path))


def _distinct(paths: Sequence[Path]) -> list[Path]:
    """Return the paths without further links to the same file, whose documents would overwrite each other."""
    files: dict[object, Path] = {}
    for path in paths:
        try:
            status = path.stat()
            files.setdefault((status.st_dev, status.st_ino), path)
        except OSError:
            files.setdefault(_real(path), path)
    return list(files.values())


def _contains(path: Path, text: str, *, required: bool) -> bool:
    """Return whether a file contains ``text``; an unreadable one is an error only if it is ``required``."""
    try:
        return path.is_file() and text in path.read_text(errors="replace")
    except OSError as error:
        if not required:
            return False
        message = f"cannot be read: {error.strerror}"
        raise DevenvError("user_kubeconfig_invalid", message, where=str(path)) from error


def _edit(
    paths: Sequence[Path],
    change: Callable[[Documents], None],
    env: Mapping[str, str],
    wait: float = LOCK_SECONDS,
    *,
    check: bool = False,
) -> list[Path]:
    """Lock the files, apply ``change`` to the documents of those that exist, and write and return the changed ones."""
    for path in paths:
        user_kubeconfig.check_kind(path)
    folders: list[str] = []
    with contextlib.ExitStack() as stack:
        # In kubectl's order, so that two programs with the same files never wait for each other.
        order = [] if check else sorted(paths, key=str)
        refused = {path: stack.enter_context(user_kubeconfig.locked(path, env, wait)) for path in order}
        documents = {path: user_kubeconfig.read(path) for path in paths if path.exists()}
        before = {path: user_kubeconfig.to_text(document) for path, document in documents.items()}
        change(documents)
        changed = [
            path for path, document in documents.items() if before.get(path) != user_kubeconfig.to_text(document)
        ]
        for error in filter(None, map(refused.get, changed)):
            raise error
        for path in [] if check else changed:
            if _is_leftover(documents[path]):
                folders += _mark(documents[path], "")["created"]
                _real(path).unlink()
            else:
                user_kubeconfig.write(path, documents[path], env)
    for folder in folders:
        # The file itself is gone, and a directory may have other content.
        with contextlib.suppress(OSError):
            os.rmdir(folder)
    return changed


def _record(sources: Sequence[Path], documents: Documents) -> None:
    for record in [_real(source).with_name(RECORD) for source in sources]:
        paths = dict.fromkeys(map(str, [*_recorded([record]), *documents]))
        whole_files.write(record, json.dumps(list(paths)) + "\n")


def _recorded(records: Iterable[Path]) -> list[Path]:
    """Return the files in the readable records."""
    return [Path(path) for record in records for path in whole_files.read_json(record, list) or []]


# --- entries ---------------------------------------------------------------------------------------------------------


def _place(documents: Documents, home: Path, kind: str, entry: Document) -> None:
    for document in documents.values():
        entries = document.get(kind) or []
        for number, existing in enumerate(entries):
            if _is_named(existing, entry["name"]):
                kept = {"previous": _mark(existing, kind).get("previous")} if kind == "contexts" else {}
                entries[number] = _marked(entry, kind, {key: value for key, value in kept.items() if value})
                return
    documents[home][kind] = [*(documents[home].get(kind) or []), entry]


def _switch(documents: Documents, home: Path, context: str) -> None:
    """Make ``context`` the current one, and keep the name of the previous one in its entry."""
    previous = next((text for document in documents.values() if (text := document.get(_CURRENT))), "")
    if previous == context:
        return
    documents[home][_CURRENT] = context
    for document in documents.values() if previous else ():
        entries = document.get("contexts") or []
        for number, entry in enumerate(entries):
            if _is_named(entry, context):
                entries[number] = _marked(entry, "contexts", {"previous": str(previous)})


def _drop(documents: Documents, environment: str, name: str) -> None:
    for document in documents.values():
        contexts = document.get("contexts") or []
        dropped = [entry for entry in contexts if _is_of(entry, "contexts", environment, name)]
        for kind in KINDS:
            if document.get(kind):
                remaining = [entry for entry in document[kind] if not _is_of(entry, kind, environment, name)]
                # Like kubectl, which writes null for an empty list.
                document[kind] = remaining or None
        for entry in dropped:
            if document.get(_CURRENT) == entry["name"]:
                others = [other.get("name") for other in document["contexts"] or [] if isinstance(other, dict)]
                previous = _mark(entry, "contexts").get("previous", "")
                document[_CURRENT] = previous if previous in others else ""


def _is_named(entry: object, name: str) -> bool:
    return isinstance(entry, dict) and entry.get("name") == name


def _is_of(entry: Any, kind: str, environment: str, name: str) -> bool:
    """Return whether an entry belongs to the environment; one without a mark, if it has the environment's name."""
    mark = _mark(entry, kind)
    return mark.get("environment") == environment if mark else _is_named(entry, name)


def _mark(entry: Any, kind: str) -> Document:
    """Return the extension of an entry, or of a whole document (``kind`` empty); empty if it has none."""
    content = (entry.get(kind.removesuffix("s")) if kind else entry) if isinstance(entry, dict) else None
    extensions = content.get("extensions") if isinstance(content, dict) else None
    for extension in extensions if isinstance(extensions, list) else []:
        if _is_named(extension, EXTENSION) and isinstance(extension.get("extension"), dict):
            return dict(extension["extension"])
    return {}


def _marked(entry: Document, kind: str, values: Document) -> Document:
    """Return an entry with ``values`` added to its extension."""
    key = kind.removesuffix("s")
    content = entry.get(key) or {}
    others = [item for item in content.get("extensions") or [] if not _is_named(item, EXTENSION)]
    mark = {"name": EXTENSION, "extension": _mark(entry, kind) | values}
    return {**entry, key: {**content, "extensions": [*others, mark]}}


def _new_document(created: Sequence[Path]) -> Document:
    """Return a new kubeconfig that lists what is created for it: the file and its directories, innermost first."""
    mark = {"name": EXTENSION, "extension": {"created": list(map(str, created))}}
    return {"apiVersion": "v1", "kind": "Config", "preferences": {}, "extensions": [mark]}


def _is_leftover(document: Document) -> bool:
    """Return whether `merge` created the file and nothing else has been added."""
    others = document.keys() - {"apiVersion", "kind", "preferences", "extensions"}
    is_empty = not any(document[key] for key in others) and not document.get("preferences")
    return is_empty and "created" in _mark(document, "") and len(document["extensions"]) == 1
