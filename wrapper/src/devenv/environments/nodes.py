"""Nodes that are made anew or get another address: what is refused at once."""

from __future__ import annotations

from collections.abc import Sequence

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile

from devenv import errors
from devenv.environments import names


def profile_of(name: str) -> Profile:
    """The resolved profile that the environment keeps. Raises NotFound while it has none."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import state

    with names.translated():
        resolved = state.read_profile(paths.environment(name))
    if resolved is None:
        raise errors.NotFound(f"the environment {name} has no profile yet", advice=f"devenv up -n {name} --profile aio")
    return resolved


def check_removal(name: str, nodes: Sequence[str]) -> None:
    """Raise Error node_unknown or control_plane_last for nodes that cannot be removed."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import members

    with names.translated():
        members.check_removal(profile_of(name), nodes)


def check_address(name: str, node: str | None, address: str) -> str:
    """Return the node (None: the only one) if it can get another address. Raises Error node_unknown,
    address_many_nodes, address_refused.
    """
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import members, network_plan, state
    from ansible_collections.devenv.lab.plugins.plugin_utils.providers import base

    resolved = profile_of(name)
    with names.translated():
        network = state.read_network(paths.environment(name))
        if network is None:
            raise errors.NotFound(f"the environment {name} has no nodes yet", advice=f"devenv up -n {name} makes them")
        chosen = _only(resolved, node)
        base.require(str(resolved["provider"]), "change_address")
        members.check_move(resolved, chosen)
        network_plan.move(network, chosen, address)
    return chosen


def addresses_of(name: str, node: str | None) -> list[str]:
    """A node's addresses now."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import state

    network, chosen = state.read_network(paths.environment(name)), _only(profile_of(name), node)
    return list(network["nodes"][chosen]["addresses"].values()) if network and chosen in network["nodes"] else []


def _only(resolved: Profile, node: str | None) -> str:
    have = [str(one["name"]) for one in resolved["nodes"]]
    if node is None and len(have) > 1:
        raise errors.make(f"there are {', '.join(have)}", exit_code=14, reason="address_many_nodes")
    return node or have[0]
