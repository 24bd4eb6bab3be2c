"""Where a test's machines come from.

A *maker* makes environments and takes them down: devenv itself. What is there already (an environment, a file that
lists machines) is only looked up.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, paths
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import profile
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import command

from devenv import errors as devenv_errors
from devenv.environments import access
from devenv.testing import demand as demands
from devenv.testing.allocators.allocation import Allocation, ClusterFound, HostFound
from devenv.testing.demand import Demand
from devenv.testing.errors import AllocationFailed
from devenv.testing.plugins.ssh import ASKPASS

# What a node of the podman provider reaches without more: its environment.
PROVISIONED_KEYS = (
    "ip", "addresses", "user", "password", "key_file_path", "pem_key_string", "port", "known_hosts", "host_keys",
    "alias",    "vm_id", "resource_manager_ep", "tunnelport",
)  # fmt: skip
_CLUSTER_KEYS = ("hosts", "kubeconfig", "masters")


class Maker(Protocol):
    """Makes environments. Called from several processes; the caller sees to it that never two work on one name."""

    def need(self, demand: Demand) -> int:
        """Memory that the machines will use, in bytes."""

    def up(self, name: str, demand: Demand, *, timeout: float | None, say: Callable[[str], None]) -> None:
        """Make the environment, or finish it. Raises devenv.Error or AllocationFailed."""

    def is_up(self, name: str) -> bool:
        """Whether it was made whole once and is still there."""

    def down(self, name: str) -> None:
        """Take it down; once more is no error."""

    def describe(self, name: str, demand: Demand) -> Allocation:
        """The machines of an environment that is up."""

    def hold(self, name: str) -> None:
        """This process uses it from now on."""

    def close(self) -> None:
        """This process uses none any more."""


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
        resolved = profile.resolve_document(self._document(demand), "test", overrides=self.overrides or None)
        return profile.in_use(resolved["nodes"], resolved["kubernetes"]["engine"])["memory"]

    def up(self, name: str, demand: Demand, *, timeout: float | None, say: Callable[[str], None]) -> None:
        from devenv.environment import Environment

        path = folder(name) / "profile.yml"
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        files.write(path, yaml.safe_dump(self._document(demand), sort_keys=False))
        Environment.up(
            profile=path, name=name, overrides=self.overrides or None, timeout=timeout, watcher=_Told(say), keep=True
        )

    def is_up(self, name: str) -> bool:
        return (paths.environment(name) / "inventory.yml").is_file()

    def down(self, name: str) -> None:
        from devenv.environment import Environment

        Environment(name).down()

    def describe(self, name: str, demand: Demand) -> Allocation:
        nodes, clusters = demands.node_names(demand), demands.cluster_names(demand)
        return describe(name, demand, nodes, clusters)

    def hold(self, name: str) -> None:
        return

    def close(self) -> None:
        return

    def _document(self, demand: Demand) -> dict[str, Any]:
        hosts = self.hosts
        if hosts is not None:
            places = pair([host.name for host in demand.hosts], list(hosts))
            hosts = {name: hosts[place] for name, place in places.items()}
        return demands.profile_document(demand, hosts)


class _Told:
    """A watcher of a run that passes its stages on."""

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


def folder(name: str) -> Path:
    """Where what tests know of the environment ``name`` is kept."""
    return paths.home() / "testing" / name


def load(word: str, settings: Mapping[str, Any]) -> Maker:
    """The maker ``word``: devenv, habertest, or ``module:attribute`` of one's own, called with ``settings``."""
    if word == "devenv":
        return Devenv(**settings)
    if word == "habertest":
        from devenv.testing.allocators.habertest import Habertest

        return Habertest(**settings)
    module, _, attribute = word.partition(":")
    made: Maker = getattr(importlib.import_module(module), attribute)(**settings)
    return made


def pair(wanted: Sequence[str], there: Sequence[str]) -> dict[str, str]:
    """Which machine each host of a test is: the one of its own name, else in order those that are left, sorted.

    Both orders are the caller's words' alone, so that it is the same machine each time. Raises AllocationFailed when
    there are too few.
    """
    found = {name: name for name in wanted if name in there}
    rest = sorted(name for name in there if name not in found)
    missing = [name for name in wanted if name not in found]
    if len(missing) > len(rest):
        raise AllocationFailed(
            f"{len(wanted)} hosts are asked for, and there are {len(there)}: {', '.join(sorted(there))}"
        )
    return {name: found.get(name) or rest[missing.index(name)] for name in wanted}


# --- environments -----------------------------------------------------------------------------------------------------


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
    one: demands.ClusterDemand,
    own: str,
    nodes: Mapping[str, str],
    there: Mapping[str, Mapping[str, Any]],
) -> ClusterFound:
    masters = [name for name in one.hosts if there[nodes[name]].get("devenv_group") == "control_plane"]
    path = paths.environment(environment) / "clusters" / own / "kubeconfig"
    return ClusterFound(one.name, own, one.installer, list(one.hosts), masters, str(path) if path.is_file() else "")


def existing(name: str, demand: Demand) -> Allocation:
    """The machines of an environment that someone else made. Hosts and clusters are found by their names, else in the
    environment's order: masters for masters, workers for workers. Raises AllocationFailed with what is lacking.
    """
    try:
        there = access.hosts(name)
    except devenv_errors.Error as error:
        raise AllocationFailed(f"{error.message}; {error.advice}") from None
    members: dict[str, list[str]] = {}
    for node, variables in there.items():
        members.setdefault(str(variables.get("devenv_cluster") or ""), []).append(node)
    theirs = [cluster for cluster in members if cluster]
    wanted = demands.cluster_names(demand)
    clusters: dict[str, str] = {}
    for one in demand.clusters:
        free = [cluster for cluster in theirs if cluster not in clusters.values()]
        chosen = next((word for word in (one.name, wanted[one.name]) if word in free), free[0] if free else "")
        if not chosen:
            raise AllocationFailed(
                f"the environment {name} has {len(theirs)} clusters, and {len(demand.clusters)} are asked for"
            )
        clusters[one.name] = chosen
    of_host, nodes = demands.roles(demand), {}
    for one in demand.clusters:
        nodes.update(_members(name, one, clusters[one.name], members, there, of_host))
    bare = [host.name for host in demand.hosts if demand.cluster_of(host.name) is None]
    if bare:
        nodes.update(_named(f"environment {name}, hosts of no cluster", bare, members.get("", [])))
    return describe(name, demand, nodes, clusters)


def _members(
    environment: str,
    one: demands.ClusterDemand,
    own: str,
    members: Mapping[str, Sequence[str]],
    there: Mapping[str, Mapping[str, Any]],
    of_host: Mapping[str, str],
) -> dict[str, str]:
    found = {}
    for role, group in (("master", "control_plane"), ("worker", "workers")):
        wanted = [name for name in one.hosts if of_host[name] == role]
        have = [node for node in members[own] if there[node].get("devenv_group") == group]
        found.update(_named(f"environment {environment}, cluster {own}, {role}s", wanted, have))
    return found


def _named(where: str, wanted: Sequence[str], have: Sequence[str]) -> dict[str, str]:
    if len(wanted) > len(have):
        raise AllocationFailed(f"{where}: {len(wanted)} are asked for, and there are {len(have)}")
    return pair(wanted, have)


# --- files ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Provisioned:
    """Machines that a file lists (docs/testing.md). ``private``: a folder for secrets that the file holds."""

    hosts: Mapping[str, Mapping[str, Any]]
    clusters: Mapping[str, Mapping[str, Any]]
    source: str

    def allocation(self, demand: Demand, private: Path) -> Allocation:
        """The machines for the demand. Raises AllocationFailed."""
        places = pair([host.name for host in demand.hosts], list(self.hosts))
        found = [self._host(host.name, places[host.name], demand, private) for host in demand.hosts]
        return Allocation("", "", "provisioned", found, [self._cluster(one, demand) for one in demand.clusters])

    def has_clusters(self, demand: Demand) -> bool:
        """Whether the file has a kubeconfig for every cluster of the demand."""
        return all(self._known(one.name).get("kubeconfig") for one in demand.clusters)

    def for_profile(self) -> dict[str, dict[str, Any]]:
        """The machines as a profile of the provider ``existing`` wants them. Raises AllocationFailed for one that has a
        password: Ansible would have to be given it.
        """
        found = {}
        for name, said in self.hosts.items():
            if said.get("password") or said.get("pem_key_string"):
                raise AllocationFailed(
                    f"{self.source}: hosts.{name}: --install needs a key_file_path, no password or key text"
                )
            user = str(said.get("user", "root"))
            keys = {
                "key_file": said.get("key_file_path"),
                "known_hosts": said.get("known_hosts"),
                "port": said.get("port"),
            }
            found[name] = {
                "addresses": list(said.get("addresses") or [said["ip"]]), "user": user, "become": user != "root",
                **{key: value for key, value in keys.items() if value},
            }  # fmt: skip
        return found

    def with_key_files(self, private: Path) -> Provisioned:
        """The same with texts of keys as files, and with the host keys that the machines show now as the known ones:
        for machines that were made a moment ago, whose keys nobody can know.
        """
        hosts = {}
        for name, said in self.hosts.items():
            kept = {key: value for key, value in said.items() if key not in ("pem_key_string", "host_keys")}
            if said.get("pem_key_string"):
                text = str(said["pem_key_string"]).rstrip("\n") + "\n"
                kept["key_file_path"] = str(_secret(private / f"{name}.key", text))
            scan = ["ssh-keyscan", "-p", str(said.get("port", 22)), str(said["ip"])]
            shown = subprocess.run(scan, capture_output=True, text=True, timeout=60, check=False).stdout
            kept["known_hosts"] = str(_secret(private / f"{name}.known_hosts", shown))
            hosts[name] = kept
        return Provisioned(hosts, self.clusters, self.source)

    def _known(self, cluster: str) -> Mapping[str, Any]:
        if cluster in self.clusters:
            return self.clusters[cluster]
        return next(iter(self.clusters.values()), {}) if len(self.clusters) == 1 else {}

    def _host(self, name: str, place: str, demand: Demand, private: Path) -> HostFound:
        said = self.hosts[place]
        cluster = demand.cluster_of(name)
        key_file = str(said.get("key_file_path") or "")
        if said.get("pem_key_string"):
            key_file = str(_secret(private / f"{place}.key", str(said["pem_key_string"]).rstrip("\n") + "\n"))
        password = str(_password(private / f"{place}.password", str(said["password"]))) if said.get("password") else ""
        return HostFound(
            name=name,
            node=place,
            addresses=[str(one) for one in said.get("addresses") or [said["ip"]]],
            user=str(said.get("user", "root")),
            port=int(said.get("port", 22)),
            key_file=os.path.expanduser(key_file),
            password_file=password,
            options=_host_key_options(said, private),
            cluster=cluster.name if cluster else "",
            vm_id=str(said.get("vm_id", "")),
            resource_manager_ep=str(said.get("resource_manager_ep", "")),
            extra={key: value for key, value in said.items() if key not in PROVISIONED_KEYS},
        )

    def _cluster(self, one: demands.ClusterDemand, demand: Demand) -> ClusterFound:
        said = self._known(one.name)
        of_host = demands.roles(demand)
        masters = [name for name in one.hosts if of_host[name] == "master"]
        path = os.path.expanduser(str(said.get("kubeconfig", "")))
        return ClusterFound(one.name, one.name, one.installer, list(one.hosts), masters, path)


def _host_key_options(said: Mapping[str, Any], private: Path) -> list[str]:
    """Host keys are checked against the user's file or the one given; ``host_keys: accept-new`` learns the first."""
    learn = said.get("host_keys") == "accept-new"
    own = [f"UserKnownHostsFile={os.path.expanduser(str(said['known_hosts']))}"] if said.get("known_hosts") else []
    if learn and not own:
        own = [f"UserKnownHostsFile={private / 'known_hosts'}"]
    checking = f"StrictHostKeyChecking={'accept-new' if learn else 'yes'}"
    sockets = [f"ControlPath={private / '%C'}"]
    only = ["IdentitiesOnly=yes"] if said.get("key_file_path") or said.get("pem_key_string") else []
    # A host with a password is not asked for keys first: too many tries would end the connection.
    first = ["PubkeyAuthentication=no"] if said.get("password") else []
    return [word for option in (*own, checking, *sockets, *only, *first) for word in ("-o", option)]


def _secret(path: Path, text: str) -> Path:
    files.write(path, text, 0o600)
    return path


def _password(path: Path, text: str) -> Path:
    """The file of a password, beside it the program that ssh asks."""
    files.write(path.with_name(ASKPASS), '#!/bin/sh\nexec cat "$DEVENV_ASKPASS_FILE"\n', 0o700)
    return _secret(path, text + "\n")


def read_file(path: Path) -> Provisioned:
    """A file of machines, YAML or JSON: ``hosts`` by name and, where they are clusters, ``clusters``. Raises
    AllocationFailed with what is wrong, never with a value.
    """
    try:
        text = path.expanduser().read_text()
        data = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise AllocationFailed(f"{path}: cannot be read: {error}") from None
    except (yaml.YAMLError, ValueError):
        # The parser's text quotes the line at fault, which may hold a password.
        raise AllocationFailed(f"{path}: is neither YAML nor JSON") from None
    problems = []
    if not isinstance(data, dict) or not isinstance(data.get("hosts"), dict) or set(data) - {"hosts", "clusters"}:
        raise AllocationFailed(f"{path}: must have hosts by name, and may have clusters, and nothing else")
    for name, said in data["hosts"].items():
        problems += [f"hosts.{name}: {what}" for what in _host_problems(said)]
    clusters = data.get("clusters") or {}
    for name, said in clusters.items():
        if not isinstance(said, dict) or set(said) - set(_CLUSTER_KEYS):
            problems.append(f"clusters.{name}: must be a mapping of {', '.join(_CLUSTER_KEYS)}")
    if problems:
        raise AllocationFailed(f"{path}: {'; '.join(problems)}")
    return Provisioned(data["hosts"], clusters, str(path))


def _host_problems(said: Any) -> list[str]:
    if not isinstance(said, dict):
        return ["must be a mapping"]
    problems = [] if said.get("ip") or said.get("addresses") else ["ip is missing"]
    ways = [key for key in ("password", "key_file_path", "pem_key_string") if said.get(key)]
    if len(ways) > 1:
        problems.append(f"one of {', '.join(ways)}, not several")
    return problems
