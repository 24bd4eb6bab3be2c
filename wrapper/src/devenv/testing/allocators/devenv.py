"""The allocator ``devenv``, which creates environments on this machine, and the lookup of existing environments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, paths
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve_document
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import command

from devenv import errors as devenv_errors
from devenv.environments import access
from devenv.runs.supervision import Watcher
from devenv.testing.allocators import base
from devenv.testing.demand import Demand, profile_document
from devenv.testing.errors import AllocationFailed
from devenv.testing.objects import BaseConfig, Cluster, Host, Named


@dataclass(frozen=True)
class Devenv(base.Allocator):
    """Creates environments with `Environment.up` from a generated profile. ``overrides``: keys of the profile, as for
    --set; ``hosts``: existing machines by the test's names (key ``host`` of a profile's nodes).
    """

    overrides: Mapping[str, Any] = field(default_factory=dict)
    hosts: Mapping[str, Mapping[str, Any]] | None = None

    def need(self, demand: Demand) -> int:
        if self.hosts is not None:
            return 0
        resolved = resolve_document(self.document(demand), "test", overrides=self.overrides or None)
        return engines.in_use(resolved["nodes"], resolved["kubernetes"]["engine"])["memory"]

    def up(self, name: str, demand: Demand, *, timeout: float | None, report: Callable[[str], None]) -> None:
        from devenv.environment import Environment

        path = base.folder(name) / "profile.yml"
        files.write(path, yaml.safe_dump(self.document(demand), sort_keys=False))
        Environment.up(
            profile=path,
            name=name,
            overrides=self.overrides or None,
            snapshot=demand.snapshot or None,
            timeout=timeout,
            watcher=StageReporter(report),
            keep=True,
        )

    def is_up(self, name: str) -> bool:
        return (paths.environment(name) / "inventory.yml").is_file()

    def down(self, name: str) -> None:
        from devenv.environment import Environment

        Environment(name).down()

    def describe(self, name: str, demand: Demand) -> BaseConfig:
        return describe(name, demand, demand.node_names, demand.cluster_names)

    def document(self, demand: Demand) -> dict[str, Any]:
        """Return the profile of an environment for the demand."""
        hosts = self.hosts
        if hosts is not None:
            machines = base.pair([host.name for host in demand.hosts], list(hosts))
            hosts = {name: hosts[machine] for name, machine in machines.items()}
        return profile_document(demand, hosts)


class StageReporter(Watcher):
    """A watcher of a run that reports the name of each stage."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report, self._stage = report, ""

    def event(self, event: Mapping[str, Any]) -> None:
        from devenv.runs.progress import stage_of

        if event.get("event") == "playbook_on_play_start":
            stage = stage_of(str((event.get("event_data") or {}).get("play") or ""))
            if stage and stage != self._stage:
                self._stage = stage
                self._report(stage)


def existing(name: str, demand: Demand) -> BaseConfig:
    """Return the machines of an environment that already exists, for the demand.

    Hosts and clusters are matched by name, the others in the environment's order: masters to control plane nodes,
    workers to workers. Raises AllocationFailed with what is missing.
    """
    try:
        nodes = access.hosts(name)
    except devenv_errors.Error as error:
        raise AllocationFailed(f"{error.message}; {error.advice}") from None
    cluster_of = {node: str(variables.get("devenv_cluster") or "") for node, variables in nodes.items()}
    clusters = _match_clusters(name, demand, list(dict.fromkeys(filter(None, cluster_of.values()))))
    machines: dict[str, str] = {}
    for cluster in demand.clusters:
        for role, group in (("master", "control_plane"), ("worker", "workers")):
            hosts = [host for host in cluster.hosts if demand.roles[host] == role]
            actual = clusters[cluster.name]
            members = [n for n in nodes if cluster_of[n] == actual and nodes[n].get("devenv_group") == group]
            machines |= base.pair(hosts, members, f"environment {name}, cluster {actual}, {role}s: ")
    bare = [host.name for host in demand.hosts if demand.cluster_of(host.name) is None]
    bare_nodes = [node for node in nodes if not cluster_of[node]]
    machines |= base.pair(bare, bare_nodes, f"environment {name}, hosts without a cluster: ")
    return describe(name, demand, machines, clusters)


def _match_clusters(name: str, demand: Demand, actual: list[str]) -> dict[str, str]:
    if len(demand.clusters) > len(actual):
        raise AllocationFailed(
            f"the environment {name} has {len(actual)} clusters, but {len(demand.clusters)} are requested"
        )
    clusters: dict[str, str] = {}
    for cluster in demand.clusters:
        preferred = [known for known in (cluster.name, demand.cluster_names[cluster.name]) if known in actual]
        clusters[cluster.name] = (preferred or actual)[0]
        actual.remove(clusters[cluster.name])
    return clusters


def describe(name: str, demand: Demand, nodes: Mapping[str, str], clusters: Mapping[str, str]) -> BaseConfig:
    """Return the machines of the environment ``name``; ``nodes`` and ``clusters`` map the test's names to its own."""
    variables = access.hosts(name)
    hosts = {}
    for host in demand.hosts:
        cluster_of = demand.cluster_of(host.name)
        node = nodes[host.name]
        hosts[host.name] = _host(name, host.name, node, variables[node], cluster_of.name if cluster_of else "")
    allocated = [
        _cluster(name, cluster.name, clusters[cluster.name], cluster.installer, [hosts[host] for host in cluster.hosts])
        for cluster in demand.clusters
    ]
    return BaseConfig(name, hosts.values(), allocated)


def everything(name: str) -> BaseConfig:
    """Return all machines of the environment ``name``, with the names of its nodes and clusters. Raises NotFound."""
    nodes = access.hosts(name)
    hosts = [_host(name, node, node, nodes[node], str(nodes[node].get("devenv_cluster") or "")) for node in nodes]
    installer = engines.traits(access.profile(name)["kubernetes"]["engine"])["installers"][0]
    names = dict.fromkeys(host.cluster for host in hosts if host.cluster)
    clusters = [
        _cluster(name, each, each, installer, [host for host in hosts if host.cluster == each]) for each in names
    ]
    return BaseConfig(name, hosts, clusters)


def _cluster(environment: str, name: str, actual: str, installer: str, hosts: Sequence[Host]) -> Cluster:
    masters = tuple(host.name for host in hosts if host.group == "control_plane")
    path = paths.environment(environment) / "clusters" / actual / "kubeconfig"
    members = Named({host.name: host for host in hosts})
    return Cluster(name, installer, members, masters, path if path.is_file() else None)


def _host(environment: str, name: str, node: str, variables: Mapping[str, Any], cluster: str) -> Host:
    connection = command.connection(node, variables)
    return Host(
        name=name,
        node=node,
        addresses=tuple(str(address) for address in variables.get("devenv_addresses") or [connection.address]),
        user=connection.user,
        port=connection.port or 22,
        key_file_path=connection.key_file,
        ssh_options=connection.options,
        cluster=cluster,
        group=str(variables.get("devenv_group", "")),
        labels=dict(variables.get("devenv_labels") or {}),
        environment_name=environment,
    )
