"""The validated hosts and clusters that a test requests, and the profile of an environment that serves them."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import data, engines, provider_traits
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import document as documents
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve_document
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import begin
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import catalogue as snapshots

NODE_TYPE_LABEL = "devenv.lab/node-type"


class DemandError(ValueError):
    """``problems`` has one line for each mistake in a demand."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class HostDemand:
    """One host. ``role``: master, worker or empty; ``node``: keys of a profile's node, labels and taints included;
    ``remote``: the keys for a remote allocator; ``image_digest``: of the content of its base image, if it was built
    here.
    """

    name: str
    role: str = ""
    installer: str = ""
    base_image: str = ""
    node: Mapping[str, Any] = field(default_factory=dict)
    remote: Mapping[str, Any] = field(default_factory=dict)
    image_digest: str = ""


@dataclass(frozen=True)
class ClusterDemand:
    """One cluster; ``hosts`` in the order of the test or its topology."""

    name: str
    installer: str
    hosts: tuple[str, ...]


@dataclass(frozen=True)
class Demand:
    """Everything that one test requests. ``engine`` creates the clusters, empty if there are none; ``profile``: keys
    that installers add to the environment's profile; ``snapshot``: what it starts from.
    """

    hosts: tuple[HostDemand, ...]
    clusters: tuple[ClusterDemand, ...] = ()
    engine: str = ""
    profile: Mapping[str, Any] = field(default_factory=dict)
    scope: str = ""
    timeout: float = 0
    snapshot: str = ""

    @property
    def digest(self) -> str:
        """A digest, equal for demands that one environment can serve, whatever their scope and time limit."""
        served = {key: value for key, value in asdict(self).items() if key not in ("scope", "timeout")}
        return hashlib.sha256(json.dumps(served, sort_keys=True).encode()).hexdigest()[:12]

    def cluster_of(self, host: str) -> ClusterDemand | None:
        """Return the cluster of a host, or None."""
        return next((cluster for cluster in self.clusters if host in cluster.hosts), None)

    @property
    def roles(self) -> dict[str, str]:
        """Host to role. In a cluster without a requested master, the first host without a role is the master."""
        roles = {host.name: host.role for host in self.hosts}
        for cluster in self.clusters:
            undecided = [host for host in cluster.hosts if not roles[host]]
            roles.update(dict.fromkeys(undecided, "worker"))
            if undecided and not any(roles[host] == "master" for host in cluster.hosts):
                roles[undecided[0]] = "master"
        return roles

    @property
    def node_names(self) -> dict[str, str]:
        """Host to node, ``{"host1": "master-0", ...}``, numbered in the order of clusters and hosts of the test.

        A host without a cluster is a worker-N: a profile has no other names.
        """
        roles, counts, names = self.roles, {"master": 0, "worker": 0}, {}
        members = [host for cluster in self.clusters for host in cluster.hosts]
        for host in dict.fromkeys([*members, *roles]):
            role = roles[host] or "worker"
            names[host] = f"{role}-{counts[role]}"
            counts[role] += 1
        return {host.name: names[host.name] for host in self.hosts}

    @property
    def cluster_names(self) -> dict[str, str]:
        """Cluster of the test to cluster of the profile. The first is ``main``, the default cluster, unless another
        one has that name.
        """
        names = {
            cluster.name: re.sub(r"[^a-z0-9]+", "-", cluster.name.lower()).strip("-")[:32].strip("-")
            for cluster in self.clusters
        }
        if names and "main" not in names.values():
            names[self.clusters[0].name] = "main"
        return names


def profile_document(demand: Demand, hosts: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """Return the profile of an environment for the demand. ``hosts``: existing machines (key ``host`` of nodes) by the
    test's names.
    """
    names, clusters, roles = demand.node_names, demand.cluster_names, demand.roles
    document: dict[str, Any] = {**_of_snapshot(demand.snapshot), **copy.deepcopy(dict(demand.profile))}
    if demand.engine:
        document["kubernetes"] = {**document.get("kubernetes", {}), "engine": demand.engine}
    document["clusters"] = {name: {} for name in clusters.values()}
    if "main" not in document["clusters"]:
        document["clusters"]["main"] = None
    document["nodes"] = {}
    has_types = demand.engine in engines.names() and engines.traits(demand.engine)["node_types"]
    for host in demand.hosts:
        cluster = demand.cluster_of(host.name)
        node = {key: copy.deepcopy(value) for key, value in host.node.items() if value is not None}
        if has_types and NODE_TYPE_LABEL in node.get("labels", {}):
            node["node_type"] = node["labels"][NODE_TYPE_LABEL]
        node["cluster"] = clusters[cluster.name] if cluster else None
        if cluster and all(roles[member] == "master" for member in cluster.hosts):
            node.setdefault("schedulable", True)
        if hosts is not None:
            # The others are about machines that devenv makes: the allocator got them.
            node = {key: value for key, value in node.items() if key not in _refused_for_hosts()}
            node["host"] = dict(hosts[host.name])
        document["nodes"][names[host.name]] = node
    if hosts is not None:
        document["provider"] = provider_traits.of_given_machines()
    return document


def _of_snapshot(name: str) -> dict[str, Any]:
    """Return the keys of a profile that an environment shares with the snapshot ``name``; none without a name."""
    if not name:
        return {}
    saved = snapshots.read(paths.home(), name).manifest["profile"]
    return {
        **({"topology": saved["topology"]} if saved["topology"] in data.names_in("topologies") else {}),
        "stack": saved["stack"],
        "kubernetes": {"version": saved["kubernetes"]["version"]},
        "network": {"pods": dict(saved["network"]["pods"]), "services": dict(saved["network"]["services"])},
    }


@functools.cache
def _refused_for_hosts() -> frozenset[str]:
    """Return the keys of a node that machines which exist already cannot have."""
    effects = provider_traits.traits(provider_traits.of_given_machines()).get("keys", {})
    return frozenset(
        path.rpartition(".")[2] for path in effects if path.startswith("nodes.*.") and effects[path] != "used"
    )


def check(demand: Demand) -> None:
    """Raise DemandError, in the test's own terms, for what the profile's schema or its engine would refuse."""
    clusters = list(demand.cluster_names.values())
    if duplicate := next((name for name in clusters if clusters.count(name) > 1), None):
        raise DemandError([f"grouping: two cluster names become '{duplicate}' in the profile"])
    without_master = [
        cluster.name for cluster in demand.clusters if not any(demand.roles[host] == "master" for host in cluster.hosts)
    ]
    if without_master:
        raise DemandError([f"grouping.{name}: none of its hosts is a master" for name in without_master])
    document = profile_document(demand)
    try:
        documents.validate(document, data.schema(), "profile")
        resolved = resolve_document(document, "test", stored=True)
        engines.require(resolved, shape_only=True)
        if demand.snapshot:
            saved = snapshots.read(paths.home(), demand.snapshot).manifest["profile"]
            if texts := begin.differences(saved, resolved):
                raise DevenvError("snapshot_differs", f"snapshot {demand.snapshot}: {'; '.join(texts)}")
    except DevenvError as error:
        text = error.message
        for host, node in demand.node_names.items():
            text = re.sub(rf"nodes\.{re.escape(node)}(?![0-9])", f"hardware.{host}", text)
        for name, actual in demand.cluster_names.items():
            text = re.sub(rf"clusters\.{re.escape(actual)}(?![0-9a-z-])", f"grouping.{name}", text)
        raise DemandError([text]) from None
