"""Read-only views of environments, without Ansible: list, status, plan."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import network_plan, node_changes, state
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.types import NetworkPlan
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import registry
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import Machine

from devenv.environments import names

if TYPE_CHECKING:
    from devenv.environments.target import Target

_CLIENT = "ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.client"
_API_PATIENCE = 3.0  # seconds that status waits for the API's answer


def environments() -> list[dict[str, Any]]:
    """Return one row per environment of this machine: ``{name, profile, kubernetes, nodes, running, state, home}``.

    ``state`` is running, partly (some nodes run), stopped, made (no nodes yet), busy (a run is at work), orphan
    (nodes or a network without a state folder) or elsewhere (it belongs to another DEVENV_HOME, named by ``home``).
    """
    own = str(paths.home())
    containers, networks = registry.visible()
    rows = [_own_row(name, [item for item in containers if item.environment == name]) for name in names.known()]
    mine = {row["name"] for row in rows}
    others = {(item.environment, item.home) for item in containers} | {
        (item.environment, item.home) for item in networks
    }
    for name, home in sorted(others):
        if name not in mine or home != own:
            rows.append(
                _other_row(name, home, [item for item in containers if (item.environment, item.home) == (name, home)])
            )
    return rows


def _own_row(name: str, containers: Iterable[Machine]) -> dict[str, Any]:
    found = state.read(paths.environment(name))
    profile = found.profile
    states = [container.state for container in containers] or list(_hosts(found.network).values())
    count = len(profile["nodes"]) if profile else 0
    return {
        "name": name,
        "profile": profile["profile"] if profile else "",
        "kubernetes": profile["kubernetes"]["version"] if profile else "",
        "nodes": count,
        "running": states.count("running"),
        "state": "busy" if found.holder else _word(states, count),
        "home": str(paths.home()),
    }


def _other_row(name: str, home: str, containers: list[Machine]) -> dict[str, Any]:
    kept = bool(home) and (Path(home) / "environments" / name).is_dir()
    return {
        "name": name, "profile": "", "kubernetes": "", "nodes": len(containers),
        "running": sum(container.state == "running" for container in containers),
        "state": "elsewhere" if kept and home != str(paths.home()) else "orphan", "home": home,
    }  # fmt: skip


def _word(states: list[str], nodes: int) -> str:
    if not states:
        return "made"
    running = states.count("running")
    return "running" if running >= max(nodes, len(states)) else "partly" if running else "stopped"


def status(name: str) -> dict[str, Any]:
    """The environment as it is now: ``{name, state, profile, kubernetes, folder, kubeconfig, nodes: [{name, group,
    addresses, container, kubernetes}], api, busy, last_run, failure}``. ``kubernetes`` of a node is Ready, NotReady
    or absent.
    """
    folder = paths.environment(name)
    with names.translated():
        found = state.read(folder)
    kubeconfig = folder / "kubeconfig"
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(node_states, name)
        importlib.import_module(_CLIENT)  # while podman works
        containers = asked.result()
    api, ready = _api_nodes(kubeconfig, containers)
    profile, network = found.profile, found.network or network_plan.EMPTY
    wanted = profile["nodes"] if profile else []
    nodes = [node_changes.row(node["name"], node["group"], network, containers, ready) for node in wanted]
    return {
        "name": name,
        "state": "busy" if found.holder else _word(list(containers.values()), len(nodes)),
        "profile": profile["profile"] if profile else "",
        "kubernetes": profile["kubernetes"]["version"] if profile else "",
        "folder": str(folder),
        "kubeconfig": str(kubeconfig) if kubeconfig.exists() else None,
        "nodes": nodes,
        "api": api,
        "busy": str(found.holder) if found.holder else None,
        "last_run": found.last_run,
        "failure": found.failure,
    }


def _hosts(network: NetworkPlan | None) -> dict[str, str]:
    """Hosts that existed before, which devenv neither starts nor stops: those taken count as running."""
    return {name: "running" for name, node in (network["nodes"] if network else {}).items() if "host" in node}


def node_states(name: str) -> dict[str, str]:
    """State of each node's machine or host; empty where its provider's programs do not answer."""
    with names.translated():
        hosts = _hosts(state.read_network(paths.environment(name)))
    if hosts:
        return hosts
    return {machine.node: machine.state for machine in registry.visible_machines(name)}


def _api_nodes(kubeconfig: Path, containers: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """``answers`` or why not, and Ready or NotReady by node. Of stopped nodes nothing is asked: others may have their
    address.
    """
    # Loading it takes a while, which status spends on podman.
    from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import readiness

    if kubeconfig.exists() and containers and "running" not in containers.values():
        return "no node runs", {}
    return readiness.nodes(kubeconfig, _API_PATIENCE)


def nodes(name: str) -> list[dict[str, Any]]:
    """One row a node, see plugin_utils/environments/node_changes.py."""
    with names.translated():
        containers = node_states(name)
        return node_changes.rows(
            paths.environment(name), containers, lambda kubeconfig: _api_nodes(kubeconfig, containers)[1]
        )


def plan(goal: Target) -> dict[str, Any]:
    """What `up` would do: ``{name, profile, exists, add, start, change, remove, refused}``; lists of texts, all empty
    when there is nothing to do. Reads only.
    """
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import upgrade_record

    folder = paths.environment(goal.name)
    with names.translated():
        old = state.read_profile(folder)
        begun = upgrade_record.pending(folder)
    containers = node_states(goal.name)
    resolved = goal.resolved
    wanted = [node["name"] for node in (resolved["nodes"] if resolved else [])]
    found = differences(old, resolved)
    return {
        "name": goal.name,
        "profile": resolved["profile"] if resolved else "",
        "exists": folder.is_dir(),
        "add": [f"node {name}" for name in wanted if name not in containers],
        "start": [f"node {name}" for name in wanted if containers.get(name, "running") != "running"],
        # nodes.NAME alone is a node that joins, and stands under add.
        "change": [_line(change) for change in found if change["applies"] and change["path"].count(".") != 1],
        "remove": [f"node {name}" for name in containers if name not in wanted],
        "refused": [
            *([f"upgrade to Kubernetes {begun['to']} has not come to its end"] if begun else []),
            *(_line(change) for change in found if not change["applies"]),
        ],
    }


def differences(old: Profile | None, new: Profile | None) -> list[dict[str, Any]]:
    """Differences of two resolved profiles as plain data (`devenv profile diff --json`)."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import changes

    return [asdict(change) for change in changes.between(old, new)] if old and new else []


def _line(change: Mapping[str, Any]) -> str:
    return f"{change['path']}: {change['old']} -> {change['new']} ({change['why']})"
