"""Machines from a file (docs/testing.md)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import data as yaml_data
from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, program

from devenv.testing.allocators import base
from devenv.testing.demand import Demand
from devenv.testing.errors import AllocationFailed
from devenv.testing.objects import BaseConfig, Cluster, Host, Named
from devenv.testing.plugins.ssh import ASKPASS

# Keys of a host; a test gets all others as ``extra_config``.
HOST_KEYS = (
    "ip", "addresses", "user", "password", "key_file_path", "pem_key_string", "port", "known_hosts", "host_keys",
    "ssh_config",
    "alias", "vm_id", "resource_manager_ep", "tunnelport",
)  # fmt: skip
_CLUSTER_KEYS = ("hosts", "kubeconfig", "masters")


@dataclass(frozen=True)
class Provisioned:
    """Machines and clusters with the keys of the file ``source``, by name."""

    hosts: Mapping[str, Mapping[str, Any]]
    clusters: Mapping[str, Mapping[str, Any]]
    source: str

    def allocation(self, demand: Demand, private: Path) -> BaseConfig:
        """Return the machines for the demand; secrets go to the folder ``private``. Raises AllocationFailed."""
        machines = base.pair([host.name for host in demand.hosts], list(self.hosts))
        hosts = {host.name: self._host(host.name, machines[host.name], demand, private) for host in demand.hosts}
        clusters = []
        for cluster in demand.clusters:
            members = Named({name: hosts[name] for name in cluster.hosts})
            masters = tuple(name for name in members if demand.roles[name] == "master")
            path = self._cluster(cluster.name).get("kubeconfig")
            kubeconfig = Path(str(path)).expanduser() if path else None
            clusters.append(Cluster(cluster.name, cluster.installer, members, masters, kubeconfig))
        return BaseConfig("", hosts.values(), clusters)

    def has_clusters(self, demand: Demand) -> bool:
        """Return whether the file has a kubeconfig for every cluster of the demand."""
        return all(self._cluster(cluster.name).get("kubeconfig") for cluster in demand.clusters)

    def for_profile(self) -> dict[str, dict[str, Any]]:
        """Return the machines as hosts of a profile of the provider ``existing``.

        Raises AllocationFailed for a machine with a password or a key text, which Ansible cannot use.
        """
        hosts = {}
        for name, keys in self.hosts.items():
            if keys.get("password") or keys.get("pem_key_string"):
                raise AllocationFailed(
                    f"{self.source}: hosts.{name}: --install needs a key_file_path instead of a password or key text"
                )
            user = str(keys.get("user", "root"))
            addresses = list(keys.get("addresses") or [keys["ip"]])
            names = {"key_file": "key_file_path", **{key: key for key in ("known_hosts", "port", "ssh_config")}}
            optional = {key: keys[name] for key, name in names.items() if keys.get(name)}
            hosts[name] = {"addresses": addresses, "user": user, "become": user != "root", **optional}
        return hosts

    def with_key_files(self, private: Path) -> Provisioned:
        """Return the machines with key texts as files, and with the host keys that they present now.

        For machines that were created a moment ago, whose host keys are not known yet.
        """
        hosts = {}
        for name, keys in self.hosts.items():
            host = {key: value for key, value in keys.items() if key not in ("pem_key_string", "host_keys")}
            host["key_file_path"] = _key_file(keys, private / f"{name}.key")
            scan = ["ssh-keyscan", "-p", str(keys.get("port", 22)), str(keys["ip"])]
            host_keys = program.run(scan, timeout=60, check=False).stdout
            host["known_hosts"] = _secret(private / f"{name}.known_hosts", host_keys)
            hosts[name] = host
        return replace(self, hosts=hosts)

    def _cluster(self, name: str) -> Mapping[str, Any]:
        """Return the keys of a cluster: of its name, or of the only one."""
        if name in self.clusters:
            return self.clusters[name]
        return next(iter(self.clusters.values())) if len(self.clusters) == 1 else {}

    def _host(self, name: str, machine: str, demand: Demand, private: Path) -> Host:
        keys = self.hosts[machine]
        cluster = demand.cluster_of(name)
        return Host(
            name=name,
            node=machine,
            addresses=tuple(str(address) for address in keys.get("addresses") or [keys["ip"]]),
            user=str(keys.get("user", "root")),
            port=int(keys.get("port", 22)),
            key_file_path=os.path.expanduser(_key_file(keys, private / f"{machine}.key")),
            password_file=_password_file(keys, private / f"{machine}.password"),
            ssh_options=tuple(_ssh_options(keys, private)),
            cluster=cluster.name if cluster else "",
            vm_id=str(keys.get("vm_id", "")),
            resource_manager_ep=str(keys.get("resource_manager_ep", "")),
            extra_config={key: value for key, value in keys.items() if key not in HOST_KEYS},
        )


def _ssh_options(keys: Mapping[str, Any], private: Path) -> list[str]:
    """Host keys are checked against the user's file or the given one; ``host_keys: accept-new`` accepts the first. ssh
    reads its configuration only with ``ssh_config: true``.
    """
    accept_new = keys.get("host_keys") == "accept-new"
    options = [f"StrictHostKeyChecking={'accept-new' if accept_new else 'yes'}", f"ControlPath={private / '%C'}"]
    if keys.get("known_hosts"):
        options.append(f"UserKnownHostsFile={os.path.expanduser(str(keys['known_hosts']))}")
    elif accept_new:
        options.append(f"UserKnownHostsFile={private / 'known_hosts'}")
    if keys.get("key_file_path") or keys.get("pem_key_string"):
        options.append("IdentitiesOnly=yes")
    if keys.get("password"):
        # Too many keys before the password would end the connection.
        options.append("PubkeyAuthentication=no")
    first = [] if keys.get("ssh_config") else ["-F", "none"]
    return [*first, *(word for option in options for word in ("-o", option))]


def _secret(path: Path, text: str) -> str:
    files.write(path, text, 0o600)
    return str(path)


def _key_file(keys: Mapping[str, Any], path: Path) -> str:
    """Return the key file of a machine; a key text is written to ``path``."""
    if text := keys.get("pem_key_string"):
        return _secret(path, str(text).rstrip("\n") + "\n")
    return str(keys.get("key_file_path") or "")


def _password_file(keys: Mapping[str, Any], path: Path) -> str:
    """Write the password to ``path`` and next to it the program from which ssh gets it; empty without a password."""
    if not keys.get("password"):
        return ""
    files.write(path.with_name(ASKPASS), '#!/bin/sh\nexec cat "$DEVENV_ASKPASS_FILE"\n', 0o700)
    return _secret(path, f"{keys['password']}\n")


def read_file(path: Path) -> Provisioned:
    """Read a YAML or JSON file with ``hosts`` by name and optionally ``clusters``.

    Raises AllocationFailed with the mistakes; messages never contain a value.
    """
    try:
        text = path.expanduser().read_text()
        data = json.loads(text) if path.suffix == ".json" else yaml.load(text, Loader=yaml_data.PlainLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise AllocationFailed(f"{path}: cannot be read: {error}") from None
    except (yaml.YAMLError, ValueError):
        # The parser's message quotes the line at fault, which may contain a password.
        raise AllocationFailed(f"{path}: is neither YAML nor JSON") from None
    if not isinstance(data, dict) or not isinstance(data.get("hosts"), dict) or set(data) - {"hosts", "clusters"}:
        raise AllocationFailed(f"{path}: must have hosts by name and may have clusters, but nothing else")
    problems = [f"hosts.{name}: {problem}" for name, keys in data["hosts"].items() for problem in _host_problems(keys)]
    clusters = data.get("clusters") or {}
    for name, keys in clusters.items():
        if not isinstance(keys, dict) or set(keys) - set(_CLUSTER_KEYS):
            problems.append(f"clusters.{name}: must be a mapping of {', '.join(_CLUSTER_KEYS)}")
    if problems:
        raise AllocationFailed(f"{path}: {'; '.join(problems)}")
    return Provisioned(data["hosts"], clusters, str(path))


def _host_problems(keys: Any) -> list[str]:
    if not isinstance(keys, dict):
        return ["must be a mapping"]
    problems = [] if keys.get("ip") or keys.get("addresses") else ["ip is missing"]
    credentials = [key for key in ("password", "key_file_path", "pem_key_string") if keys.get(key)]
    if len(credentials) > 1:
        problems.append(f"{', '.join(credentials)}: use only one of them")
    if not re.fullmatch(r"[1-9][0-9]{0,4}", str(keys.get("port", 22))):
        problems.append("port: must be a whole number in decimal")
    return problems
