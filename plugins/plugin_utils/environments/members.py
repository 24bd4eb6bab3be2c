"""Members of a cluster's control plane, and changes to it that etcd would not survive.

etcd decides by majority: of N members, N // 2 + 1 must run for any write, including a change of its members. The
members that ever joined are in ``clusters/<cluster>/members.json`` of the state directory (a JSON list of names). It is
written once all nodes of the profile have registered, so a run killed while it creates nodes records none that never
joined.
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
    """Return the control plane nodes by cluster, in the profile's order."""
    masters: dict[str, list[str]] = {}
    for node in resolved["nodes"]:
        if node["cluster"] and node["group"] == "control_plane":
            masters.setdefault(node["cluster"], []).append(node["name"])
    return masters


def majority(members: int) -> int:
    """Return how many of ``members`` must run."""
    return members // 2 + 1


# --- the record ------------------------------------------------------------------------------------------------------


def recorded(folder: Path) -> dict[str, list[str]]:
    """Return the control plane nodes that joined, by cluster, without clusters that never came up."""
    records = {path.parent.name: files.read_json(path, list) for path in sorted(folder.glob(f"clusters/*/{RECORD}"))}
    return {cluster: [str(name) for name in names] for cluster, names in records.items() if names is not None}


def record(folder: Path, cluster: str, names: Iterable[str]) -> bool:
    """Write the members of ``cluster``; return whether the record changed."""
    return files.write(folder / "clusters" / cluster / RECORD, json.dumps(list(names)) + "\n")


def leave(folder: Path, names: Collection[str]) -> bool:
    """Remove nodes that left their clusters from the records, before their machines are removed."""
    written = [
        record(folder, cluster, [name for name in known if name not in names])
        for cluster, known in recorded(folder).items()
    ]
    return any(written)


def discard(folder: Path, clusters: Iterable[str]) -> None:
    """Remove the records and kubeconfigs of clusters that are created again."""
    for cluster in clusters:
        shutil.rmtree(folder / "clusters" / cluster, ignore_errors=True)


# --- refused changes -------------------------------------------------------------------------------------------------


def check_change(old: Profile, new: Profile) -> None:
    """Raise DevenvError control_plane_last if a cluster of both profiles would keep none of its control plane nodes:
    the new ones could not join.
    """
    after = control_plane(new)
    for cluster, names in control_plane(old).items():
        if cluster in after and not set(names) & set(after[cluster]):
            raise DevenvError(
                "control_plane_last",
                f"{', '.join(names)}: no other control plane node of cluster {cluster} would remain",
                advice="Add a node first (devenv node add), then remove this one; or devenv down.",
            )


def check_removal(resolved: Profile, names: Collection[str]) -> None:
    """Raise DevenvError node_unknown for unknown names, control_plane_last if a cluster would lose all its control
    plane nodes.
    """
    _require_known(resolved, names)
    for cluster, masters in control_plane(resolved).items():
        if set(masters) <= set(names):
            message = f"{masters[-1]} is the last control plane node of cluster {cluster}"
            raise DevenvError("control_plane_last", message)


def check_move(resolved: Profile, name: str) -> None:
    """Raise DevenvError if the node's address cannot change: node_unknown, address_many_nodes for a node that is not
    the only one of its cluster, address_refused with DHCP.
    """
    _require_known(resolved, [name])
    clusters = {node["name"]: node["cluster"] for node in resolved["nodes"]}
    others = [other for other, cluster in clusters.items() if cluster and cluster == clusters[name]]
    if len(others) > 1:
        raise DevenvError("address_many_nodes", f"cluster {clusters[name]} has {', '.join(others)}")
    if resolved["addressing"] != "static":
        raise DevenvError("address_refused", "the nodes of this environment get their addresses by DHCP")


def _require_known(resolved: Profile, names: Iterable[str]) -> None:
    known = sorted(node["name"] for node in resolved["nodes"])
    for name in names:
        if name not in known:
            raise DevenvError("node_unknown", f"no node is named {name}; the nodes are {', '.join(known)}")


def lost(members: Mapping[str, Sequence[str]], intact: Collection[str]) -> dict[str, list[str]]:
    """Return the members by cluster of the clusters that cannot come back: too few are left for a majority.

    ``intact``: nodes whose data exist, whether they run or not.
    """
    return {
        cluster: list(names)
        for cluster, names in members.items()
        if names and sum(name in intact for name in names) < majority(len(names))
    }


def loss(cluster: str, names: Sequence[str], intact: Collection[str], further: Sequence[str] = ()) -> DevenvError:
    """Return the error for a cluster of `lost`; ``further`` names what else its nodes would lose."""
    gone = [name for name in names if name not in intact]
    would = "; ".join([f"every object of cluster {cluster}", *further])
    if len(gone) == len(names):
        message = f"the data of {', '.join(gone)} are gone, and with them cluster {cluster}. Would be lost: {would}"
        return DevenvError("cluster_lost", message)
    return DevenvError(
        "quorum_lost",
        f"{', '.join(gone)} of the {len(names)} control plane nodes of cluster {cluster} are gone: etcd has no "
        f"majority ({majority(len(names))} of {len(names)}), so none can join or leave. Would be lost: {would}",
    )


def check_replacement(
    resolved: Profile,
    members: Mapping[str, Sequence[str]],
    running: Collection[str],
    names: Collection[str],
) -> None:
    """Raise DevenvError if the nodes ``names`` cannot leave their clusters now, one by one, to be recreated.

    ``members``: control plane nodes that joined, by cluster; ``running``: nodes that run now. Raises node_unknown,
    control_plane_last, and quorum_needed if etcd has no majority or would lose it on the way.
    """
    check_removal(resolved, names)
    for cluster, masters in members.items():
        touched = any(node["cluster"] == cluster and node["name"] in names for node in resolved["nodes"])
        leaving = [name for name in masters if name in names]
        if not touched or not masters:
            continue
        if len(leaving) == len(masters):
            raise DevenvError(
                "control_plane_last",
                f"{', '.join(leaving)}: no other control plane node of cluster {cluster} would remain",
            )
        count, alive = len(masters), sum(name in running for name in masters)
        stopped = ", ".join(name for name in masters if name not in running and name not in leaving)
        hint = f": {stopped} does not run" if stopped else ""
        if alive < majority(count):
            raise DevenvError("quorum_needed", f"the etcd of cluster {cluster} has no majority{hint}")
        for name in order(leaving, running):
            # Once the member has left, the running ones must be a majority of the remaining ones.
            count, alive = count - 1, alive - (name in running)
            if alive < majority(count):
                message = f"without {name} the etcd of cluster {cluster} would have no majority{hint}"
                raise DevenvError("quorum_needed", message)


def order(names: Iterable[str], running: Collection[str]) -> list[str]:
    """Return the order in which nodes leave: stopped ones first."""
    return sorted(names, key=lambda name: name in running)


# --- forgetting ------------------------------------------------------------------------------------------------------


def forget(folder: Path, resolved: Profile, names: Collection[str]) -> list[str]:
    """Remove those of ``names`` that are no longer in the profile, whose machines are gone, from network.yml, keys,
    known_hosts and the static inventory. Return their names. A node that is only recreated keeps its place.
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
    # After the keys: if a run is killed before this, the next one still finds the nodes leaving and repeats it.
    state.write_network(folder, kept)
    state.write_inventory(folder)
    return gone
