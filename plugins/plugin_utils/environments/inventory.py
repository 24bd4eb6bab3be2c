"""From a resolved profile and the environment's network to hosts, groups and variables (docs/architecture.md)."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import re
import shlex
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import addresses, profile

# A Unix socket's path has 108 bytes with its final NUL; ssh binds to "<path>.<16 characters>" first; %C is 40 digits.
_SOCKET_LIMIT = 107
_SSH_SUFFIX = 17
_HASH = 40
_NO_ENDPOINT = {"devenv_endpoint_kind": "", "devenv_endpoint_addresses": [], "devenv_virtual_addresses": []}
_TEMPLATE = re.compile(r"\{\{|\{%|\{#")


def build(
    resolved: Mapping[str, Any], network: Mapping[str, Any] | None, state_dir: str | Path, name: str = ""
) -> dict[str, Any]:
    """``{"groups": {group: [host]}, "hosts": {host: variables}, "vars": variables of all}``.

    ``network`` is network.yml of the state folder, None before the provider has claimed: hosts then have no address.
    Nodes that ``network`` has and the profile has no longer are in the group ``leaving`` alone. ``name`` is the
    environment's, by default that of its state folder. Raises DevenvError nodes_too_many.
    """
    name = name or Path(state_dir).name
    state = Path(state_dir)
    claimed = network or {}
    families = resolved["families"]
    left = [_left(one, claimed["nodes"][one]) for one in addresses.leaving(resolved, network)]
    nodes = [*resolved["nodes"], *left]
    # Of a node that is not claimed, the index that the next claim will give.
    indexes = addresses.indexes([node["name"] for node in nodes], claimed)
    endpoints = _endpoints(resolved, claimed)
    hosts = {
        node["name"]: _host(node, resolved, claimed, indexes[node["name"]], state, name)
        | endpoints.get(node["cluster"], _NO_ENDPOINT)
        for node in nodes
    }
    return {
        "groups": {**_groups(resolved), "leaving": [node["name"] for node in left]},
        "hosts": hosts,
        "vars": {
            "devenv_name": name,
            "devenv_state": str(state),
            "devenv_profile": {key: value for key, value in resolved.items() if key != "nodes"},
            "devenv_provider": resolved["provider"],
            "devenv_engine": resolved["kubernetes"]["engine"],
            "devenv_engine_traits": _traits(resolved),
            "devenv_families": list(families),
            "devenv_addressing": resolved["addressing"],
            "devenv_kubernetes_version": resolved["kubernetes"]["version"],
            "devenv_bundle_parts": _bundle_parts(resolved),
            "devenv_pod_subnets": [resolved["network"]["pods"][family] for family in families],
            "devenv_service_subnets": [resolved["network"]["services"][family] for family in families],
            "devenv_api_service": _api_service(resolved),
            "devenv_gateways": [claimed["gateways"][one] for one in families if one in claimed.get("gateways", {})],
        },
    }


def _bundle_parts(resolved: Mapping[str, Any]) -> list[str]:
    """Optional parts of the bundle that the profile needs."""
    parts = {part for part in ("metrics", "storage") if resolved[part]["enabled"]}
    if any(check.get("command", [""])[0] == "helm" for check in resolved["validate"]["checks"]):
        parts.add("helm")
    return sorted(parts)


def _api_service(resolved: Mapping[str, Any]) -> str:
    """Address of the Service `kubernetes`: the first of the first range, as the API server takes it."""
    return str(ipaddress.ip_network(resolved["network"]["services"][resolved["families"][0]])[1])


def profile_of(variables: Mapping[str, Any]) -> dict[str, Any] | None:
    """The resolved profile that Ansible's variables of a task hold; None when no profile was given.

    ``devenv_profile`` is without nodes, since a listing repeats it for each host: what the profile says
    of a node stands in the node's own variables.
    """
    if "devenv_profile" not in variables:
        return None
    # Values of ansible are its own subclasses, lazily templated, which a YAML dumper does not know.
    resolved: dict[str, Any] = json.loads(json.dumps(variables["devenv_profile"]))
    if "nodes" not in resolved:
        hostvars = variables["hostvars"]
        names = variables.get("groups", {}).get("nodes", [])
        resolved["nodes"] = [json.loads(json.dumps(_profile_node(name, hostvars[name]))) for name in names]
    return resolved


def _profile_node(name: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("cpus", "memory", "disk", "labels", "taints", "schedulable")
    return {
        "name": name,
        "group": variables["devenv_group"],
        "cluster": variables["devenv_cluster"] or None,
        **{key: variables[f"devenv_{key}"] for key in keys},
        **({"node_type": variables["devenv_node_type"]} if "devenv_node_type" in variables else {}),
        **({"host": variables["devenv_host"]} if "devenv_host" in variables else {}),
    }


def to_yaml(inventory: Mapping[str, Any]) -> str:
    """A static inventory for ``ansible -i FILE.yml``. Text that looks like a template is marked unsafe."""
    tree = {
        "all": {
            "vars": _guarded(inventory["vars"]),
            "hosts": _guarded(inventory["hosts"]),
            "children": {group: {"hosts": dict.fromkeys(hosts, None)} for group, hosts in inventory["groups"].items()},
        }
    }
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=1000, explicit_start=True)


def to_json(inventory: Mapping[str, Any]) -> dict[str, Any]:
    """The shape of ``ansible-inventory --list``: variables of all hosts repeated in each."""
    common = inventory["vars"]
    listed: dict[str, Any] = {
        "_meta": {"hostvars": {host: {**common, **own} for host, own in inventory["hosts"].items()}},
        "all": {"children": ["ungrouped", *inventory["groups"]]},
    }
    return listed | {group: {"hosts": list(hosts)} for group, hosts in inventory["groups"].items()}


# --- ssh -------------------------------------------------------------------------------------------------------------


def control_path(state_dir: str | Path) -> str:
    """ssh's ControlPath: ``<state>/ssh/cp/%C``, or in a short folder of /tmp where a socket's name would be too long.

    The short one follows from the user and the state folder alone, so that every run finds the masters of the last.
    A ``%`` in the state folder's own name is doubled, as ssh wants it.
    """
    return f"{str(_control_folder(Path(state_dir))).replace('%', '%%')}/%C"


def prepare_control_folder(state_dir: str | Path) -> Path:
    """Make the folder of control_path, private to the user, if it is not there (ssh does not).

    The state folder must be there. Raises DevenvError ssh_folder when someone else owns it or others may enter.
    """
    folder = _control_folder(Path(state_dir))
    for part in (folder.parent, folder):
        part.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise DevenvError("ssh_folder", "is not a folder that only you may enter", where=str(folder))
    return folder


def ssh_common_args(state_dir: str | Path, known_hosts: Path | None = None, *, only_key: bool = True) -> str:
    """Options of ssh for a node of the environment, quoted for a shell: known_hosts (its own unless given), checking
    on, own sockets; ``only_key``: no other key than the one given is tried.
    """
    known = str(known_hosts or Path(state_dir) / "ssh" / "known_hosts").replace("%", "%%")
    options = [
        f"UserKnownHostsFile={_ssh_word(known)}",
        "StrictHostKeyChecking=yes",
        *(["IdentitiesOnly=yes"] if only_key else []),
        f"ControlPath={_ssh_word(control_path(state_dir))}",
    ]
    return " ".join(f"-o {shlex.quote(option)}" for option in options)


def _control_folder(state: Path) -> Path:
    own = state / "ssh" / "cp"
    if len(os.fsencode(own)) + 1 + _HASH + _SSH_SUFFIX <= _SOCKET_LIMIT:
        return own
    digest = hashlib.sha256(os.fsencode(state)).hexdigest()[:16]
    return Path("/tmp") / f"devenv-{os.getuid()}-{digest}"


def _ssh_word(text: str) -> str:
    """A value in ssh's own configuration syntax, where blanks part words and quotes and backslashes mean something."""
    if not re.search(r"[\s'\"\\]", text):
        return text
    quoted = re.sub(r'(["\\])', r"\\\1", text)
    return f'"{quoted}"'


# --- parts -----------------------------------------------------------------------------------------------------------


def _host(
    node: Mapping[str, Any], resolved: Mapping[str, Any], network: Mapping[str, Any], index: int, state: Path, name: str
) -> dict[str, Any]:
    families = resolved["families"]
    claimed = network.get("nodes", {}).get(node["name"])
    own = [claimed["addresses"][family] for family in families] if claimed else []
    variables: dict[str, Any] = {"ansible_host": own[0]} if own else {}
    host = node.get("host") or {}
    cluster = node["cluster"] or ""
    return variables | {
        **(
            _existing(host, state)
            if host
            else {
                "ansible_user": "root",
                "ansible_ssh_private_key_file": str(state / "ssh" / "id_ed25519"),
                "ansible_ssh_common_args": ssh_common_args(state),
            }
        ),
        "ansible_python_interpreter": "/usr/bin/python3",
        "devenv_group": node["group"],
        "devenv_cluster": cluster,
        "devenv_index": index,
        "devenv_mac": claimed["mac"] if claimed else "",
        "devenv_addresses": own,
        "devenv_prefixes": [_prefix(network, resolved, family) for family in families],
        "devenv_pod_cidrs": _pod_cidrs(resolved, index),
        "devenv_labels": dict(node["labels"]),
        "devenv_taints": list(node["taints"]),
        "devenv_schedulable": node["schedulable"],
        "devenv_cpus": node["cpus"],
        "devenv_memory": node["memory"],
        "devenv_disk": node["disk"],
        **({"devenv_node_type": node["node_type"]} if "node_type" in node else {}),
        "devenv_endpoint": f"{cluster}.{name}.devenv.internal" if cluster else "",
        "devenv_kubeconfig": str(state / "clusters" / cluster / "kubeconfig") if cluster else "",
    }


def _traits(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """What playbooks decide by instead of an engine's name."""
    traits = profile.engine_traits(resolved["kubernetes"]["engine"])
    return {key: traits[key] for key in ("brings", "preflight")}


def _pod_cidrs(resolved: Mapping[str, Any], index: int) -> list[str]:
    """Empty where the engine gives out the ranges itself."""
    if profile.engine_traits(resolved["kubernetes"]["engine"])["pod_ranges"] == "own":
        return []
    return [addresses.pod_cidr(resolved["network"]["pods"][family], index) for family in resolved["families"]]


def _existing(host: Mapping[str, Any], state: Path) -> dict[str, Any]:
    """Connection of a host that is not of our making: with its user's key and known_hosts."""
    known = host["known_hosts"] or "~/.ssh/known_hosts"
    key = str(Path(host["key_file"]).expanduser()) if host["key_file"] else ""
    variables: dict[str, Any] = {
        "ansible_host": host["addresses"][0],
        "ansible_user": host["user"],
        "ansible_port": host["port"],
        "ansible_ssh_common_args": ssh_common_args(state, Path(known).expanduser(), only_key=bool(key)),
        "devenv_host": dict(host),
    }
    if key:
        variables["ansible_ssh_private_key_file"] = key
    if host["become"]:
        variables["ansible_become"] = True
    return variables


def _left(name: str, claimed: Mapping[str, Any]) -> dict[str, Any]:
    """A node that only network.yml has, as the profile would have it: enough to take it out of its cluster."""
    return {
        "name": name,
        "group": claimed.get("group", ""),
        "cluster": claimed.get("cluster"),
        "labels": {},
        "taints": [],
        "schedulable": False,
        "cpus": 0,
        "memory": 0,
        "disk": 0,
        **({"host": claimed["host"]} if "host" in claimed else {}),
    }


def _endpoints(resolved: Mapping[str, Any], network: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Of each cluster the variables that say what its endpoint's name stands for; no address before the claim."""
    families = resolved["families"]
    found = {}
    for cluster, one in resolved["clusters"].items():
        reserved = network.get("clusters", {}).get(cluster, {}).get("virtual", {})
        virtual = [reserved[family] for family in families if family in reserved]
        kind = one["endpoint"]["kind"]
        own = {"virtual": virtual, "external": list(one["endpoint"]["addresses"])}
        found[cluster] = {
            "devenv_endpoint_kind": kind,
            "devenv_endpoint_addresses": own[kind] if kind in own else _first_master(cluster, resolved, network),
            "devenv_virtual_addresses": virtual,
        }
    return found


def _first_master(cluster: str, resolved: Mapping[str, Any], network: Mapping[str, Any]) -> list[str]:
    """Addresses of the first control plane node that is claimed."""
    for node in resolved["nodes"]:
        claimed = network.get("nodes", {}).get(node["name"])
        if claimed and node["cluster"] == cluster and node["group"] == "control_plane":
            return [claimed["addresses"][family] for family in resolved["families"]]
    return []


def _prefix(network: Mapping[str, Any], resolved: Mapping[str, Any], family: str) -> int:
    subnet = network.get("subnets", {}).get(family)
    return ipaddress.ip_network(subnet).prefixlen if subnet else addresses.prefixes(resolved["network"])[family]


def _groups(resolved: Mapping[str, Any]) -> dict[str, list[str]]:
    """Groups of the profile's nodes. A bare node is in ``nodes`` and ``bare`` only: nothing of a cluster is for it."""
    groups: dict[str, list[str]] = {"nodes": [], "control_plane": [], "workers": [], "bare": []}
    groups |= {f"cluster_{_word(cluster)}": [] for cluster in resolved["clusters"]}
    for node in resolved["nodes"]:
        labels = sorted({f"label_{_word(key)}" for key in node["labels"]})
        own = [node["group"], f"cluster_{_word(node['cluster'])}", *labels] if node["cluster"] else ["bare"]
        for group in ("nodes", *own):
            groups.setdefault(group, []).append(node["name"])
    return groups


def _word(text: str) -> str:
    """``text`` as a part of a group's name: letters, digits and ``_``."""
    return re.sub(r"[^A-Za-z0-9_]", "_", text)


class _Unsafe(str):
    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(_Unsafe, lambda dumper, data: dumper.represent_scalar("!unsafe", str(data), style="'"))


def _guarded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _guarded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_guarded(inner) for inner in value]
    return _Unsafe(value) if isinstance(value, str) and _TEMPLATE.search(value) else value
