"""The allocator ``devenv``: environments of this machine, and the machines of one that is up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, paths
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve_document
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import command

from devenv.environments import access
from devenv.testing import demand_profile
from devenv.testing.allocators import base
from devenv.testing.allocators.allocation import Allocation, ClusterFound, HostFound
from devenv.testing.demand import ClusterDemand, Demand


@dataclass(frozen=True)
class Devenv:
    """Environments by `Environment.up` of a generated profile. ``overrides``: keys of the profile, as --set has them;
    ``hosts``: machines that exist, by the test's names (key ``host`` of a profile's nodes).
    """

    overrides: Mapping[str, Any] = field(default_factory=dict)
    hosts: Mapping[str, Mapping[str, Any]] | None = None

    def need(self, demand: Demand) -> int:
        if self.hosts is not None:
            return 0
        resolved = resolve_document(self._document(demand), "test", overrides=self.overrides or None)
        return engines.in_use(resolved["nodes"], resolved["kubernetes"]["engine"])["memory"]

    def up(self, name: str, demand: Demand, *, timeout: float | None, say: Callable[[str], None]) -> None:
        from devenv.environment import Environment

        path = base.folder(name) / "profile.yml"
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        files.write(path, yaml.safe_dump(self._document(demand), sort_keys=False))
        Environment.up(
            profile=path,
            name=name,
            overrides=self.overrides or None,
            timeout=timeout,
            watcher=StageReporter(say),
            keep=True,
        )

    def is_up(self, name: str) -> bool:
        return (paths.environment(name) / "inventory.yml").is_file()

    def down(self, name: str) -> None:
        from devenv.environment import Environment

        Environment(name).down()

    def describe(self, name: str, demand: Demand) -> Allocation:
        nodes, clusters = demand_profile.node_names(demand), demand_profile.cluster_names(demand)
        return describe(name, demand, nodes, clusters)

    def hold(self, name: str) -> None:
        return

    def close(self) -> None:
        return

    def _document(self, demand: Demand) -> dict[str, Any]:
        hosts = self.hosts
        if hosts is not None:
            places = base.pair([host.name for host in demand.hosts], list(hosts))
            hosts = {name: hosts[place] for name, place in places.items()}
        return demand_profile.profile_document(demand, hosts)


class StageReporter:
    """A watcher of a run that reports the name of each stage."""

    def __init__(self, say: Callable[[str], None]) -> None:
        from devenv.runs.progress import stage_of

        self._say, self._stage_of, self._stage = say, stage_of, ""

    def event(self, event: Mapping[str, Any]) -> None:
        if event.get("event") == "playbook_on_play_start":
            stage = self._stage_of(str((event.get("event_data") or {}).get("play") or ""))
            if stage and stage != self._stage:
                self._stage = stage
                self._say(stage)

    def tick(self) -> None:
        return

    def end(self) -> None:
        return


def describe(name: str, demand: Demand, nodes: Mapping[str, str], clusters: Mapping[str, str]) -> Allocation:
    """The machines of the devenv environment ``name``; ``nodes`` and ``clusters`` map the test's names to its own."""
    there = access.hosts(name)
    found = [_host(host.name, nodes[host.name], there[nodes[host.name]], demand) for host in demand.hosts]
    grouped = [_cluster(name, one, clusters[one.name], nodes, there) for one in demand.clusters]
    provider = str(access.inventory(name).get("all", {}).get("vars", {}).get("devenv_provider", ""))
    return Allocation("", name, provider, found, grouped)


def _host(name: str, node: str, variables: Mapping[str, Any], demand: Demand) -> HostFound:
    cluster = demand.cluster_of(name)
    reached = command.connection(node, variables)
    return HostFound(
        name=name,
        node=node,
        addresses=[str(one) for one in variables.get("devenv_addresses") or [reached.address]],
        user=reached.user,
        port=reached.port or 22,
        key_file=reached.key_file,
        options=list(reached.options),
        cluster=cluster.name if cluster else "",
        group=str(variables.get("devenv_group", "")),
        labels=dict(variables.get("devenv_labels") or {}),
    )


def _cluster(
    environment: str,
    one: ClusterDemand,
    own: str,
    nodes: Mapping[str, str],
    there: Mapping[str, Mapping[str, Any]],
) -> ClusterFound:
    masters = [name for name in one.hosts if there[nodes[name]].get("devenv_group") == "control_plane"]
    path = paths.environment(environment) / "clusters" / own / "kubeconfig"
    return ClusterFound(one.name, own, one.installer, list(one.hosts), masters, str(path) if path.is_file() else "")
