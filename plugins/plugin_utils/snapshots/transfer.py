"""Run scripts on nodes, and fetch their output as files with a checksum."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from pathlib import Path
from typing import IO

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.manifest import sha256
from ansible_collections.devenv.lab.plugins.plugin_utils.core import program
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots.catalogue import FileEntry
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import remote
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh.remote import Target

STREAM_TIMEOUT = 3600
_SCRIPT_TIMEOUT = 120
_BLOCK = 1 << 20

# The node also sends the checksum, since a cut connection looks like the end of the data. The shell waits for
# sha256sum, which is part of the pipeline; the reader waits for the end of the data.
_WITH_CHECKSUM = "set -eu; {{ {{ {script}\n}} | tee >(cat >&3) | sha256sum >&2; }} 3>&1"
_CHECKSUM = re.compile(r"^([0-9a-f]{64})  -$", re.MULTILINE)


def run(
    target: Target,
    script: str,
    *,
    stdin: IO[bytes] | None = None,
    stdout: program.Reader | None = None,
    timeout: float = _SCRIPT_TIMEOUT,
) -> program.Result:
    """Run a script in the node's shell. Raises DevenvError ``snapshot_failed``."""
    try:
        return remote.execute(target, script, stdin=stdin, stdout=stdout, timeout=timeout)
    except program.ProgramFailed as error:
        if isinstance(error.__cause__, OSError):
            raise DevenvError("snapshot_failed", str(error.__cause__)) from error
        lines = [line.strip() for line in error.stderr.splitlines() if line.strip()]
        # Without containerd's warnings and the checksum.
        lines = [line for line in lines if "level=warning" not in line and not line.endswith("  -")]
        raise DevenvError("snapshot_failed", "; ".join(lines[-3:])[-400:] or str(error), where=target.name) from None
    except OSError as error:
        raise DevenvError("snapshot_failed", str(error), where=target.name) from None


def fetch(target: Target, script: str, path: Path, timeout: float = STREAM_TIMEOUT) -> FileEntry:
    """Write the output of a node's script to ``path`` (0600) and return its checksum and size.

    Raises DevenvError ``snapshot_failed`` if the script fails, the disk is full, or ``timeout`` seconds have passed.
    """
    digest = hashlib.sha256()

    def receive(pipe: IO[bytes]) -> None:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            while block := pipe.read(_BLOCK):
                digest.update(block)
                stream.write(block)

    command = f"bash -o pipefail -c {shlex.quote(_WITH_CHECKSUM.format(script=script))}"
    messages = run(target, command, stdout=receive, timeout=timeout).stderr
    if digest.hexdigest() not in _CHECKSUM.findall(messages):
        raise DevenvError("snapshot_failed", f"{path.name} was truncated", where=target.name)
    return {"sha256": digest.hexdigest(), "size": path.stat().st_size}


def describe(path: Path) -> FileEntry:
    """Return the checksum and size of a file."""
    return {"sha256": sha256(path), "size": path.stat().st_size}
