"""Read-only views of environments, without Ansible: list, status, plan."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import network_plan, node_changes, state
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.types import NetworkPlan
from ansible_collections.devenv.lab.plugins.plugin_utils.host.network import Network
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import default_cluster
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Node, Profile
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import registry
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import UNREADABLE, Machine
from ansible_collections.devenv.lab.plugins.plugin_utils.records import expiry

from devenv import errors
from devenv.environments import access, health, names

if TYPE_CHECKING:
    from devenv.environments.target import Target

_CLIENT = "ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.client"
_API_TIMEOUT = 3.0  # seconds


@errors.translated()
def environments() -> list[dict[str, Any]]:
    """Return one row per environment of this machine: ``{name, profile, kubernetes, nodes, running, state, home,
    expires, unreadable}``.

    ``state`` is running, partly (some nodes run), stopped, made (no nodes yet), busy (a run holds the lock), broken (a
    file of the state directory, which status reports, or one of ``unreadable`` cannot be read), orphan (nodes or a
    network without a state directory) or elsewhere (it belongs to another DEVENV_HOME, which ``home`` names).
    ``expires`` is a time or None. ``unreadable`` are the nodes whose definition cannot be read, and ``network`` if the
    record of the network cannot.
    """
    home = str(paths.home())
    machines, networks = registry.known()
    claims = {(machine.environment, machine.home) for machine in machines}
    claims |= {(network.environment, network.home) for network in networks}
    unreadable = _unreadable(machines, networks)
    rows = []
    for name in names.known():
        try:
            stored = state.read(paths.environment(name))
        except DevenvError:
            rows.append(_row(name, home, None, 0, [], "broken", unreadable))
            continue
        states = [machine.state for machine in machines if machine.environment == name]
        states = states or list(_hosts(stored.network).values())
        nodes = len(stored.profile["nodes"]) if stored.profile else 0
        summary = "busy" if stored.holder else "broken" if name in unreadable else _summary(states, nodes)
        rows.append(_row(name, home, stored.profile, nodes, states, summary, unreadable))
    local = {row["name"] for row in rows}
    # A home that cannot be read is that of the environment's other claims, if any.
    named = local | {name for name, other in claims if other}
    for name, other in sorted(claims):
        if (name not in local or other != home) and (other or name not in named):
            states = [machine.state for machine in machines if (machine.environment, machine.home) == (name, other)]
            elsewhere = bool(other) and other != home and (Path(other) / "environments" / name).is_dir()
            summary = "elsewhere" if elsewhere else "orphan"
            rows.append(_row(name, other, None, len(states), states, summary, unreadable))
    return rows


def _unreadable(machines: Sequence[Machine], networks: Sequence[Network]) -> dict[str, list[str]]:
    """Return what cannot be read of each environment for which that is so."""
    rows: dict[str, list[str]] = {}
    for machine in machines:
        if machine.state == UNREADABLE:
            rows.setdefault(machine.environment, []).append(machine.node)
    for network in networks:
        if not network.subnets:
            rows.setdefault(network.environment, []).append("network")
    return rows


def _row(
    name: str,
    home: str,
    profile: Profile | None,
    nodes: int,
    states: list[str],
    summary: str,
    unreadable: Mapping[str, list[str]],
) -> dict[str, Any]:
    running = states.count("running")
    row = {"name": name, **_about(profile), "nodes": nodes, "running": running, "state": summary, "home": home}
    expires = _expires(name) if home == str(paths.home()) else None
    return {**row, "expires": expires, "unreadable": unreadable.get(name, [])}


def _expires(name: str) -> str | None:
    with errors.translated():
        expires = expiry.read(paths.environment(name))
    return expires.isoformat() if expires else None


def expiry_text(name: str) -> str:
    """Return when an environment expires, for people; empty if it does not."""
    expires = _expires(name)
    return f"{remaining(expires)} ({expires})" if expires else ""


def remaining(expires: str | None) -> str:
    """Return the remaining time of a row's ``expires``, such as ``in 1h58m``, or ``expired``."""
    return expiry.remaining(datetime.fromisoformat(expires) if expires else None)


def _about(profile: Profile | None) -> dict[str, str]:
    version = str(profile["kubernetes"]["version"]) if profile else ""
    return {"profile": profile["profile"] if profile else "", "kubernetes": version}


def _summary(states: Sequence[str], nodes: int) -> str:
    """Return the state of an environment with ``nodes`` desired nodes, from those of its machines."""
    if not states:
        return "made"
    running = states.count("running")
    return "running" if running >= max(nodes, len(states)) else "partly" if running else "stopped"


def status(name: str, cluster: str | None = None) -> dict[str, Any]:
    """Return the actual state of an environment: ``{name, state, profile, kubernetes, folder, kubeconfig, nodes:
    [{name, group, cluster, addresses, container, kubernetes}], clusters: [{name, kubeconfig, api}], api, busy,
    expires, last_run, failure, unreadable, health}``. ``kubernetes`` of a node is Ready, NotReady or absent, ``health``
    a key of health.EXIT_CODES, ``unreadable`` the nodes whose definition cannot be read. ``api`` is that of all
    clusters; ``kubeconfig`` is null if there are several clusters and none is ``main``.

    With ``cluster``, state, nodes, clusters, api and kubeconfig are those of this cluster. Raises NotFound.
    """
    folder = paths.environment(name)
    chosen = access.cluster(name, cluster) if cluster else None
    with errors.translated():
        stored = state.read(folder)
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(node_states, name)
        importlib.import_module(_CLIENT)  # slow, so import it while podman runs
        machines = pending.result()
    network = stored.network or network_plan.EMPTY
    desired = [
        node for node in (stored.profile["nodes"] if stored.profile else []) if chosen in (None, node["cluster"])
    ]
    if chosen:
        machines = {node["name"]: machines[node["name"]] for node in desired if node["name"] in machines}
    names_of = [chosen] if chosen else list(stored.profile["clusters"]) if stored.profile else []
    clusters, ready = _clusters(folder, names_of, desired, machines)
    document = {
        "name": name,
        "state": "busy" if stored.holder else _summary(list(machines.values()), len(desired)),
        **_about(stored.profile),
        "folder": str(folder),
        "kubeconfig": _kubeconfig(folder, clusters),
        "nodes": [
            {
                **node_changes.row(node["name"], node["group"], network, machines, ready),
                "cluster": node["cluster"] or "",
            }
            for node in desired
        ],
        "clusters": clusters,
        "api": _api(clusters),
        "busy": str(stored.holder) if stored.holder else None,
        "expires": _expires(name),
        "last_run": stored.last_run,
        "failure": stored.failure,
        "unreadable": [node for node, machine in machines.items() if machine == UNREADABLE],
    }
    return {**document, "health": health.of(document)}


def _clusters(
    folder: Path, names_of: Sequence[str], desired: Sequence[Node], machines: Mapping[str, str]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return a row per cluster, and Ready or NotReady by node."""
    rows: list[dict[str, Any]] = []
    ready: dict[str, str] = {}
    for name in names_of:
        path = folder / "clusters" / name / "kubeconfig"
        members = {node["name"] for node in desired if node["cluster"] == name}
        own = {node: machine for node, machine in machines.items() if node in members}
        answer, nodes_of = _api_nodes(path, own)
        ready |= nodes_of
        rows.append({"name": name, "kubeconfig": str(path) if path.exists() else None, "api": answer})
    return rows, ready


def _kubeconfig(folder: Path, clusters: Sequence[Mapping[str, Any]]) -> str | None:
    if any(row["name"] == default_cluster.NAME for row in clusters):
        return str(folder / "kubeconfig") if (folder / "kubeconfig").exists() else None
    return clusters[0]["kubeconfig"] if len(clusters) == 1 else None


def _api(clusters: Sequence[Mapping[str, Any]]) -> str:
    """Return ``answers`` if every API does, else which one does not, and why."""
    if len(clusters) < 2:
        return clusters[0]["api"] if clusters else "no cluster"
    return "; ".join(f"{row['name']}: {row['api']}" for row in clusters if row["api"] != "answers") or "answers"


def _hosts(network: NetworkPlan | None) -> dict[str, str]:
    """Return the state of existing hosts. devenv neither starts nor stops them: the claimed ones count as running."""
    return {name: "running" for name, node in (network["nodes"] if network else {}).items() if "host" in node}


def node_states(name: str) -> dict[str, str]:
    """Return the state of each node's machine or host. Raises Error machines_unknown."""
    with errors.translated():
        hosts = _hosts(state.read_network(paths.environment(name)))
        return hosts or {machine.node: machine.state for machine in registry.known_machines(name)}


def _api_nodes(kubeconfig: Path, machines: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Return ``answers`` or why the API does not, and Ready or NotReady by node. Does not query stopped nodes, because
    other machines may use their addresses.
    """
    from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import readiness  # see status

    if kubeconfig.exists() and machines and "running" not in machines.values():
        return "no node runs", {}
    return readiness.nodes(kubeconfig, _API_TIMEOUT)


@errors.translated()
def nodes(name: str) -> list[dict[str, Any]]:
    """Return one row per node (plugin_utils/environments/node_changes.py)."""
    machines = node_states(name)
    return node_changes.rows(paths.environment(name), machines, lambda kubeconfig: _api_nodes(kubeconfig, machines)[1])


def plan(goal: Target, given: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """Return what `up` would do: ``{name, profile, exists, add, start, change, remove, refused, variables}``; lists of
    texts, all empty if there is nothing to do, and the role variables that the state keeps. ``given`` are the extra
    variables of that run. Read-only.
    """
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import upgrade_record
    from ansible_collections.devenv.lab.plugins.plugin_utils.variables import kept

    folder = paths.environment(goal.name)
    with errors.translated():
        stored = state.read_profile(folder)
        upgrade = upgrade_record.pending(folder)
        variables = kept.selected(goal.resolved["kubernetes"]["engine"], given)
        refused = kept.changes(folder, variables)
        variables = kept.read(folder) | ({} if refused else variables)
    machines = node_states(goal.name)
    desired = [node["name"] for node in goal.resolved["nodes"]]
    changes = differences(stored, goal.resolved) if stored else []
    return {
        "name": goal.name,
        "profile": goal.resolved["profile"],
        "exists": folder.is_dir(),
        "add": [f"node {name}" for name in desired if name not in machines],
        "start": [f"node {name}" for name in desired if machines.get(name, "running") != "running"],
        # A path nodes.NAME is a new node, which is listed under add.
        "change": [_line(change) for change in changes if change["applies"] and change["path"].count(".") != 1],
        "remove": [f"node {name}" for name in machines if name not in desired],
        "refused": [
            *([f"the upgrade to Kubernetes {upgrade['to']} is not finished"] if upgrade else []),
            *(_line(change) for change in changes if not change["applies"]),
            *(f"{text} (a cluster keeps the value that it was created with)" for text in refused),
        ],
        "variables": variables,
    }


def differences(old: Profile, new: Profile) -> list[dict[str, Any]]:
    """Return the differences of two resolved profiles as plain data (`devenv profile diff --json`)."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import changes

    return [asdict(change) for change in changes.between(old, new)]


def _line(change: Mapping[str, Any]) -> str:
    return f"{change['path']}: {change['old']} -> {change['new']} ({change['why']})"
