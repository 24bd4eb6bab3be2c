"""From the decorator's dictionaries to a Demand.

Keys of a host are those of the original decorator and of a profile's node. Every problem is found at once, before any
machine is made; nothing is ever written to what the test said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import document as documents
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Node

from devenv.testing import demand_profile
from devenv.testing.demand import NODE_TYPE_LABEL, ClusterDemand, Demand, DemandError, HostDemand
from devenv.testing.installers import catalogue as installers
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
Catalogue = Mapping[str, type[installers.Installer]]
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")


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
    demand_profile.check(demand)
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
    catalogue: Catalogue,
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
    where: str, keys: Mapping[str, Any], hosts: dict[str, dict[str, Any]], problems: list[str], taken: Mapping[str, str]
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


def _template_nodes(template: str) -> list[Node] | None:
    plain = template.replace("_", "-")
    if not (paths.CONFIGS / "topologies" / f"{plain}.yml").is_file():
        return None
    return resolve(f"{plain}-ipv4-static")["nodes"]


def _cluster_installer(
    where: str,
    keys: Mapping[str, Any],
    members: Sequence[str],
    hosts: Mapping[str, Mapping[str, Any]],
    problems: list[str],
    catalogue: Catalogue,
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


def _known_installer(where: str, name: str, problems: list[str], catalogue: Catalogue) -> bool:
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
    catalogue: Catalogue,
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
    where: str, keys: Mapping[str, Any], cluster: ClusterDemand | None, node: dict[str, Any], problems: list[str]
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


def _engine(clusters: Sequence[ClusterDemand], problems: list[str], catalogue: Catalogue) -> str:
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
