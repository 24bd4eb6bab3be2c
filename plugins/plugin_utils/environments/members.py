"""Who belongs to a cluster's control plane, and which changes of it etcd would not survive.

etcd decides by majority: of N members, N // 2 + 1 have to run for anything to be written, a change of its members
included. The members that ever joined stand in ``clusters/<cluster>/members.json`` of the state folder (a JSON list of
names), written once all nodes of the profile have registered: a run killed while it made nodes leaves none there that
never joined.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import network_plan, ssh_keys, state
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile

RECORD = "members.json"


def control_plane(resolved: Profile) -> dict[str, list[str]]:
    """Control plane nodes by cluster, in the profile's order."""
    found: dict[str, list[str]] = {}
    for node in resolved["nodes"]:
        if node["cluster"] and node["group"] == "control_plane":
            found.setdefault(node["cluster"], []).append(node["name"])
    return found


def majority(members: int) -> int:
    """How many of ``members`` have to run."""
    return members // 2 + 1


# --- the record ------------------------------------------------------------------------------------------------------


def recorded(folder: Path) -> dict[str, list[str]]:
    """Control plane nodes that joined, by cluster; clusters that never came up are not there."""
    found = {}
    for path in sorted(folder.glob(f"clusters/*/{RECORD}")):
        names = files.read_json(path, list)
        if names is not None:
            found[path.parent.name] = [str(name) for name in names]
    return found


def record(folder: Path, cluster: str, names: Iterable[str]) -> bool:
    """Write the members of ``cluster``; return whether that changed the record."""
    return files.write(folder / "clusters" / cluster / RECORD, json.dumps(list(names)) + "\n")


def leave(folder: Path, names: Collection[str]) -> bool:
    """Take nodes off the records, as their clusters know them no longer; before their machines go."""
    written = [
        record(folder, cluster, [name for name in known if name not in names])
        for cluster, known in recorded(folder).items()
    ]
    return any(written)


# --- what is refused -------------------------------------------------------------------------------------------------


def check_change(old: Profile, new: Profile) -> None:
    """Raise DevenvError control_plane_last when a cluster of both profiles would keep none of its control plane nodes:
    those that join could learn nothing from those that left.
    """
    after = control_plane(new)
    for cluster, names in control_plane(old).items():
        if cluster in after and not set(names) & set(after[cluster]):
            raise DevenvError(
                "control_plane_last",
                f"{', '.join(names)}: no other control plane node of cluster {cluster} would stay",
                advice="Add a node first (devenv node add), then remove this one; or devenv down.",
            )


def check_removal(resolved: Profile, names: Collection[str]) -> None:
    """Raise DevenvError node_unknown for names that are no nodes, control_plane_last when a cluster would have no
    control plane node left.
    """
    known = {node["name"] for node in resolved["nodes"]}
    for name in names:
        if name not in known:
            raise DevenvError("node_unknown", f"{name} is none of {', '.join(sorted(known))}")
    for cluster, masters in control_plane(resolved).items():
        if set(masters) <= set(names):
            raise DevenvError(
                "control_plane_last", f"{masters[-1]} is the last control plane node of cluster {cluster}"
            )


def check_move(resolved: Profile, name: str) -> None:
    """Raise DevenvError node_unknown, address_many_nodes, or address_refused when the node cannot get another address:
    it is not the only one of its cluster, or addresses come by DHCP.
    """
    found = next((node for node in resolved["nodes"] if node["name"] == name), None)
    if found is None:
        raise DevenvError("node_unknown", f"{name} is none of {', '.join(one['name'] for one in resolved['nodes'])}")
    others = [one["name"] for one in resolved["nodes"] if found["cluster"] and one["cluster"] == found["cluster"]]
    if len(others) > 1:
        raise DevenvError("address_many_nodes", f"cluster {found['cluster']} has {', '.join(others)}")
    if resolved["addressing"] != "static":
        raise DevenvError("address_refused", "the nodes of this environment get their addresses by DHCP")


def check_majority(members: Mapping[str, Sequence[str]], present: Collection[str]) -> None:
    """Raise DevenvError quorum_lost for a cluster of which some members are gone for good and too few are left.

    ``present``: nodes whose machine is there, running or not. A cluster that lost all its members is another case:
    nothing is left to lose, it is made anew.
    """
    for cluster, names in members.items():
        gone = [name for name in names if name not in present]
        left = len(names) - len(gone)
        if gone and left and left < majority(len(names)):
            raise DevenvError(
                "quorum_lost",
                f"{', '.join(gone)} of the {len(names)} control plane nodes of cluster {cluster} are gone: etcd has no "
                f"majority ({majority(len(names))} of {len(names)}), so none can join or leave",
            )


def check_replacement(
    resolved: Profile,
    members: Mapping[str, Sequence[str]],
    running: Collection[str],
    names: Collection[str],
) -> None:
    """Raise DevenvError when the nodes ``names`` cannot be taken out of their clusters now, one by one, to be made
    anew.

    ``members``: control plane nodes that joined, by cluster; ``running``: nodes that run now. Raises node_unknown,
    control_plane_last, and quorum_needed when etcd has no majority to begin with or would lose it on the way.
    """
    check_removal(resolved, names)
    for cluster, masters in members.items():
        touched = [node["name"] for node in resolved["nodes"] if node["cluster"] == cluster and node["name"] in names]
        leaving = [name for name in masters if name in names]
        if not touched or not masters:
            continue
        if len(leaving) == len(masters):
            raise DevenvError(
                "control_plane_last",
                f"{', '.join(leaving)}: no other control plane node of cluster {cluster} would stay",
            )
        count, alive = len(masters), sum(name in running for name in masters)
        silent = ", ".join(name for name in masters if name not in running and name not in leaving)
        told = f": {silent} does not run" if silent else ""
        if alive < majority(count):
            raise DevenvError("quorum_needed", f"the etcd of cluster {cluster} has no majority{told}")
        for name in order(leaving, running):
            # The member leaves first, then the rest has to be a majority of what is left.
            count, alive = count - 1, alive - (name in running)
            if alive < majority(count):
                raise DevenvError(
                    "quorum_needed", f"without {name} the etcd of cluster {cluster} would have no majority{told}"
                )


def order(names: Iterable[str], running: Collection[str]) -> list[str]:
    """The order in which nodes leave: those that do not run first."""
    return sorted(names, key=lambda name: name in running)


# --- forgetting ------------------------------------------------------------------------------------------------------


def forget(folder: Path, resolved: Profile, names: Collection[str]) -> list[str]:
    """Forget those of ``names`` that the profile no longer has, now that their machines are gone: network.yml, their
    keys, known_hosts and the static inventory. Return their names. A node that is only made anew keeps its place.
    """
    network = state.read_network(folder)
    if network is None:
        return []
    gone = [name for name in network_plan.leaving(resolved, network) if name in names]
    if not gone:
        return []
    kept = network_plan.forget(network, gone)
    for name in gone:
        shutil.rmtree(folder / "ssh" / "hosts" / name, ignore_errors=True)
    ssh_keys.write_known_hosts(folder, ssh_keys.node_addresses(kept))
    # Last but one: a run killed before finds the nodes still leaving, and comes here again.
    state.write_network(folder, kept)
    state.write_inventory(folder)
    return gone
