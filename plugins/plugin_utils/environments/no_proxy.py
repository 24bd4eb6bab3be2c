"""The hosts of an environment that no HTTP proxy may see, in the form of the variables NO_PROXY and no_proxy.

Programs differ in what they accept: Go and curl 7.86 match networks, Python's urllib only names and addresses, an IPv6
address in brackets. Go and requests expect it without brackets, so the list has both.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.environments import network_plan, state
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.types import NetworkPlan
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile

VARIABLES = ("NO_PROXY", "no_proxy")
# `devenv forward` listens there.
_LOCAL = ("localhost", "127.0.0.1", "::1")
_IN_CLUSTER = (".svc", ".cluster.local")
_SERVER = re.compile(r"^ *server: https://\[?([^\]\s/]+?)\]?(?::\d+)?/?$", re.MULTILINE)


def networks(profile: Profile, network: NetworkPlan | None) -> list[str]:
    """Return the subnets of nodes, pods and Services."""
    ranges = profile["network"]
    own = (network or network_plan.EMPTY)["subnets"]
    return [
        by[family] for by in (own, ranges["pods"], ranges["services"]) for family in profile["families"] if family in by
    ]


def hosts(profile: Profile, network: NetworkPlan | None, name: str) -> list[str]:
    """Return subnets, names and addresses of the environment ``name``."""
    plan = network or network_plan.EMPTY
    nodes = [address for node in plan["nodes"].values() for address in node["addresses"].values()]
    existing = [address for node in profile["nodes"] if "host" in node for address in node["host"]["addresses"]]
    virtual = [address for cluster in plan["clusters"].values() for address in cluster["virtual"].values()]
    external = [address for cluster in profile["clusters"].values() for address in cluster["endpoint"]["addresses"]]
    names = [*(node["name"] for node in profile["nodes"]), f"{name}.devenv.internal", *_IN_CLUSTER]
    return [*networks(profile, network), *names, *expanded([*nodes, *existing, *virtual, *external])]


def of_environment(folder: Path) -> list[str]:
    """Return `hosts` of the environment with this state directory, and the API addresses of its kubeconfigs."""
    profile = state.read_profile(folder)
    known = hosts(profile, state.read_network(folder), folder.name) if profile else []
    return list(dict.fromkeys([*known, *servers(sorted(folder.glob("clusters/*/kubeconfig")))]))


def servers(kubeconfigs: Iterable[Path]) -> list[str]:
    """Return the hosts of the APIs in kubeconfig files; none of a file that cannot be read."""
    found: list[str] = []
    for path in kubeconfigs:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            found += _SERVER.findall(path.read_text())
    return expanded(found)


def expanded(addresses: Iterable[str]) -> list[str]:
    """Return addresses or names, without duplicates; an IPv6 address also in brackets."""
    return list(dict.fromkeys(form for address in addresses for form in _forms(address)))


def _forms(address: str) -> tuple[str, ...]:
    try:
        return (address, f"[{address}]") if ipaddress.ip_address(address).version == 6 else (address,)
    except ValueError:
        return (address,)


def variables(items: Iterable[str], env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return both variables: the user's values in ``env``, by default this process's, then ``items``. ``*``, which
    means all hosts, stays alone, because curl and urllib do not accept it in a list.
    """
    env = os.environ if env is None else env
    users = [part for variable in VARIABLES for item in env.get(variable, "").split(",") if (part := item.strip())]
    value = "*" if "*" in users else ",".join(dict.fromkeys([*users, *expanded(_LOCAL), *items]))
    return dict.fromkeys(VARIABLES, value)
