"""What a test asks for: from the decorator's dictionaries to a checked, frozen Demand and to a profile.

Keys of a host are those of the original decorator and of a profile's node. Every problem is found at once, before any
machine is made; nothing is ever written to what the test said.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import document as documents
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import profile, provider_traits

from devenv.testing.installers import base as installers
from devenv.testing.installers import images

SCOPES = ("function", "module", "session")
# Keys of a profile's node that are taken as they are.
NODE_KEYS = ("cpus", "memory", "disk", "labels", "taints", "schedulable")
# Sizes in GiB, as resource managers of virtual machines name them: key -> key of a node.
SIZES = {"ram": "memory", "size": "disk"}
# What only a remote allocator can choose by.
REMOTE_KEYS = ("gpu", "gpus", "networks", "disks", "image", "instance_type", "arch")
HARDWARE_TYPES = ("vm", "ai_camera", "table")
HOST_KEYS = (
    "base_image", "hardware_type", "installer", "k3s_config", "node_type", "role", *NODE_KEYS, *SIZES, *REMOTE_KEYS,
)  # fmt: skip
CLUSTER_KEYS = ("hosts", "installer", "template")
K3S_KEYS = ("role", "labels", "taints")
ROLES = {"master": "master", "control_plane": "master", "node": "worker", "worker": "worker"}
NODE_TYPE_LABEL = "devenv.lab/node-type"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")


class DemandError(ValueError):
    """``problems`` has one line for everything that is wrong with a demand."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class HostDemand:
    """One host. ``role``: master, worker, or empty for a host of no cluster; ``node``: keys of a profile's node,
    labels and taints included; ``remote``: all that the test said of it, for a remote allocator.
    """

    name: str
    role: str = ""
    installer: str = ""
    base_image: str = ""
    node: Mapping[str, Any] = field(default_factory=dict)
    remote: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ClusterDemand:
    """One cluster of hosts, masters first as the test or its template names them."""

    name: str
    installer: str
    hosts: tuple[str, ...]
    template: str = ""


@dataclass(frozen=True)
class Demand:
    """All that one test asks for. ``engine``: what makes its clusters, empty without any."""

    hosts: tuple[HostDemand, ...]
    clusters: tuple[ClusterDemand, ...] = ()
    engine: str = ""
    profile: Mapping[str, Any] = field(default_factory=dict)
    scope: str = ""
    timeout: float = 0

    @property
    def digest(self) -> str:
        """Equal for demands that one environment can serve, whatever their scope and limit."""
        return hashlib.sha256(json.dumps(self.data(), sort_keys=True).encode()).hexdigest()[:12]

    def data(self) -> dict[str, Any]:
        """The demand as plain data, in the order in which the test names things."""
        return {
            "hosts": [
                {
                    "name": host.name, "role": host.role, "installer": host.installer, "base_image": host.base_image,
                    "node": dict(host.node), "remote": dict(host.remote),
                }
                for host in self.hosts
            ],
            "clusters": [
                {"name": one.name, "installer": one.installer, "hosts": list(one.hosts), "template": one.template}
                for one in self.clusters
            ],
            "engine": self.engine,
            "profile": dict(self.profile),
        }  # fmt: skip

    def host(self, name: str) -> HostDemand:
        return next(host for host in self.hosts if host.name == name)

    def cluster_of(self, host: str) -> ClusterDemand | None:
        return next((one for one in self.clusters if host in one.hosts), None)


# --- parse ------------------------------------------------------------------------------------------------------------


def parse(said: Mapping[str, Any], *, installer: str = "", cluster_installer: str = "", remote: bool = False) -> Demand:
    """The Demand of a marker's arguments ``hardware``, ``grouping``, ``scope`` and ``timeout``.

    ``installer`` and ``cluster_installer`` are the module's own, for hosts and clusters that name none; ``remote``:
    whether the allocator is one that knows REMOTE_KEYS. Raises DemandError.
    """
    problems: list[str] = []
    hardware, grouping = _sections(said, problems)
    hosts = {name: _host_keys(name, keys, problems, remote) for name, keys in hardware.items()}
    if problems:
        raise DemandError(problems)
    catalogue = installers.known()
    clusters = _clusters(grouping, hosts, problems, catalogue, cluster_installer)
    found = [_host(name, hosts[name], clusters, problems, catalogue, installer) for name in hosts]
    engine = _engine(clusters, problems, catalogue)
    scope, timeout = _scope(said, problems)
    if not found and not problems:
        problems.append("hardware: no host is asked for")
    if problems:
        raise DemandError(problems)
    wanted = [one.installer for one in clusters] + [host.installer for host in found if host.installer]
    demand = Demand(tuple(found), tuple(clusters), engine, installers.profile_of(wanted, catalogue), scope, timeout)
    _check_profile(demand)
    return demand


def _sections(said: Mapping[str, Any], problems: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """hardware and grouping as the marker has them; a template given as hardware is its cluster1."""
    unknown = sorted(set(said) - {"hardware", "grouping", "scope", "timeout"})
    problems += [f"hardware_config: unknown argument {name}" for name in unknown]
    hardware, grouping = said.get("hardware") or {}, said.get("grouping") or {}
    for name, value in (("hardware", hardware), ("grouping", grouping)):
        if not isinstance(value, Mapping):
            raise DemandError([f"{name}: must be a mapping, is {_shown(value)}"])
    if "template" in hardware:
        if grouping:
            raise DemandError(["grouping: hardware is a template, which is a cluster by itself"])
        return {}, {"cluster1": dict(hardware)}
    return dict(hardware), dict(grouping)


def _host_keys(name: Any, keys: Any, problems: list[str], remote: bool) -> dict[str, Any]:
    where = f"hardware.{name}"
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        problems.append(f"{where}: no name for a host (letters, digits, - and _; a letter first)")
    if not isinstance(keys, Mapping):
        problems.append(f"{where}: must be a mapping of keys, is {_shown(keys)}")
        return {}
    for key in keys:
        if key not in HOST_KEYS:
            near = documents.nearest(str(key), HOST_KEYS)
            problems.append(f"{where}: unknown key {key}{f'; the nearest is {near}' if near else ''}")
        elif key in REMOTE_KEYS and keys[key] and not remote:
            problems.append(f"{where}.{key}: this machine's nodes have no such choice; a remote allocator may have")
    kind = keys.get("hardware_type", "vm")
    if kind not in HARDWARE_TYPES:
        problems.append(f"{where}.hardware_type: {_shown(kind)} is not known; allowed: {', '.join(HARDWARE_TYPES)}")
    elif kind != "vm" and not remote:
        problems.append(f"{where}.hardware_type: {kind} is not to be had here; allowed: vm")
    return dict(keys)


def _clusters(
    grouping: Mapping[str, Any],
    hosts: dict[str, dict[str, Any]],
    problems: list[str],
    catalogue: Mapping[str, type[installers.Installer]],
    fallback: str,
) -> list[ClusterDemand]:
    """The clusters; hosts that a template brings are added to ``hosts``."""
    owners: dict[str, str] = {}
    found = []
    for name, keys in grouping.items():
        where = f"grouping.{name}"
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            problems.append(f"{where}: no name for a cluster (letters, digits, - and _; a letter first)")
        if not isinstance(keys, Mapping):
            problems.append(f"{where}: must be a mapping of keys, is {_shown(keys)}")
            continue
        problems += [
            f"{where}: unknown key {key}; known: {', '.join(CLUSTER_KEYS)}" for key in keys if key not in CLUSTER_KEYS
        ]
        members = _members(where, keys, hosts, problems, {**owners, **_named(grouping)})
        for host in members:
            if host in owners:
                problems.append(f"{where}.hosts: {host} belongs to {owners[host]} already")
            owners.setdefault(host, str(name))
        chosen = _cluster_installer(where, keys, members, hosts, problems, catalogue, fallback)
        found.append(ClusterDemand(str(name), chosen, tuple(members), str(keys.get("template", ""))))
    return found


def _named(grouping: Mapping[str, Any]) -> dict[str, str]:
    return {
        str(host): str(name)
        for name, keys in grouping.items()
        if isinstance(keys, Mapping)
        for host in keys.get("hosts") or ()
    }


def _members(
    where: str,
    keys: Mapping[str, Any],
    hosts: dict[str, dict[str, Any]],
    problems: list[str],
    taken: Mapping[str, str],
) -> list[str]:
    listed = keys.get("hosts")
    if listed is not None and (isinstance(listed, str) or not isinstance(listed, Sequence)):
        problems.append(f"{where}.hosts: must be a list of names, is {_shown(listed)}")
        return []
    names = [str(host) for host in listed or ()]
    for host in sorted({name for name in names if names.count(name) > 1}):
        problems.append(f"{where}.hosts: {host} stands twice")
    if "template" not in keys:
        if not names:
            problems.append(f"{where}.hosts: the cluster has no host")
        problems += [
            f"{where}.hosts: {host} is not declared in hardware (it has {', '.join(hosts) or 'none'})"
            for host in names
            if host not in hosts
        ]
        return [host for host in names if host in hosts]
    return _template_members(where, str(keys["template"]), names, hosts, problems, taken)


def _template_members(
    where: str,
    template: str,
    names: list[str],
    hosts: dict[str, dict[str, Any]],
    problems: list[str],
    taken: Mapping[str, str],
) -> list[str]:
    nodes = _template_nodes(template)
    if nodes is None:
        known = sorted(path.stem for path in (paths.CONFIGS / "topologies").glob("*.yml"))
        problems.append(f"{where}.template: {template} is not known; allowed: {', '.join(known)}")
        return []
    if names and len(names) != len(nodes):
        problems.append(f"{where}.hosts: {template} has {len(nodes)} nodes, and {len(names)} are named")
        return []
    number = 1
    while len(names) < len(nodes):
        if f"host{number}" not in hosts and f"host{number}" not in taken:
            names.append(f"host{number}")
        number += 1
    for name, node in zip(names, nodes, strict=True):
        own = hosts.setdefault(name, {})
        # What the template says of the node is the least; the test's own keys count more.
        own.setdefault("role", "master" if node["group"] == "control_plane" else "worker")
        own["labels"] = {**node["labels"], **(own.get("labels") or {})}
        own.setdefault("taints", list(node["taints"]))
        if node["group"] == "control_plane":
            own.setdefault("schedulable", node["schedulable"])
    return names


def _template_nodes(template: str) -> list[dict[str, Any]] | None:
    plain = template.replace("_", "-")
    if not (paths.CONFIGS / "topologies" / f"{plain}.yml").is_file():
        return None
    nodes: list[dict[str, Any]] = profile.resolve(f"{plain}-ipv4-static")["nodes"]
    return nodes


def _cluster_installer(
    where: str,
    keys: Mapping[str, Any],
    members: Sequence[str],
    hosts: Mapping[str, Mapping[str, Any]],
    problems: list[str],
    catalogue: Mapping[str, type[installers.Installer]],
    fallback: str,
) -> str:
    """The cluster's own installer, else that of its hosts, else the module's, else k8s."""
    of_hosts = {
        str(hosts[host]["installer"])
        for host in members
        if hosts[host].get("installer") in catalogue and catalogue[hosts[host]["installer"]].on == "cluster"
    }
    if "installer" not in keys and len(of_hosts) > 1:
        problems.append(f"{where}: its hosts name several installers: {', '.join(sorted(of_hosts))}")
    chosen = str(keys.get("installer") or next(iter(sorted(of_hosts)), "") or fallback or installers.DEFAULT)
    if not _known_installer(f"{where}.installer", chosen, problems, catalogue):
        return chosen
    if catalogue[chosen].on != "cluster":
        problems.append(f"{where}.installer: {chosen} is for hosts")
    return chosen


def _known_installer(
    where: str, name: str, problems: list[str], catalogue: Mapping[str, type[installers.Installer]]
) -> bool:
    try:
        installers.with_needs([name], catalogue)
    except LookupError as error:
        lacking = str(error.args[0])
        what = f"{name} is not known" if lacking == name else f"{name} needs {lacking}, which is not known"
        problems.append(f"{where}: {what}; known: {', '.join(sorted(catalogue))}")
    except ValueError as error:
        problems.append(f"{where}: {error}")
    else:
        return True
    return False


def _host(
    name: str,
    keys: Mapping[str, Any],
    clusters: Sequence[ClusterDemand],
    problems: list[str],
    catalogue: Mapping[str, type[installers.Installer]],
    fallback: str,
) -> HostDemand:
    where = f"hardware.{name}"
    cluster = next((one for one in clusters if name in one.hosts), None)
    image = _image(where, keys, problems)
    chosen = str(keys.get("installer") or ("" if cluster else fallback))
    if chosen and _known_installer(f"{where}.installer", chosen, problems, catalogue):
        if catalogue[chosen].on == "cluster" and cluster is None:
            problems.append(f"{where}.installer: {chosen} is for clusters, and no cluster has this host")
        if catalogue[chosen].on == "cluster":
            # It says what the cluster is; the host itself has nothing of its own to install.
            chosen = ""
    if cluster is None:
        problems += [f"{where}.{key}: no cluster has this host" for key in ("role", "k3s_config") if keys.get(key)]
    node = {**(image.node if image else {}), **{key: keys[key] for key in NODE_KEYS if key in keys}}
    for key, own in SIZES.items():
        if keys.get(key) is not None:
            node[own] = f"{keys[key]}GiB"
    role = _role(where, keys, cluster, node, problems)
    if keys.get("node_type"):
        node["labels"] = {**(node.get("labels") or {}), NODE_TYPE_LABEL: str(keys["node_type"])}
    if cluster is None and (node.get("labels") or node.get("taints")):
        problems.append(f"{where}: labels and taints are for hosts of a cluster")
    remote = {key: value for key, value in keys.items() if key in (*REMOTE_KEYS, *SIZES, "cpus", "hardware_type")}
    return HostDemand(name, role, chosen, str(keys.get("base_image", "")), node, remote)


def _image(where: str, keys: Mapping[str, Any], problems: list[str]) -> images.BaseImage | None:
    wanted = keys.get("base_image")
    if wanted is None:
        return None
    known = images.known()
    if wanted not in known:
        problems.append(f"{where}.base_image: {_shown(wanted)} is not known; known: {', '.join(sorted(known))}")
        return None
    return known[wanted]


def _role(
    where: str,
    keys: Mapping[str, Any],
    cluster: ClusterDemand | None,
    node: dict[str, Any],
    problems: list[str],
) -> str:
    """master or worker: as said, else the first host of a cluster is its master. Takes over what k3s_config says."""
    said = keys.get("role")
    config = keys.get("k3s_config")
    if config is not None:
        if not isinstance(config, Mapping) or set(config) - set(K3S_KEYS):
            problems.append(f"{where}.k3s_config: must be a mapping of {', '.join(K3S_KEYS)}")
            config = {}
        said = said or config.get("role")
        if config.get("labels"):
            node["labels"] = {**config["labels"], **(node.get("labels") or {})}
        if config.get("taints"):
            node["taints"] = [*(node.get("taints") or []), *config["taints"]]
    if said is not None and said not in ROLES:
        problems.append(f"{where}.role: {_shown(said)} is not known; allowed: {', '.join(ROLES)}")
        return ""
    if cluster is None:
        return ""
    return ROLES[said] if said is not None else ""


def _engine(
    clusters: Sequence[ClusterDemand], problems: list[str], catalogue: Mapping[str, type[installers.Installer]]
) -> str:
    engines: dict[str, str] = {}
    for one in clusters:
        if one.installer not in catalogue:
            continue
        try:
            engine = installers.engine_of(one.installer, catalogue)
        except (LookupError, ValueError) as error:
            problems.append(f"grouping.{one.name}.installer: {error}")
            continue
        if not engine:
            problems.append(f"grouping.{one.name}.installer: {one.installer} has no engine that makes a cluster")
        elif not installers.is_built(engine):
            problems.append(f"grouping.{one.name}.installer: {one.installer} needs engine {engine}, not built yet")
        engines[engine] = one.name
    if len(engines) > 1:
        problems.append(f"grouping: one environment has one engine, and these are {', '.join(sorted(engines))}")
    return next(iter(engines), "")


def _scope(said: Mapping[str, Any], problems: list[str]) -> tuple[str, float]:
    scope, timeout = said.get("scope") or "", said.get("timeout") or 0
    if scope and scope not in SCOPES:
        problems.append(f"scope: {_shown(scope)} is not known; allowed: {', '.join(SCOPES)}")
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout < 0:
        problems.append(f"timeout: must be a number of seconds, is {_shown(timeout)}")
        timeout = 0
    return str(scope), float(timeout)


def _shown(value: Any) -> str:
    try:
        return json.dumps(value)[:60]
    except TypeError:
        return repr(value)[:60]


# --- profile ----------------------------------------------------------------------------------------------------------


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
    for host in demand.hosts:
        cluster = demand.cluster_of(host.name)
        said = {key: copy.deepcopy(value) for key, value in host.node.items() if value is not None}
        if demand.engine == "gravity" and NODE_TYPE_LABEL in said.get("labels", {}):
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


def _check_profile(demand: Demand) -> None:
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
        profile.require_engine(profile.resolve_document(document, "test"), shape_only=True)
    except DevenvError as error:
        text = error.message
        for host, node in node_names(demand).items():
            text = re.sub(rf"nodes\.{re.escape(node)}(?![0-9])", f"hardware.{host}", text)
        for host, node in cluster_names(demand).items():
            text = re.sub(rf"clusters\.{re.escape(node)}(?![0-9a-z-])", f"grouping.{host}", text)
        raise DemandError([text]) from None
