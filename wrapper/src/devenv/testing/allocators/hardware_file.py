"""Machines that a file lists (docs/testing.md)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, program

from devenv.testing import demand_profile
from devenv.testing.allocators import base
from devenv.testing.allocators.allocation import Allocation, ClusterFound, HostFound
from devenv.testing.demand import ClusterDemand, Demand
from devenv.testing.errors import AllocationFailed
from devenv.testing.plugins.ssh import ASKPASS

PROVISIONED_KEYS = (
    "ip", "addresses", "user", "password", "key_file_path", "pem_key_string", "port", "known_hosts", "host_keys",
    "alias",    "vm_id", "resource_manager_ep", "tunnelport",
)  # fmt: skip
_CLUSTER_KEYS = ("hosts", "kubeconfig", "masters")


@dataclass(frozen=True)
class Provisioned:
    """Machines that a file lists (docs/testing.md). ``private``: a folder for secrets that the file holds."""

    hosts: Mapping[str, Mapping[str, Any]]
    clusters: Mapping[str, Mapping[str, Any]]
    source: str

    def allocation(self, demand: Demand, private: Path) -> Allocation:
        """The machines for the demand. Raises AllocationFailed."""
        places = base.pair([host.name for host in demand.hosts], list(self.hosts))
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
            shown = program.run(scan, timeout=60, check=False).stdout
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

    def _cluster(self, one: ClusterDemand, demand: Demand) -> ClusterFound:
        said = self._known(one.name)
        of_host = demand_profile.roles(demand)
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
