"""Build hosts, groups, variables from a resolved profile and the environment's network (docs/design/inventory.md)."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import network_plan, ssh_options
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.types import (
    CommonVariables,
    EndpointVariables,
    HostVariables,
    Inventory,
    NetworkPlan,
    PlannedNode,
)
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import addresses, engines
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import (
    ExistingHost,
    Node,
    Profile,
    ProfileSettings,
)

_NO_ENDPOINT: EndpointVariables = {
    "devenv_endpoint_kind": "",
    "devenv_endpoint_addresses": [],
    "devenv_virtual_addresses": [],
    "devenv_endpoint_names": [],
}
_TEMPLATE = re.compile(r"\{\{|\{%|\{#")


@dataclass(frozen=True)
class _Environment:
    name: str
    state: Path
    profile: Profile
    plan: NetworkPlan


def build(
    profile: Profile,
    network: NetworkPlan | None,
    state_dir: str | Path,
    name: str = "",
    variables: Mapping[str, Any] = MappingProxyType({}),
) -> Inventory:
    """Return the inventory of an environment.

    ``network`` is network.yml of the state directory, or None before the provider's first claim: hosts then have no
    address. Nodes that are in ``network`` and no longer in the profile are only in the group ``leaving``. ``name`` is
    the environment's name, by default that of its state directory. ``variables`` are role variables for all hosts (see
    variables/kept.py). Raises DevenvError nodes_too_many.
    """
    state = Path(state_dir)
    here = _Environment(name or state.name, state, profile, network or network_plan.EMPTY)
    leaving = [_leaving(node, here.plan["nodes"][node]) for node in network_plan.leaving(profile, network)]
    nodes = [*profile["nodes"], *leaving]
    # An unclaimed node has the index that the next claim will give it.
    indexes = network_plan.indexes([node["name"] for node in nodes], here.plan)
    return {
        "groups": {**_groups(profile), "leaving": [node["name"] for node in leaving]},
        "hosts": {node["name"]: _host(node, indexes[node["name"]], here) for node in nodes},
        "vars": cast(CommonVariables, {**_common(here), **variables}),
    }


def state_folder(variables: Mapping[str, Any]) -> Path:
    """Return the environment's state directory from Ansible's variables of a task."""
    return Path(str(variables["devenv_state"]))


def required_profile(variables: Mapping[str, Any]) -> Profile:
    """Return `profile_of`. Raises DevenvError profile_not_given if no profile was given."""
    profile = profile_of(variables)
    if profile is None:
        raise DevenvError("profile_not_given", "no profile was given")
    return profile


def profile_of(variables: Mapping[str, Any]) -> Profile | None:
    """Return the resolved profile in Ansible's variables of a task; None if no profile was given.

    ``devenv_profile`` has no nodes, because a listing repeats it for each host: the nodes are restored from their own
    variables.
    """
    if "devenv_profile" not in variables:
        return None
    # Ansible's values are lazily templated subclasses, which a YAML dumper does not support.
    resolved: Profile = json.loads(json.dumps(variables["devenv_profile"]))
    if "nodes" not in resolved:
        hostvars = variables["hostvars"]
        names = variables.get("groups", {}).get("nodes", [])
        resolved["nodes"] = [json.loads(json.dumps(_profile_node(name, hostvars[name]))) for name in names]
    return resolved


def to_yaml(inventory: Inventory) -> str:
    """Return a static inventory for ``ansible -i FILE.yml``. Text that looks like a template is marked unsafe."""
    tree = {
        "all": {
            "vars": _guarded(inventory["vars"]),
            "hosts": _guarded(inventory["hosts"]),
            "children": {group: {"hosts": dict.fromkeys(hosts, None)} for group, hosts in inventory["groups"].items()},
        }
    }
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=1000, explicit_start=True)


def to_json(inventory: Inventory) -> dict[str, Any]:
    """Return the form of ``ansible-inventory --list``, with the variables of all hosts repeated in each."""
    common = inventory["vars"]
    listed: dict[str, Any] = {
        "_meta": {"hostvars": {host: {**common, **variables} for host, variables in inventory["hosts"].items()}},
        "all": {"children": ["ungrouped", *inventory["groups"]]},
    }
    return listed | {group: {"hosts": list(hosts)} for group, hosts in inventory["groups"].items()}


# --- parts -----------------------------------------------------------------------------------------------------------


def _common(here: _Environment) -> CommonVariables:
    profile, plan = here.profile, here.plan
    families, network = profile["families"], profile["network"]
    traits = engines.traits(profile["kubernetes"]["engine"])
    base_images = sorted({node["base_image"] for node in profile["nodes"] if "base_image" in node})
    settings: ProfileSettings = {key: value for key, value in profile.items() if key != "nodes"}  # type: ignore[assignment]
    common: CommonVariables = {
        "devenv_name": here.name,
        "devenv_state": str(here.state),
        "devenv_profile": settings,
        "devenv_provider": profile["provider"],
        "devenv_engine": profile["kubernetes"]["engine"],
        # Playbooks decide by these, not by the engine's name.
        "devenv_engine_traits": {"brings": traits["brings"], "preflight": traits["preflight"]},
        "devenv_families": list(families),
        "devenv_addressing": profile["addressing"],
        "devenv_kubernetes_version": profile["kubernetes"]["version"],
        "devenv_bundle_parts": _bundle_parts(profile),
        "devenv_pod_subnets": [network["pods"][family] for family in families],
        "devenv_service_subnets": [network["services"][family] for family in families],
        # Address of the Service `kubernetes`: the API server uses the first of the first range.
        "devenv_api_service": str(ipaddress.ip_network(network["services"][families[0]])[1]),
        "devenv_gateways": [plan["gateways"][family] for family in families if family in plan["gateways"]],
    }
    if base_images:
        common["devenv_base_images"] = base_images
    return common


def _bundle_parts(profile: Profile) -> list[str]:
    """Return the optional parts of the bundle that the profile needs."""
    parts = {"metrics"} if profile["metrics"]["enabled"] else set()
    if profile["storage"]["enabled"]:
        parts.add("storage")
    if any(check["command"][0] == "helm" for check in profile["validate"]["checks"]):
        parts.add("helm")
    return sorted(parts)


def _host(node: Node, index: int, here: _Environment) -> HostVariables:
    profile, families, cluster = here.profile, here.profile["families"], node["cluster"] or ""
    claimed = here.plan["nodes"].get(node["name"])
    node_addresses = [claimed["addresses"][family] for family in families] if claimed else []
    endpoint = _endpoint(cluster, here) if cluster in profile["clusters"] else _NO_ENDPOINT
    variables: HostVariables = {
        "devenv_endpoint_kind": endpoint["devenv_endpoint_kind"],
        "devenv_endpoint_addresses": endpoint["devenv_endpoint_addresses"],
        "devenv_virtual_addresses": endpoint["devenv_virtual_addresses"],
        "ansible_connection": "ssh",
        "devenv_endpoint_names": endpoint["devenv_endpoint_names"],
        "ansible_user": "root",
        "ansible_port": 22,
        "ansible_ssh_args": ssh_options.FIRST_ARGS,
        "ansible_ssh_common_args": ssh_options.common_args(here.state),
        "ansible_python_interpreter": "/usr/bin/python3",
        "devenv_group": node["group"],
        "devenv_cluster": cluster,
        "devenv_index": index,
        "devenv_mac": claimed["mac"] if claimed else "",
        "devenv_addresses": node_addresses,
        "devenv_prefixes": [_prefix(family, here) for family in families],
        "devenv_pod_cidrs": _pod_cidrs(profile, index),
        "devenv_labels": dict(node["labels"]),
        "devenv_taints": list(node["taints"]),
        "devenv_schedulable": node["schedulable"],
        "devenv_cpus": node["cpus"],
        "devenv_memory": node["memory"],
        "devenv_disk": node["disk"],
        "devenv_endpoint": f"{cluster}.{here.name}.devenv.internal" if cluster else "",
        "devenv_kubeconfig": str(here.state / "clusters" / cluster / "kubeconfig") if cluster else "",
    }
    if "node_type" in node:
        variables["devenv_node_type"] = node["node_type"]
    if "image" in node:
        variables["devenv_image"] = node["image"]
    if "base_image" in node:
        variables["devenv_base_image"] = node["base_image"]
    if "host" in node:
        variables["devenv_host"] = {**node["host"]}
        _connect_to_host(variables, node["host"], here.state)
        return variables
    variables["ansible_ssh_private_key_file"] = ssh_options.key_path(here.state / "ssh" / "id_ed25519")
    if node_addresses:
        variables["ansible_host"] = node_addresses[0]
    return variables


def _connect_to_host(variables: HostVariables, host: ExistingHost, state: Path) -> None:
    """Set the connection to an existing host: with its user's key and known_hosts."""
    known = Path(host["known_hosts"] or "~/.ssh/known_hosts").expanduser()
    variables["ansible_host"] = host["addresses"][0]
    variables["ansible_user"] = host["user"]
    variables["ansible_port"] = host["port"]
    variables["ansible_ssh_common_args"] = ssh_options.common_args(
        state, known, only_key=bool(host["key_file"]), user_config=host.get("ssh_config", False)
    )
    # Without a file, ssh uses its default keys and the agent: an empty text overrides Ansible's own default.
    variables["ansible_ssh_private_key_file"] = (
        ssh_options.key_path(Path(host["key_file"]).expanduser()) if host["key_file"] else ""
    )
    if host["become"]:
        variables["ansible_become"] = True


def _profile_node(name: str, variables: Mapping[str, Any]) -> Node:
    # devenv_name is the environment's name.
    keys = [key for key in Node.__annotations__ if key != "name" and f"devenv_{key}" in variables]
    node = {key: variables[f"devenv_{key}"] for key in keys}
    return cast(Node, {"name": name, **node, "cluster": node["cluster"] or None})


def _pod_cidrs(profile: Profile, index: int) -> list[str]:
    """Return the node's pod ranges; none if the engine allocates them."""
    if engines.traits(profile["kubernetes"]["engine"])["pod_ranges"] == "own":
        return []
    return [addresses.pod_cidr(profile["network"]["pods"][family], index) for family in profile["families"]]


def _leaving(name: str, claimed: PlannedNode) -> Node:
    """Return a node that is only in network.yml, with the values needed to remove it from its cluster."""
    node: Node = {
        "name": name,
        "group": claimed.get("group", ""),
        "cluster": claimed.get("cluster"),
        "labels": {},
        "taints": [],
        "schedulable": False,
        "cpus": 0,
        "memory": 0,
        "disk": 0,
    }
    if "host" in claimed:
        node["host"] = claimed["host"]
    return node


def _endpoint(cluster: str, here: _Environment) -> EndpointVariables:
    """Return the endpoint of a cluster; without addresses before the claim."""
    profile, plan = here.profile, here.plan
    endpoint = profile["clusters"][cluster]["endpoint"]
    reserved = plan["clusters"][cluster]["virtual"] if cluster in plan["clusters"] else {}
    virtual = [reserved[family] for family in profile["families"] if family in reserved]
    kind = endpoint["kind"]
    targets = {"virtual": virtual, "external": list(endpoint["addresses"])}
    return {
        "devenv_endpoint_kind": kind,
        "devenv_endpoint_addresses": targets[kind] if kind in targets else _first_master(cluster, here),
        "devenv_virtual_addresses": virtual,
        "devenv_endpoint_names": list(endpoint.get("names", [])),
    }


def _first_master(cluster: str, here: _Environment) -> list[str]:
    """Return the addresses of the first claimed control plane node."""
    for node in here.profile["nodes"]:
        claimed = here.plan["nodes"].get(node["name"])
        if claimed and node["cluster"] == cluster and node["group"] == "control_plane":
            return [claimed["addresses"][family] for family in here.profile["families"]]
    return []


def _prefix(family: str, here: _Environment) -> int:
    subnet = here.plan["subnets"].get(family)
    return ipaddress.ip_network(subnet).prefixlen if subnet else addresses.prefixes(here.profile["network"])[family]


def _groups(profile: Profile) -> dict[str, list[str]]:
    """Return the groups of the profile's nodes. A bare node is only in ``nodes`` and ``bare``."""
    groups: dict[str, list[str]] = {"nodes": [], "control_plane": [], "workers": [], "bare": []}
    groups |= {f"cluster_{_word(cluster)}": [] for cluster in profile["clusters"]}
    for node in profile["nodes"]:
        labels = sorted({f"label_{_word(key)}" for key in node["labels"]})
        member = [node["group"], f"cluster_{_word(node['cluster'])}", *labels] if node["cluster"] else ["bare"]
        for group in ("nodes", *member):
            groups.setdefault(group, []).append(node["name"])
    return groups


def _word(text: str) -> str:
    """Replace everything but letters, digits and ``_``, which a group's name can have."""
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
