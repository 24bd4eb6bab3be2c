"""Rules for profiles that the schema cannot express: one function per rule, in the order of the checks."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Iterator, Sequence

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import addresses, data, engines, provider_traits
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.checks import keys
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.data import GROUPS
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.draft import Draft, group
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile

# Prefix lengths that Kubernetes allows for Services.
_SERVICE_PREFIXES = {"ipv4": (12, 28), "ipv6": (108, 124)}


def check(draft: Draft) -> None:
    """Raise DevenvError for the first rule that ``draft`` breaks."""
    for rule in RULES:
        for text in rule(draft):
            raise DevenvError("profile_invalid", text)


# --- kubernetes, checks ----------------------------------------------------------------------------------------------


def _version_is_known(draft: Draft) -> Iterator[str]:
    version = draft.settings["kubernetes"]["version"]
    if version not in draft.versions:
        yield f"kubernetes.version: {json.dumps(version)} is not known; allowed: {', '.join(draft.versions)}"


def _checks_have_different_names(draft: Draft) -> Iterator[str]:
    names = [check["name"] for check in draft.settings["validate"]["checks"]]
    for place, name in enumerate(names):
        if name in names[:place]:
            yield f"validate.checks[{place}].name: duplicate name {name}"


# --- nodes -----------------------------------------------------------------------------------------------------------


def _workers_are_schedulable(draft: Draft) -> Iterator[str]:
    for name in draft.nodes:
        if group(name) == "workers" and draft.named[name].get("schedulable") is False:
            yield f"nodes.{name}.schedulable: only a control plane node can have false; give a worker a taint"


def _nodes_are_large_enough(draft: Draft) -> Iterator[str]:
    for name, node in draft.nodes.items():
        sizes = engines.group_of(group(name), draft.engine)["least"]
        for key, size in (("memory", sizes["memory"]), ("disk", sizes["disk"])):
            least = data.parse_quantity(size)
            if data.parse_quantity(node[key]) < least:
                yield f"nodes.{name}.{key}: must be at least {least >> 20}MiB, is {node[key]}"


def _nodes_have_one_image(draft: Draft) -> Iterator[str]:
    for name, node in draft.nodes.items():
        if node.get("image") and node.get("base_image"):
            yield f"nodes.{name}.base_image: the node has the image {node['image']} already"


def _taints_have_different_keys(draft: Draft) -> Iterator[str]:
    for name, node in draft.nodes.items():
        # Kubernetes allows only one value per key and effect.
        taints = [taint.rsplit(":", 1) for taint in node["taints"]]
        pairs = [f"{key.partition('=')[0]}:{effect}" for key, effect in taints]
        for place, pair in enumerate(pairs):
            if pair in pairs[:place]:
                yield f"nodes.{name}.taints: duplicate key and effect {pair}"


def _a_node_remains(draft: Draft) -> Iterator[str]:
    if not draft.nodes:
        yield "nodes: no node remains"


def _numbers_have_no_gap(draft: Draft) -> Iterator[str]:
    for prefix in GROUPS:
        numbers = sorted(int(name.rpartition("-")[2]) for name in draft.named if name.startswith(f"{prefix}-"))
        for place, number in enumerate(numbers):
            if number != place:
                template = f"topology {draft.topology} has {', '.join(draft.template) or 'no nodes'}"
                yield f"nodes.{prefix}-{number}: {template}; the next {prefix} to add is {prefix}-{place}"


def _every_node_has_addresses(draft: Draft) -> Iterator[str]:
    network, last = draft.settings["network"], len(draft.nodes) - 1
    for family in draft.families:
        addresses.check_place(network["node_prefix"], family, last)
        addresses.pod_cidr(network["pods"][family], last)
    yield from ()


# --- clusters --------------------------------------------------------------------------------------------------------


def _clusters_of_nodes_are_listed(draft: Draft) -> Iterator[str]:
    allowed = ", ".join([*(name for name, spec in draft.listed.items() if spec is not None), "null"])
    for name, node in draft.nodes.items():
        if node["cluster"] is not None and node["cluster"] not in draft.clusters:
            yield f"nodes.{name}.cluster: {json.dumps(node['cluster'])} is not under clusters; allowed: {allowed}"


def _clusters_are_few(draft: Draft) -> Iterator[str]:
    if len(draft.clusters) > addresses.LARGEST_CLUSTERS:
        yield f"clusters: at most {addresses.LARGEST_CLUSTERS} are possible, the profile has {len(draft.clusters)}"


def _clusters_have_a_control_plane(draft: Draft) -> Iterator[str]:
    for name in draft.clusters:
        groups = draft.groups(name)
        if not groups:
            yield f"clusters.{name}: no node belongs to it"
        if "control_plane" not in groups:
            yield f"clusters.{name}: has no control plane node (master-N)"


def _endpoints_have_the_addresses_they_need(draft: Draft) -> Iterator[str]:
    for name, cluster in draft.clusters.items():
        path, given = f"clusters.{name}.endpoint.addresses", cluster["endpoint"]["addresses"]
        kind = draft.endpoint_kind(name)
        # The environment's own network has a reserved address for a virtual endpoint.
        if kind == "node" or (kind == "virtual" and not draft.has_hosts):
            if given:
                yield f"{path}: only kind external has addresses, not {cluster['endpoint']['kind']}"
            continue
        if not given:
            yield f"{path}: kind {kind} needs at least one address"
        families: list[str] = []
        for place, text in enumerate(given):
            yield from _unusable(f"{path}[{place}]", text, draft)
            families.append(addresses.family_of(text))
            if families.count(families[-1]) > 1:
                yield f"{path}[{place}]: a second {families[-1]} address; only one per family is allowed"


def _ports_are_published_once(draft: Draft) -> Iterator[str]:
    owners: dict[int, str] = {}
    for name, cluster in draft.clusters.items():
        path, port = f"clusters.{name}.endpoint.published_port", cluster["endpoint"].get("published_port")
        if port and draft.endpoint_kind(name) == "external":
            yield f"{path}: kind external has a load balancer, which publishes the API"
        if port in owners:
            yield f"{path}: {port} is also that of cluster {owners[port]}"
        if port:
            owners[port] = name


def _unusable(path: str, text: str, draft: Draft) -> Iterator[str]:
    """Yield why ``text`` is not an address that the nodes can reach and that no pod or Service has."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        yield f"{path}: must be an IP address, is {json.dumps(text)}"
        return
    family = addresses.family(address)
    if family not in draft.families:
        yield f"{path}: {text} is {family}, and the stack is {draft.settings['stack']}"
    if not addresses.is_ordinary(address):
        yield f"{path}: must be an ordinary unicast address, is {text}"
    _require_outside_the_cluster(path, text, draft)


def _require_outside_the_cluster(path: str, text: str, draft: Draft) -> None:
    """Raise DevenvError subnet_overlap for an address of pods or Services."""
    family = addresses.family_of(text)
    for key in ("pods", "services"):
        if ipaddress.ip_address(text) in ipaddress.ip_network(draft.settings["network"][key][family]):
            raise DevenvError("subnet_overlap", f"{path}: {text} is within network.{key}.{family}")


# --- network ---------------------------------------------------------------------------------------------------------


def _pools_are_networks(draft: Draft) -> Iterator[str]:
    """Check both families, whatever the stack."""
    network = draft.settings["network"]
    ranges = {
        "node_pools": {family: (1, prefix) for family, prefix in addresses.prefixes(network).items()},
        "pods": {family: (1, prefix) for family, prefix in addresses.PREFIX.items()},
        "services": _SERVICE_PREFIXES,
    }
    for key, allowed in ranges.items():
        for family, text in network[key].items():
            path, (least, most) = f"network.{key}.{family}", allowed[family]
            try:
                pool = ipaddress.IPv4Network(text) if family == "ipv4" else ipaddress.IPv6Network(text)
            except ValueError as error:
                yield f"{path}: must be an IPv{family[-1]} network in CIDR form: {error}"
                return
            if "/" not in text or not addresses.is_ordinary(pool):
                yield f"{path}: must be an ordinary unicast network in CIDR form, is {text}"
            if not least <= pool.prefixlen <= most:
                yield f"{path}: the prefix must be /{least} to /{most}, is /{pool.prefixlen}"


def _pools_do_not_overlap(draft: Draft) -> Iterator[str]:
    network = draft.settings["network"]
    pools = [
        (f"network.{key}.{family}", ipaddress.ip_network(text))
        for key in ("node_pools", "pods", "services")
        for family, text in network[key].items()
    ]
    for place, (path, pool) in enumerate(pools):
        for other_path, other in pools[:place]:
            if addresses.overlap(pool, other):
                raise DevenvError("subnet_overlap", f"{path} {pool} overlaps {other_path} {other}")
    yield from ()


# --- hosts -----------------------------------------------------------------------------------------------------------


def _hosts_are_for_their_providers(draft: Draft) -> Iterator[str]:
    provider = draft.settings["provider"]
    for name, node in draft.nodes.items():
        if "host" in node and not draft.has_hosts:
            yield f"nodes.{name}.host: needs the provider {provider_traits.of_given_machines()}, not {provider}"
        if "host" not in node and draft.has_hosts:
            yield f"nodes.{name}.host: is missing; the provider {provider} requires it"
    if draft.has_hosts and draft.settings["addressing"] != "static":
        yield f"addressing: must be static: hosts of the provider {provider} already have addresses"


def _hosts_have_an_address_of_each_family(draft: Draft) -> Iterator[str]:
    for name, node in draft.nodes.items():
        if "host" in node:
            yield from _wrong_addresses(f"nodes.{name}.host.addresses", node["host"]["addresses"], draft.families)


def _wrong_addresses(path: str, given: Sequence[str], families: Sequence[str]) -> Iterator[str]:
    present: set[str] = set()
    for place, text in enumerate(given):
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            yield f"{path}[{place}]: must be an IP address, is {text!r}"
            return
        family = addresses.family(address)
        if family in present or family not in families:
            yield f"{path}[{place}]: exactly one address of each of {', '.join(families)} is allowed"
        if not addresses.is_ordinary(address):
            yield f"{path}[{place}]: must be an ordinary unicast address, is {text}"
        present.add(family)
    for family in families:
        if family not in present:
            yield f"{path}: has no {family} address, which the stack requires"


def _hosts_are_different(draft: Draft) -> Iterator[str]:
    owners: dict[str, str] = {}
    for name, node in draft.nodes.items():
        for text in node.get("host", {}).get("addresses", ()):
            address, path = str(ipaddress.ip_address(text)), f"nodes.{name}.host.addresses"
            if address in owners:
                yield f"{path}: {address} is also an address of {owners[address]}"
            owners[address] = name
            _require_outside_the_cluster(path, address, draft)


# --- all keys ---------------------------------------------------------------------------------------------------------


def _every_key_takes_effect(draft: Draft) -> Iterator[str]:
    bare = [name for name, node in draft.nodes.items() if node["cluster"] is None]
    yield from keys.without_effect(
        draft.requested, draft.settings["provider"], draft.settings["kubernetes"]["engine"], bare
    )


RULES: tuple[Callable[[Draft], Iterator[str]], ...] = (
    _workers_are_schedulable,
    _nodes_are_large_enough,
    _nodes_have_one_image,
    _taints_have_different_keys,
    _hosts_have_an_address_of_each_family,
    _version_is_known,
    _checks_have_different_names,
    _clusters_of_nodes_are_listed,
    _clusters_are_few,
    _clusters_have_a_control_plane,
    _pools_are_networks,
    _pools_do_not_overlap,
    _hosts_are_for_their_providers,
    _hosts_are_different,
    _endpoints_have_the_addresses_they_need,
    _ports_are_published_once,
    _a_node_remains,
    _numbers_have_no_gap,
    _every_node_has_addresses,
    _every_key_takes_effect,
)


def warnings(profile: Profile) -> list[str]:
    """Return a line for each allowed setting of a resolved profile that is probably a mistake."""
    lines = keys.warnings(profile)
    for cluster in profile["clusters"]:
        members = [node for node in profile["nodes"] if node["cluster"] == cluster]
        voters = [node["name"] for node in members if node["group"] != "workers"]
        if len(voters) % 2 == 0:
            lines.append(
                f"cluster {cluster}: {len(voters)} etcd members tolerate no more failures than {len(voters) - 1} would;"
                " use an odd number"
            )
        if not any(node["schedulable"] for node in members):
            lines.append(f"cluster {cluster}: no node accepts ordinary pods; set schedulable, or add a worker")
    return lines
