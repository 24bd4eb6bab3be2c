"""The host plugin Admin: the machine's identity, journal and time zone."""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING

from devenv.testing.errors import TestingError

if TYPE_CHECKING:
    from devenv.testing.objects import Host

_ZONES = "/usr/share/zoneinfo"


class Admin:
    """Administration of one machine. `reset_state` restores the time zone."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._zone_before = ""

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
        path = self._host.SshDirect.execute("readlink -f /etc/localtime || :").strip()
        return path.removeprefix(f"{_ZONES}/") if path.startswith(_ZONES) else "Etc/UTC"

    def set_timezone(self, timezone: str) -> None:
        """Set the time zone until the end of the test."""
        if not re.fullmatch(r"[\w+-]+(/[\w+-]+)*", timezone):
            raise TestingError(f"{self._host.name}: '{timezone}' is not a time zone")
        self._zone_before = self._zone_before or self.timezone()
        # Without timedatectl, which needs D-Bus.
        file = f"{_ZONES}/{timezone}"
        self._host.SshDirect.execute(f"test -f {file} && ln -sfn {file} /etc/localtime", sudo=True)

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
        if self._zone_before:
            self.set_timezone(self._zone_before)
            self._zone_before = ""
