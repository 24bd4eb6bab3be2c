"""Options of ssh for the nodes of an environment, and the directory of its control sockets."""

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
    """Return ssh's ControlPath: ``<state>/ssh/cp/%C``, or a short path in /tmp if a socket's name would be too long.

    The short one depends only on the user and the state directory, so that every run finds the masters of the last. A
    ``%`` in the state directory's name is doubled, as ssh requires.
    """
    return f"{str(_control_folder(Path(state_dir))).replace('%', '%%')}/%C"


def prepare_control_folder(state_dir: str | Path) -> Path:
    """Create the directory of control_path (ssh does not), private to the user, if it is missing.

    The state directory must exist. Raises DevenvError ssh_folder if another user owns it or can access it.
    """
    folder = _control_folder(Path(state_dir))
    for part in (folder.parent, folder):
        part.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise DevenvError("ssh_folder", "is not a directory that only its owner can access", where=str(folder))
    return folder


# What ssh and scp get before everything else. Pinned in the inventory, so that no variable of Ansible changes it.
FIRST_ARGS = "-C -o ControlMaster=auto -o ControlPersist=120s"


def common_args(
    state_dir: str | Path, known_hosts: Path | None = None, *, only_key: bool = True, user_config: bool = False
) -> str:
    """Return the options of ssh for a node of the environment, quoted for a shell: known_hosts (by default the
    environment's), strict checking, control sockets. With ``only_key``, ssh tries only the given key; with
    ``user_config``, it reads the user's and the machine's configuration.
    """
    known = str(known_hosts or Path(state_dir) / "ssh" / "known_hosts").replace("%", "%%")
    options = [
        f"UserKnownHostsFile={_ssh_word(known)}",
        "StrictHostKeyChecking=yes",
        *(["IdentitiesOnly=yes"] if only_key else []),
        f"ControlPath={_ssh_word(control_path(state_dir))}",
    ]
    return " ".join([*([] if user_config else ["-F none"]), *(f"-o {shlex.quote(option)}" for option in options)])


def key_path(path: Path) -> str:
    """Return the path of a private key as ssh's IdentityFile, in which ``%`` starts a token."""
    return str(path).replace("%", "%%")


def _control_folder(state: Path) -> Path:
    usual = state / "ssh" / "cp"
    if len(os.fsencode(usual)) + 1 + _HASH + _SSH_SUFFIX <= _SOCKET_LIMIT:
        return usual
    digest = hashlib.sha256(os.fsencode(state)).hexdigest()[:16]
    return Path("/tmp") / f"devenv-{os.getuid()}-{digest}"


def _ssh_word(text: str) -> str:
    """Quote a value for ssh's configuration syntax, where blanks, quotes and backslashes are special."""
    if not re.search(r"[\s'\"\\]", text):
        return text
    quoted = re.sub(r'(["\\])', r"\\\1", text)
    return f'"{quoted}"'
