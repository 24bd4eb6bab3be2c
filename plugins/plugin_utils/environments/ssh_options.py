"""Options of ssh for the nodes of an environment, and the folder of its control sockets."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import stat
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

# A Unix socket's path has 108 bytes with its final NUL; ssh binds to "<path>.<16 characters>" first; %C is 40 digits.
_SOCKET_LIMIT = 107
_SSH_SUFFIX = 17
_HASH = 40


def control_path(state_dir: str | Path) -> str:
    """ssh's ControlPath: ``<state>/ssh/cp/%C``, or in a short folder of /tmp where a socket's name would be too long.

    The short one follows from the user and the state folder alone, so that every run finds the masters of the last.
    A ``%`` in the state folder's own name is doubled, as ssh wants it.
    """
    return f"{str(_control_folder(Path(state_dir))).replace('%', '%%')}/%C"


def prepare_control_folder(state_dir: str | Path) -> Path:
    """Make the folder of control_path, private to the user, if it is not there (ssh does not).

    The state folder must be there. Raises DevenvError ssh_folder when someone else owns it or others may enter.
    """
    folder = _control_folder(Path(state_dir))
    for part in (folder.parent, folder):
        part.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise DevenvError("ssh_folder", "is not a folder that only you may enter", where=str(folder))
    return folder


def common_args(state_dir: str | Path, known_hosts: Path | None = None, *, only_key: bool = True) -> str:
    """Options of ssh for a node of the environment, quoted for a shell: known_hosts (its own unless given), checking
    on, own sockets; ``only_key``: no other key than the one given is tried.
    """
    known = str(known_hosts or Path(state_dir) / "ssh" / "known_hosts").replace("%", "%%")
    options = [
        f"UserKnownHostsFile={_ssh_word(known)}",
        "StrictHostKeyChecking=yes",
        *(["IdentitiesOnly=yes"] if only_key else []),
        f"ControlPath={_ssh_word(control_path(state_dir))}",
    ]
    return " ".join(f"-o {shlex.quote(option)}" for option in options)


def _control_folder(state: Path) -> Path:
    own = state / "ssh" / "cp"
    if len(os.fsencode(own)) + 1 + _HASH + _SSH_SUFFIX <= _SOCKET_LIMIT:
        return own
    digest = hashlib.sha256(os.fsencode(state)).hexdigest()[:16]
    return Path("/tmp") / f"devenv-{os.getuid()}-{digest}"


def _ssh_word(text: str) -> str:
    """A value in ssh's own configuration syntax, where blanks part words and quotes and backslashes mean something."""
    if not re.search(r"[\s'\"\\]", text):
        return text
    quoted = re.sub(r'(["\\])', r"\\\1", text)
    return f'"{quoted}"'
