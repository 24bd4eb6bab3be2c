"""Build the command lines of ssh, scp and rsync from the variables of a host. Nothing else builds them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.core.net import bracketed


@dataclass(frozen=True)
class Connection:
    """The ssh connection to a host. Without ``port`` or ``key_file``, ssh uses its defaults: configuration, agent.

    ``options`` are further arguments of ssh, such as those for the host's keys.
    """

    address: str
    user: str = "root"
    port: int | None = None
    key_file: str = ""
    options: tuple[str, ...] = ()

    def words(self, *first: str) -> list[str]:
        """Return the options that ssh and scp share. If two contradict each other, ssh uses the first."""
        port = ["-o", f"Port={self.port}"] if self.port else []
        key = ["-i", self.key_file.replace("%", "%%")] if self.key_file else []
        return [*first, *port, *key, *self.options]

    def ssh(self, *first: str) -> list[str]:
        """Return the ssh command up to the host; the remote command follows."""
        return ["ssh", *self.words(*first), "-l", self.user, "--", self.address]

    def place(self, path: str) -> str:
        """Return ``path`` on the host in the form of scp and rsync."""
        return f"{self.user}@{bracketed(self.address)}:{path}"


def connection(name: str, variables: Mapping[str, Any]) -> Connection:
    """Return the connection in Ansible's variables of the host ``name``.

    Raises DevenvError ``inventory_incomplete`` if the host has no address.
    """
    if not variables.get("ansible_host"):
        raise DevenvError("inventory_incomplete", "has no variable ansible_host", where=name)
    return Connection(
        address=str(variables["ansible_host"]),
        user=str(variables.get("ansible_user") or "root"),
        port=int(variables["ansible_port"]) if variables.get("ansible_port") else None,
        key_file=str(variables.get("ansible_ssh_private_key_file") or "").replace("%%", "%"),
        options=tuple(shlex.split(str(variables.get("ansible_ssh_common_args") or ""))),
    )


def become(variables: Mapping[str, Any]) -> list[str]:
    """Return the prefix that runs a command as root."""
    return ["sudo", "-n"] if variables.get("ansible_become") in (True, "yes", "true", "True") else []
