"""One of the user's kubeconfig files: found, locked, read and written as client-go does (tools/clientcmd).

A file is written in place, as kubectl writes it: links, hard links, owner, mode and access lists stay. Scalars keep the
form in which they are written, because YAML 1.1 reads a token such as 012345 as a number.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import wait as waiting
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

Document = dict[str, Any]
KINDS = ("clusters", "users", "contexts")


class _Scalar(str):
    """A scalar as written."""

    __slots__ = ("style", "tag")
    style: str | None
    tag: str


class _Loader(yaml.SafeLoader):
    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            return super().construct_object(node, deep=deep)
        if node.tag.endswith(":null"):
            return None
        scalar = _Scalar(node.value)
        scalar.style, scalar.tag = node.style, node.tag
        return scalar


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(_Scalar, lambda dumper, data: dumper.represent_scalar(data.tag, str(data), style=data.style))


def files(env: Mapping[str, str]) -> list[Path]:
    """Return the user's kubeconfig files in client-go's order: those in ``KUBECONFIG``, else ``~/.kube/config``."""
    listed = [item for item in env.get("KUBECONFIG", "").split(os.pathsep) if item]
    return [Path(item).absolute() for item in dict.fromkeys(listed)] or [_home(env) / ".kube" / "config"]


def _home(env: Mapping[str, str]) -> Path:
    return Path(env.get("HOME") or os.path.expanduser("~"))


def to_text(document: Mapping[str, Any]) -> str:
    """Return the text of a kubeconfig."""
    return yaml.dump(dict(document), Dumper=_Dumper, sort_keys=False, width=1 << 30, allow_unicode=True)


def read(path: Path) -> Document:
    """Return a kubeconfig. Raises DevenvError ``user_kubeconfig_invalid``."""
    try:
        document = yaml.load(path.read_text(), Loader=_Loader) or {}  # a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        # Without the parser's message, which quotes the file, which contains keys.
        raise _invalid(path, f"cannot be read as a kubeconfig ({type(error).__name__})") from None
    if not isinstance(document, dict) or any(not isinstance(document.get(kind) or [], list) for kind in KINDS):
        raise _invalid(path, "is not a kubeconfig")
    return document


def check_kind(path: Path) -> None:
    """Raise DevenvError ``user_kubeconfig_invalid`` for a device, pipe or directory, before it is opened."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise _invalid(path, "is not a regular file")
    except FileNotFoundError:
        return
    except OSError as error:
        raise _invalid(path, f"cannot be read: {error.strerror}") from None


def _invalid(path: Path, message: str) -> DevenvError:
    return DevenvError("user_kubeconfig_invalid", message, where=str(path))


def _unwritable(path: Path, error: OSError) -> DevenvError:
    return DevenvError("user_kubeconfig_unwritable", str(error.strerror).lower(), where=str(path))


# --- writing ---------------------------------------------------------------------------------------------------------


def write(path: Path, document: Mapping[str, Any], env: Mapping[str, str]) -> None:
    """Write the file in place; a new one is private. If that fails, the old content is restored.

    Raises DevenvError ``user_kubeconfig_unwritable``.
    """
    is_new = not path.exists()
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if is_new else 0), 0o600)
        try:
            if is_new:
                os.fchmod(descriptor, 0o600)
                _give(descriptor, path, env)
            _overwrite(descriptor, to_text(document).encode())
        except BaseException:
            if is_new:
                path.resolve().unlink()
            raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _unwritable(path, error) from error


def _overwrite(descriptor: int, content: bytes) -> None:
    before = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    try:
        _put(descriptor, content)
        os.fsync(descriptor)
    except BaseException:
        # The old content fits on a full disk, too, because its blocks are released last.
        _put(descriptor, before)
        raise


def _put(descriptor: int, content: bytes) -> None:
    done = 0
    while done < len(content):
        done += os.pwrite(descriptor, content[done:], done)
    os.ftruncate(descriptor, len(content))


def _give(target: int | Path, path: Path, env: Mapping[str, str]) -> None:
    """Give what root has just created at ``path`` to the owner of the home directory that contains it (root may work
    for another user, as with sudo), or else to the owner of its directory.
    """
    if os.geteuid() == 0:
        owner = (_home(env) if path.is_relative_to(_home(env)) else path.parent).stat()
        os.chown(target, owner.st_uid, owner.st_gid)


# --- locks -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(path: Path, env: Mapping[str, str], seconds: float) -> Iterator[DevenvError | None]:
    """Hold client-go's lock of a file: ``<file>.lock``, created exclusively. Wait up to ``seconds`` for its holder.

    Yields None, or why the file cannot be locked and so cannot be changed. Raises DevenvError
    ``user_kubeconfig_locked``.
    """
    lock = path.with_name(f"{path.name}.lock")
    created: list[Path] = []
    refused: DevenvError | None = None
    try:
        try:
            _make_folders(path.parent, env, created)
            waiting.until(lambda: _create(lock), time.monotonic() + seconds, lambda: _busy(path, lock), pause=0.05)
        except OSError as error:
            refused = _unwritable(path, error)
        try:
            yield refused
        finally:
            if refused is None:
                lock.unlink(missing_ok=True)
    finally:
        for folder in reversed(created):
            # It has content, if the file was created.
            with contextlib.suppress(OSError):
                folder.rmdir()


def _make_folders(folder: Path, env: Mapping[str, str], created: list[Path]) -> None:
    missing = [part for part in (folder, *folder.parents) if not part.exists()]
    for part in reversed(missing):
        part.mkdir(mode=0o755)
        created.append(part)
        _give(part, part, env)


def _busy(path: Path, lock: Path) -> DevenvError:
    return DevenvError("user_kubeconfig_locked", f"another program holds the lock of {path}", where=str(lock))


def _create(lock: Path) -> bool:
    """Create the lock file; return False if it exists."""
    try:
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0))
    except FileExistsError:
        return False
    return True
