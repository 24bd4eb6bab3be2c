"""Hosts that exist already, as a profile gives them to a provider that makes none."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.provider_traits import (
    makes_machines,
    of_given_machines,
)

DEFAULTS: Mapping[str, Any] = {"user": "root", "port": 22, "key_file": "", "known_hosts": "", "become": False}


def check(resolved: Mapping[str, Any]) -> None:
    """Refuse hosts of a provider that makes its own, and with one that makes none a node without a host, without an
    address of each family, or with another's. Raises DevenvError profile_invalid.
    """
    provider = str(resolved["provider"])
    if makes_machines(provider):
        for node in resolved["nodes"]:
            if "host" in node:
                raise DevenvError(
                    "profile_invalid",
                    f"nodes.{node['name']}.host: is for the provider {of_given_machines()}, is {provider}",
                )
        return
    if resolved["addressing"] != "static":
        raise DevenvError(
            "profile_invalid", f"addressing: hosts of the provider {provider} have their addresses already"
        )
    owners: dict[str, str] = {}
    for node in resolved["nodes"]:
        if "host" not in node:
            raise DevenvError(
                "profile_invalid", f"nodes.{node['name']}.host: is missing; the provider {provider} needs it"
            )
        for address in node["host"]["addresses"]:
            if address in owners:
                raise DevenvError(
                    "profile_invalid", f"nodes.{node['name']}.host.addresses: {address} is {owners[address]}'s"
                )
            owners[address] = node["name"]
            family = f"ipv{ipaddress.ip_address(address).version}"
            for key in ("pods", "services"):
                if ipaddress.ip_address(address) in ipaddress.ip_network(resolved["network"][key][family]):
                    raise DevenvError(
                        "subnet_overlap",
                        f"nodes.{node['name']}.host.addresses: {address} lies in network.{key}.{family}",
                    )


def ordered(path: str, given: Sequence[str], families: Sequence[str]) -> list[str]:
    """``given`` addresses in the order of ``families``: one of each. Raises DevenvError profile_invalid."""
    found: dict[str, str] = {}
    for place, text in enumerate(given):
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            raise DevenvError("profile_invalid", f"{path}[{place}]: must be an IP address, is {text!r}") from None
        family = f"ipv{address.version}"
        if family in found or family not in families:
            raise DevenvError(
                "profile_invalid", f"{path}[{place}]: one address of each of {', '.join(families)}, no more"
            )
        if address.is_loopback or address.is_multicast or address.is_link_local or address.is_unspecified:
            raise DevenvError("profile_invalid", f"{path}[{place}]: must be an ordinary unicast address, is {text}")
        found[family] = str(address)
    for family in families:
        if family not in found:
            raise DevenvError("profile_invalid", f"{path}: has no {family} address, which the stack needs")
    return [found[family] for family in families]
