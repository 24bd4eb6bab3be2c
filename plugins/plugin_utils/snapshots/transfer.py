"""Run scripts on nodes, and bring their output here as whole files."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import IO

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.manifest import sha256
from ansible_collections.devenv.lab.plugins.plugin_utils.core import program
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots.catalogue import FileEntry
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh.remote import Target

STREAM_TIMEOUT = 3600
_SCRIPT_TIMEOUT = 120
_BLOCK = 1 << 20

# The node sends the checksum too: a connection that is cut looks like the end of the data.
# The shell waits for sha256sum, a part of the pipeline; whoever reads the data waits for their end.
_WITH_CHECKSUM = "set -eu; {{ {{ {script}\n}} | tee >(cat >&3) | sha256sum >&2; }} 3>&1"
_CHECKSUM = re.compile(r"^([0-9a-f]{64})  -$", re.MULTILINE)


def run(target: Target, script: str, stdin: IO[bytes] | None = None, timeout: float = _SCRIPT_TIMEOUT) -> str:
    """Return the output of a script of the node's shell. Raises DevenvError ``snapshot_failed``."""
    try:
        return program.run([*target.ssh, script], stdin=stdin, timeout=timeout).stdout
    except program.ProgramFailed as error:
        raise DevenvError("snapshot_failed", _last_lines(error.stderr) or str(error), where=target.name) from None
    except OSError as error:
        raise DevenvError("snapshot_failed", str(error), where=target.name) from None


def _last_lines(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and "level=warning" not in line]
    return "; ".join(lines[-3:])[-400:]


def fetch(target: Target, script: str, path: Path, timeout: float = STREAM_TIMEOUT) -> FileEntry:
    """Write the output of a node's script to ``path`` (0600) and return its checksum and size.

    Raises DevenvError ``snapshot_failed`` when the script fails, for a full disk, and after ``timeout`` seconds.
    """
    digest, size = hashlib.sha256(), 0
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            [*target.ssh, f"bash -o pipefail -c {shlex.quote(_WITH_CHECKSUM.format(script=script))}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True,
        )  # fmt: skip
        timer = threading.Timer(timeout, child.kill)
        timer.daemon = True
        timer.start()
        try:
            if child.stdout is None:
                raise AssertionError("child.stdout")
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
                while block := child.stdout.read(_BLOCK):
                    digest.update(block)
                    stream.write(block)
                    size += len(block)
            code = child.wait()
        except OSError as error:
            raise DevenvError("snapshot_failed", f"{error.strerror}", where=str(path)) from error
        finally:
            timer.cancel()
            if child.poll() is None:
                child.kill()
                child.wait()
        errors.seek(0)
        messages = errors.read().decode(errors="replace")
    if code != 0:
        why = _last_lines(_CHECKSUM.sub("", messages)) or f"ssh ended with code {code}"
        raise DevenvError("snapshot_failed", why, where=target.name)
    if digest.hexdigest() not in _CHECKSUM.findall(messages):
        raise DevenvError("snapshot_failed", f"{path.name} did not arrive whole", where=target.name)
    return {"sha256": digest.hexdigest(), "size": size}


def describe(path: Path) -> FileEntry:
    """Return the checksum and size of a file."""
    return {"sha256": sha256(path), "size": path.stat().st_size}
