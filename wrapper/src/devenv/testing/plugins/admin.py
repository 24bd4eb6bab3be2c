"""The host plugin Admin: the machine's identity, journal and time zone."""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING

from devenv.testing.errors import TestingError

if TYPE_CHECKING:
    from devenv.testing.objects import Host

_ZONES = "/usr/share/zoneinfo"
_ZONE = "/etc/localtime"
# The time zone before the first change. It is on the machine, because the process of a test can crash; an empty file
# stands for a machine without one.
_SAVED = "/etc/localtime.devenv"
_IS_SAVED = f"{{ test -e {_SAVED} || test -L {_SAVED}; }}"
_SAVE = f"if test -e {_ZONE} || test -L {_ZONE}; then cp -P -p {_ZONE} {_SAVED}; else : > {_SAVED}; fi"
_RESTORE = f"if test -s {_SAVED} || test -L {_SAVED}; then mv -f {_SAVED} {_ZONE}; else rm -f {_ZONE} {_SAVED}; fi"


class Admin:
    """Administration of one machine. `reset_state` restores the time zone."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def machine_id(self) -> str:
        """Return the id of the machine (machine-id(5))."""
        return self._host.SshDirect.execute(["cat", "/etc/machine-id"]).strip()

    def log_to_journal(self, message: str, tag: str = "TESTING") -> None:
        """Write a message to the journal, with ``tag`` as its identifier."""
        self._host.SshDirect.execute(["systemd-cat", "-t", tag, "-p", "info"], stdin=f"{message}\n", sudo=True)

    def flush_journal(self) -> None:
        """Remove all that is in the journal."""
        self._host.SshDirect.execute("journalctl --quiet --rotate --vacuum-time=1s", sudo=True)

    def timezone(self) -> str:
        """Return the time zone, such as Europe/Paris, or Etc/UTC where none is set."""
        path = self._host.SshDirect.execute(f"readlink -f {_ZONE} || :").strip()
        return path.removeprefix(f"{_ZONES}/") if path.startswith(_ZONES) else "Etc/UTC"

    def set_timezone(self, timezone: str) -> None:
        """Set the time zone until the end of the test."""
        if not re.fullmatch(r"[\w+-]+(/[\w+-]+)*", timezone):
            raise TestingError(f"{self._host.name}: '{timezone}' is not a time zone")
        # Without timedatectl, which needs D-Bus.
        file = f"{_ZONES}/{timezone}"
        script = f"test -f {file} && {{ {_IS_SAVED} || {_SAVE}; }} && ln -sfn {file} {_ZONE}"
        self._host.SshDirect.execute(script, sudo=True)

    def ping(self) -> None:
        self._host.SshDirect.ping()

    def verify_functionality(self) -> None:
        """Write to the journal and read it."""
        mark = secrets.token_hex(8)
        self.log_to_journal(mark)
        read = f"journalctl --sync; journalctl --quiet --output=cat --since=-5min --identifier=TESTING --grep={mark}"
        if mark not in self._host.SshDirect.execute(read, sudo=True):
            raise TestingError(f"{self._host.name}: a message does not reach the journal")

    def reset_state(self) -> None:
        """Restore the time zone."""
        # A host without sudo cannot have a change.
        if self._host.SshDirect.run(_IS_SAVED).code == 0:
            self._host.SshDirect.execute(_RESTORE, sudo=True)
