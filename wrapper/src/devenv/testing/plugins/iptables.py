"""The host plugin Iptables: cut a host off from others, and undo it."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from devenv.testing.objects import Host

CHAIN = "DEVENV-TEST"
# Standard chain to the option for the other side's address.
_DIRECTIONS = {"INPUT": "--source", "OUTPUT": "--destination"}
# For each standard chain of both families: create the plugin's chain, and make traffic pass through it first.
_CREATE = f"""
for program in iptables ip6tables; do
  for chain in INPUT OUTPUT; do
    $program -w -n -L {CHAIN}-$chain > /dev/null 2>&1 || $program -w -N {CHAIN}-$chain
    $program -w -C $chain --jump {CHAIN}-$chain 2> /dev/null || $program -w -I $chain --jump {CHAIN}-$chain
  done
done
"""
_REMOVE = f"""
set -e
for program in iptables ip6tables; do
  for chain in INPUT OUTPUT; do
    while $program -w -D $chain --jump {CHAIN}-$chain 2> /dev/null; do :; done
    if $program -w -n -L {CHAIN}-$chain > /dev/null 2>&1; then
      $program -w -F {CHAIN}-$chain
      $program -w -X {CHAIN}-$chain
    fi
  done
done
"""


class Iptables:
    """Rules in chains of the plugin, in both families; `reset_state` removes these chains and nothing else."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._touched = False

    def block(self, other: Host | str, *, port: int = 0, protocol: str = "tcp") -> None:
        """Drop all traffic with another host or an address, in both directions; with ``port``, to that port only."""
        commands = []
        for address in [other] if isinstance(other, str) else other.addresses:
            program = "iptables" if ipaddress.ip_network(address, strict=False).version == 4 else "ip6tables"
            for chain, option in _DIRECTIONS.items():
                only = f" --protocol {protocol} --dport {port}" if port else ""
                rule = f"{CHAIN}-{chain} {option} {address}{only} --jump DROP"
                commands.append(f"{program} -w -C {rule} 2> /dev/null || {program} -w -A {rule}")
        self._touched = True
        self._host.SshDirect.execute("\n".join(["set -e", _CREATE, *commands]), sudo=True)

    def rules(self) -> list[str]:
        """Return the rules of both families as the programs list them."""
        return self._host.SshDirect.execute("iptables -w -S; ip6tables -w -S", sudo=True).splitlines()

    def ping(self) -> None:
        self._host.SshDirect.execute("iptables -w -S > /dev/null", sudo=True)

    def verify_functionality(self) -> None:
        """Create a rule and remove it (TEST-NET-1, RFC 5737)."""
        self.block("192.0.2.1")
        self.reset_state()

    def reset_state(self) -> None:
        """Remove the chains of the plugin."""
        self._host.SshDirect.execute(_REMOVE, sudo=True)
        self._touched = False

    def close(self) -> None:
        if self._touched:
            self.reset_state()
