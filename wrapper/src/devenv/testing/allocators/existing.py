"""The machines of an environment that someone else made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from devenv import errors as devenv_errors
from devenv.environments import access
from devenv.testing import demand_profile
from devenv.testing.allocators import base
from devenv.testing.allocators.allocation import Allocation
from devenv.testing.allocators.devenv import describe
from devenv.testing.demand import ClusterDemand, Demand
from devenv.testing.errors import AllocationFailed


def existing(name: str, demand: Demand) -> Allocation:
    """The machines of an environment that someone else made. Hosts and clusters are found by their names, else in the
    environment's order: masters for masters, workers for workers. Raises AllocationFailed with what is lacking.
    """
    try:
        there = access.hosts(name)
    except devenv_errors.Error as error:
        raise AllocationFailed(f"{error.message}; {error.advice}") from None
    members: dict[str, list[str]] = {}
    for node, variables in there.items():
        members.setdefault(str(variables.get("devenv_cluster") or ""), []).append(node)
    theirs = [cluster for cluster in members if cluster]
    wanted = demand_profile.cluster_names(demand)
    clusters: dict[str, str] = {}
    for one in demand.clusters:
        free = [cluster for cluster in theirs if cluster not in clusters.values()]
        chosen = next((word for word in (one.name, wanted[one.name]) if word in free), free[0] if free else "")
        if not chosen:
            raise AllocationFailed(
                f"the environment {name} has {len(theirs)} clusters, and {len(demand.clusters)} are asked for"
            )
        clusters[one.name] = chosen
    of_host, nodes = demand_profile.roles(demand), {}
    for one in demand.clusters:
        nodes.update(_members(name, one, clusters[one.name], members, there, of_host))
    bare = [host.name for host in demand.hosts if demand.cluster_of(host.name) is None]
    if bare:
        nodes.update(_named(f"environment {name}, hosts of no cluster", bare, members.get("", [])))
    return describe(name, demand, nodes, clusters)


def _members(
    environment: str,
    one: ClusterDemand,
    own: str,
    members: Mapping[str, Sequence[str]],
    there: Mapping[str, Mapping[str, Any]],
    of_host: Mapping[str, str],
) -> dict[str, str]:
    found = {}
    for role, group in (("master", "control_plane"), ("worker", "workers")):
        wanted = [name for name in one.hosts if of_host[name] == role]
        have = [node for node in members[own] if there[node].get("devenv_group") == group]
        found.update(_named(f"environment {environment}, cluster {own}, {role}s", wanted, have))
    return found


def _named(where: str, wanted: Sequence[str], have: Sequence[str]) -> dict[str, str]:
    if len(wanted) > len(have):
        raise AllocationFailed(f"{where}: {len(wanted)} are asked for, and there are {len(have)}")
    return base.pair(wanted, have)
