"""From a Demand to the profile of an environment that serves it."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import document as documents
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines, provider_traits
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve_document

from devenv.testing.demand import NODE_TYPE_LABEL, Demand, DemandError


def roles(demand: Demand) -> dict[str, str]:
    """Role of every host: of a cluster none of whose hosts was said to be a master, the first is one."""
    found = {host.name: host.role for host in demand.hosts}
    for cluster in demand.clusters:
        if not any(found[name] == "master" for name in cluster.hosts):
            free = [name for name in cluster.hosts if not found[name]]
            if free:
                found[free[0]] = "master"
        for name in cluster.hosts:
            found[name] = found[name] or "worker"
    return found


def node_names(demand: Demand) -> dict[str, str]:
    """Node of each host, by the order in which clusters and the test name them: ``{"host1": "master-0", ...}``.

    A host of no cluster is a worker-N, too: a profile knows no other names.
    """
    of_host = roles(demand)
    clustered = [name for cluster in demand.clusters for name in cluster.hosts]
    ordered = [*clustered, *(host.name for host in demand.hosts if host.name not in clustered)]
    counts = {"master": 0, "worker": 0}
    found = {}
    for name in ordered:
        prefix = of_host[name] or "worker"
        found[name] = f"{prefix}-{counts[prefix]}"
        counts[prefix] += 1
    return {host.name: found[host.name] for host in demand.hosts}


def cluster_names(demand: Demand) -> dict[str, str]:
    """Cluster of the profile of each cluster of the test. The first is ``main``, the one that programs take which name
    none, unless the test has one of that name.
    """
    plain = {
        one.name: re.sub(r"[^a-z0-9]+", "-", one.name.lower()).strip("-")[:32].strip("-") for one in demand.clusters
    }
    if plain and "main" not in plain.values():
        plain[demand.clusters[0].name] = "main"
    return plain


def profile_document(demand: Demand, hosts: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """The profile of an environment that serves the demand. ``hosts``: machines that exist (key ``host`` of nodes), by
    the test's names.
    """
    nodes, clusters, of_host = node_names(demand), cluster_names(demand), roles(demand)
    document: dict[str, Any] = copy.deepcopy(dict(demand.profile))
    if demand.engine:
        document["kubernetes"] = {"engine": demand.engine}
    if demand.clusters:
        document["clusters"] = {name: {} for name in clusters.values()}
    if "main" not in clusters.values():
        document["clusters"] = {**document.get("clusters", {}), "main": None}
    document["nodes"] = {}
    typed = demand.engine in engines.names() and engines.traits(demand.engine)["node_types"]
    for host in demand.hosts:
        cluster = demand.cluster_of(host.name)
        said = {key: copy.deepcopy(value) for key, value in host.node.items() if value is not None}
        if typed and NODE_TYPE_LABEL in said.get("labels", {}):
            said["node_type"] = said["labels"][NODE_TYPE_LABEL]
        said["cluster"] = clusters[cluster.name] if cluster else None
        if cluster and of_host[host.name] == "master" and all(of_host[name] == "master" for name in cluster.hosts):
            said.setdefault("schedulable", True)
        if hosts is not None:
            said["host"] = dict(hosts[host.name])
        document["nodes"][nodes[host.name]] = said
    if hosts is not None:
        document["provider"] = provider_traits.of_given_machines()
    return document


def check(demand: Demand) -> None:
    """Refuse what the profile's schema or its engine would refuse, in the test's own words."""
    twice = [name for name in cluster_names(demand).values() if list(cluster_names(demand).values()).count(name) > 1]
    if twice:
        raise DemandError([f"grouping: two names that are one in a profile: {twice[0]}"])
    of_host = roles(demand)
    lacking = [one.name for one in demand.clusters if not any(of_host[name] == "master" for name in one.hosts)]
    if lacking:
        raise DemandError([f"grouping.{name}: none of its hosts is a master" for name in lacking])
    document = profile_document(demand)
    try:
        schema = json.loads((paths.CONFIGS / "schema" / "profile.json").read_text(encoding="utf-8"))
        documents.validate(document, schema, "profile")
        engines.require(resolve_document(document, "test"), shape_only=True)
    except DevenvError as error:
        text = error.message
        for host, node in node_names(demand).items():
            text = re.sub(rf"nodes\.{re.escape(node)}(?![0-9])", f"hardware.{host}", text)
        for host, node in cluster_names(demand).items():
            text = re.sub(rf"clusters\.{re.escape(node)}(?![0-9a-z-])", f"grouping.{host}", text)
        raise DemandError([text]) from None
