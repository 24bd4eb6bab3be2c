"""The host plugin Iptables: cut a host off from others, and undo it."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from devenv.testing.objects import Host

CHAIN = "DEVENV-TEST"
_DIRECTIONS = {"in": ("INPUT", "--source", "--dport"), "out": ("OUTPUT", "--destination", "--dport")}


class Iptables:
    """Rules of a chain of our own in both families; `reset_state` takes the whole chain away, and nothing else."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._touched = False

    def block(self, other: Host | str, *, port: int = 0, protocol: str = "tcp") -> None:
        """Drop all traffic with another host or an address, in both directions; with ``port``, to that port only."""
        addresses = [other] if isinstance(other, str) else list(other.addresses)
        self._touched = True
        self._host.SshDirect.execute("\n".join(["set -e", *self._chains(), *self._rules(addresses, port, protocol)]))

    def _rules(self, addresses: list[str], port: int, protocol: str) -> list[str]:
        found = []
        for address in addresses:
            program = "iptables" if ipaddress.ip_network(address, strict=False).version == 4 else "ip6tables"
            for chain, where, to in _DIRECTIONS.values():
                match = f"{where} {address}" + (f" --protocol {protocol} {to} {port}" if port else "")
                rule = f"{CHAIN}-{chain} {match} --jump DROP"
                found.append(f"{program} -w -C {rule} 2> /dev/null || {program} -w -A {rule}")
        return found

    def _chains(self) -> list[str]:
        """Commands that make our chains where they are not there, and lead traffic to them first."""
        found = []
        for program in ("iptables", "ip6tables"):
            for chain, _, _ in _DIRECTIONS.values():
                own = f"{CHAIN}-{chain}"
                found.append(f"{program} -w -n -L {own} > /dev/null 2>&1 || {program} -w -N {own}")
                jump = f"{chain} --jump {own}"
                found.append(f"{program} -w -C {jump} 2> /dev/null || {program} -w -I {jump}")
        return found

    def rules(self) -> list[str]:
        """Rules of both families as the programs list them."""
        return self._host.SshDirect.execute("iptables -w -S; ip6tables -w -S").splitlines()

    def ping(self) -> None:
        self._host.SshDirect.execute("iptables -w -S > /dev/null")

    def verify_functionality(self) -> None:
        """A rule can be made and taken away (TEST-NET-1, RFC 5737)."""
        self.block("192.0.2.1")
        self.reset_state()

    def reset_state(self) -> None:
        """Take our chains away."""
        found = []
        for program in ("iptables", "ip6tables"):
            for chain, _, _ in _DIRECTIONS.values():
                own = f"{CHAIN}-{chain}"
                found.append(f"while {program} -w -D {chain} --jump {own} 2> /dev/null; do :; done")
                there = f"{program} -w -n -L {own} > /dev/null 2>&1"
                found.append(f"if {there}; then {program} -w -F {own}; {program} -w -X {own}; fi")
        self._host.SshDirect.execute("\n".join(["set -e", *found]))
        self._touched = False

    def close(self) -> None:
        if self._touched:
            self.reset_state()
