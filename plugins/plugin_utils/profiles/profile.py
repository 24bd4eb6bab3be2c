"""From the name or file of a profile to a resolved profile: plain data that says everything (docs/architecture.md).

Layers, each over the one before: configs/defaults.yml, sizes of the engine's file of configs/engines, the stack's file
of configs/networks, the topology's file of configs/topologies, the profile with what it extends, overrides. Mappings
merge, everything else replaces.
"""

from __future__ import annotations

import copy
import ipaddress
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import addresses, existing_hosts, provider_traits
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import document as documents

OVERRIDES = "--set"
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_AXES = ("topology", "stack", "addressing")
_WORD = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_NODE = re.compile(r"(master|arbiter|worker)-([0-9]+)")
_GROUPS = {"master": "control_plane", "arbiter": "arbiters", "worker": "workers"}
# Topology of a profile whose nodes stand all in itself.
_CUSTOM = "custom"
# Defaults of defaults.yml that are for each item of a list or mapping, not for the profile.
_ITEMS = ("node", "cluster", "check")
_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_QUANTITY = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,3}))?(KiB|MiB|GiB|TiB)?")
# Prefix lengths that Kubernetes takes for Services.
_SERVICE_PREFIXES = {"ipv4": (12, 28), "ipv6": (108, 124)}


@dataclass(frozen=True)
class Change:
    """One difference of two resolved profiles. ``applies``: an existing environment takes it; ``why``: why (not)."""

    path: str
    old: Any
    new: Any
    applies: bool
    why: str


# --- names -----------------------------------------------------------------------------------------------------------


def validate_name(name: str) -> str:
    """``name`` of an environment as it is, or DevenvError name_invalid."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DevenvError("name_invalid", f"{json.dumps(str(name)[:60])} is no name for an environment")
    return name


def names(configs: Path = paths.CONFIGS) -> list[str]:
    """All canonical names, topology by topology."""
    schema = _schema(configs)
    return [
        f"{topology}-{stack}-{addressing}"
        for topology in _stems(configs / "topologies")
        for stack in _built(schema, "stack")
        for addressing in _built(schema, "addressing")
    ]


def aliases(configs: Path = paths.CONFIGS) -> dict[str, str]:
    """Short name to the canonical name that it stands for."""
    return {alias: resolve(alias, configs=configs)["profile"] for alias in _stems(configs / "profiles")}


def warnings(resolved: Mapping[str, Any]) -> list[str]:
    """What a resolved profile allows and hardly anybody wants, a line each."""
    found = []
    for cluster in resolved["clusters"]:
        members = [node for node in resolved["nodes"] if node["cluster"] == cluster]
        voters = [node["name"] for node in members if node["group"] != "workers"]
        if len(voters) % 2 == 0:
            found.append(
                f"cluster {cluster}: {len(voters)} etcd members stand the loss of no more than {len(voters) - 1} would;"
                " take an odd number"
            )
        if not any(node["schedulable"] for node in members):
            found.append(f"cluster {cluster}: no node takes ordinary pods; set schedulable, or add a worker")
    return found


def require_engine(resolved: Mapping[str, Any], configs: Path = paths.CONFIGS, *, shape_only: bool = False) -> None:
    """Raise DevenvError engine_cannot when the profile's engine cannot make what the profile asks for.

    ``shape_only``: what it makes the cluster of may still come, or is not needed, as the cluster is there.
    """
    engine = resolved["kubernetes"]["engine"]
    traits = engine_traits(engine, configs)
    for text in _beyond(resolved, traits):
        raise DevenvError("engine_cannot", text, where=resolved["profile"])
    if engine == "gravity" and not shape_only:
        _require_tarball(resolved)


def _beyond(resolved: Mapping[str, Any], traits: Mapping[str, Any]) -> Iterable[str]:
    """What of the profile lies beyond an engine, in words."""
    engine = resolved["kubernetes"]["engine"]
    for node in resolved["nodes"]:
        if node["cluster"] is not None and node["group"] not in traits["groups"]:
            yield f"nodes.{node['name']}: the engine {engine} has no {node['group']}"
    for family in resolved["families"]:
        if family not in traits["families"]:
            yield f"stack: the engine {engine} has no {family}"
    most = traits["groups"]["control_plane"].get("most")
    for cluster, one in resolved["clusters"].items():
        masters = [n for n in resolved["nodes"] if n["cluster"] == cluster and n["group"] == "control_plane"]
        if most and len(masters) > most:
            yield f"clusters.{cluster}: the engine {engine} makes at most {most} masters, not {len(masters)}"
        if one["endpoint"]["kind"] not in traits["endpoints"]:
            yield f"clusters.{cluster}.endpoint.kind: the engine {engine} has no {one['endpoint']['kind']}"


def _require_tarball(resolved: Mapping[str, Any]) -> None:
    said = resolved["kubernetes"]["gravity"]
    if said["prepared"] and said["script"]:
        raise DevenvError("profile_invalid", "kubernetes.gravity: prepared and script exclude each other")
    for key in ("tarball", "sha256"):
        if not said[key] and not said["prepared"]:
            raise DevenvError("profile_invalid", f"kubernetes.gravity.{key}: the engine gravity needs it")


def require_operation(engine: str, operation: str, configs: Path = paths.CONFIGS) -> None:
    """Raise DevenvError engine_cannot when clusters of the engine have no such ``operation``."""
    instead = engine_traits(engine, configs)["cannot"].get(operation)
    if instead:
        raise DevenvError("engine_cannot", f"{operation}: not with the engine {engine}; {instead}")


def engine_traits(engine: str, configs: Path = paths.CONFIGS) -> dict[str, Any]:
    """What configs/engines says of an engine."""
    return _data(configs / "engines" / f"{engine}.yml")


def engine_groups(engine: str, configs: Path = paths.CONFIGS) -> dict[str, Any]:
    """What configs/engines says of an engine's groups of nodes: default, least and in_use sizes."""
    groups: dict[str, Any] = _data(configs / "engines" / f"{engine}.yml")["groups"]
    return groups


def in_use(nodes: Iterable[Mapping[str, Any]], engine: str, configs: Path = paths.CONFIGS) -> dict[str, int]:
    """What ``nodes`` of a resolved profile use together as measured, without applications: ``memory`` and ``disk`` in
    bytes, ``inotify`` instances. A bare node counts as one of its group.
    """
    groups = engine_groups(engine, configs)
    each = [(groups.get(node["group"]) or groups["control_plane"])["in_use"] for node in nodes]
    return {key: sum(parse_quantity(one[key]) for one in each) for key in ("memory", "disk", "inotify")}


def describe(configs: Path = paths.CONFIGS) -> list[dict[str, Any]]:
    """One row a canonical name: profile, aliases, description, topology, stack, addressing, provider, engine, nodes,
    control_plane, arbiters, workers (counts), cpus, memory, disk (sums of limits, bytes), in_use (sums as measured)."""
    short: dict[str, list[str]] = {}
    for alias, name in aliases(configs).items():
        short.setdefault(name, []).append(alias)
    return [_row(resolve(name, configs=configs), short.get(name, []), configs) for name in names(configs)]


def environment_name(name_or_path: str) -> str:
    """Default name of an environment of this profile: its name or the file's stem, made to fit the pattern."""
    stem = Path(name_or_path).name
    if _is_path(name_or_path):
        stem = re.sub(r"\.ya?ml$", "", stem)
    return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:40].strip("-") or "devenv"


# --- resolve ---------------------------------------------------------------------------------------------------------


def resolve(
    name_or_path: str,
    *,
    overrides: Mapping[str, Any] | None = None,
    cwd: str | Path | None = None,
    configs: Path = paths.CONFIGS,
) -> dict[str, Any]:
    """The resolved profile of a name, an alias or a file (has a ``/`` or ends in .yml or .yaml; relative to ``cwd``).

    ``overrides``: keys are paths of the schema (``nodes.worker-0.memory``; what follows ``labels`` or ``mirrors`` is
    one key, dots and all), values are of the schema's type, text that YAML reads as it, or a mapping to merge.
    Raises DevenvError with a reason of exit code 2, or jsonschema_missing.
    """
    schema = _schema(configs)
    document = _chain(name_or_path, Path(cwd or os.getcwd()), configs, schema, ())
    if overrides:
        document = _merge(document, _override_document(overrides, schema))
    try:
        return _compose(document, environment_name(name_or_path), configs, schema)
    except DevenvError as error:
        if error.where:
            raise
        where = f"profile {name_or_path}"
        raise DevenvError(error.reason.id, error.message, advice=error.advice, where=where) from None


def resolve_document(
    document: Mapping[str, Any],
    name: str,
    *,
    overrides: Mapping[str, Any] | None = None,
    configs: Path = paths.CONFIGS,
) -> dict[str, Any]:
    """Like `resolve`, of a document that we made ourselves and that extends nothing; ``name`` is the environment's."""
    schema = _schema(configs)
    whole = _merge(document, _override_document(overrides, schema)) if overrides else document
    return _compose(whole, name, configs, schema)


def parse_quantity(quantity: str | int) -> int:
    """Bytes of ``"4GiB"``, ``"1.5GiB"``, ``"1024"`` or 1024. Raises DevenvError profile_invalid."""
    match = _QUANTITY.fullmatch(str(quantity))
    if not match or isinstance(quantity, bool):
        raise DevenvError(
            "profile_invalid", f"{json.dumps(quantity)} is no size: bytes, or a number with KiB, MiB, GiB or TiB"
        )
    whole, fraction, unit = match[1], match[2] or "", _UNITS[match[3] or ""]
    if fraction and unit == 1:
        raise DevenvError("profile_invalid", f"{json.dumps(quantity)} is no whole number of bytes")
    return int(whole) * unit + (int(fraction) * unit // 10 ** len(fraction) if fraction else 0)


def _chain(wanted: str, base: Path, configs: Path, schema: Mapping[str, Any], seen: tuple[str, ...]) -> dict[str, Any]:
    """The document of ``wanted`` merged over all that it extends."""
    if not _is_path(wanted):
        path, data = _named(wanted, configs, schema)
        if path is None:
            return data
    else:
        path = base / Path(wanted).expanduser()
    key = os.path.realpath(path)
    if key in seen:
        circle = " -> ".join(Path(step).name for step in (*seen[seen.index(key) :], key))
        raise DevenvError("profile_loop", f"extends goes in a circle: {circle}", where=str(path))
    document = documents.read(path)
    # Our own files are checked by a test, not by every command: the library takes a quarter of a second to load.
    if _is_path(wanted):
        documents.validate(document.data, schema, str(path), document.text)
    data = {**document.data}
    parent = data.pop("extends", None)
    if parent is None:
        return data
    try:
        below = _chain(parent, path.parent, configs, schema, (*seen, key))
    except DevenvError as error:
        if error.reason.id in ("profile_unknown", "profile_missing", "profile_unreadable") and not error.where.endswith(
            ")"
        ):
            error = DevenvError(error.reason.id, error.message, where=f"{error.where or parent} (extends in {path})")
        raise error from None
    # A description speaks of its own file.
    below.pop("description", None)
    return _merge(below, data)


def _named(name: str, configs: Path, schema: Mapping[str, Any]) -> tuple[Path | None, dict[str, Any]]:
    """The file of a profile's name, or what a canonical name says. Raises DevenvError profile_unknown or not_built."""
    plain = name.replace("_", "-")
    if _WORD.fullmatch(plain):
        if plain in _stems(configs / "profiles"):
            return configs / "profiles" / f"{plain}.yml", {}
        said = _canonical(plain, schema)
        topologies = _stems(configs / "topologies")
        planned = schema["properties"]["topology"].get(documents.NOT_BUILT, [])
        if said and said["topology"] in [*topologies, *planned]:
            if not all(key in _AXES and word in _built(schema, key) for key, word in said.items()):
                documents.validate(said, schema, f"profile {name}")
            return None, said
        if plain in planned:
            documents.validate({"topology": plain}, schema, f"profile {name}")
    known = [*_stems(configs / "profiles"), *names(configs)]
    near = documents.nearest(plain.lower(), known)
    hint = f"; the nearest name is {near}" if near else ""
    raise DevenvError("profile_unknown", f"no profile is named {json.dumps(name[:60])}{hint}")


def _canonical(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Topology, stack, addressing and (for all that follows) connectivity of a canonical name; empty for another."""
    stacks, ways = ("|".join(map(re.escape, _words(schema, key))) for key in ("stack", "addressing"))
    match = re.fullmatch(rf"(.+?)-({stacks})-({ways})(?:-(.+))?", name)
    if not match:
        return {}
    said = {"topology": match[1], "stack": match[2], "addressing": match[3]}
    return {**said, "connectivity": match[4]} if match[4] else said


def _compose(document: Mapping[str, Any], name: str, configs: Path, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved profile of a merged and valid document."""
    if "topology" not in document and not document.get("nodes"):
        allowed = ", ".join(_built(schema, "topology"))
        raise DevenvError("profile_invalid", f"topology is missing (or extends, or nodes); allowed: {allowed}")
    defaults = _data(configs / "defaults.yml")
    merged = _merge({key: value for key, value in defaults.items() if key not in _ITEMS}, document)
    kind = merged.get("topology", _CUSTOM)
    topology = _data(configs / "topologies" / f"{kind}.yml") if "topology" in merged else {}
    families = list(_data(configs / "networks" / f"{merged['stack']}.yml")["families"])
    groups = engine_groups(merged["kubernetes"]["engine"], configs)
    said = _merge(topology.get("nodes", {}), document.get("nodes", {}))
    nodes = [
        _node(name, said[name], defaults["node"], groups, families)
        for name in _in_order(said)
        if said[name] is not None
    ]
    resolved = {
        "profile": f"{kind}-{merged['stack']}-{merged['addressing']}",
        "name": name,
        "topology": kind,
        "stack": merged["stack"],
        "families": families,
        "addressing": merged["addressing"],
        "provider": merged["provider"],
        "kubernetes": _kubernetes(merged["kubernetes"], configs),
        "network": merged["network"],
        "registry": merged["registry"],
        "proxy": merged["proxy"],
        "storage": merged["storage"],
        "metrics": merged["metrics"],
        "validate": {"checks": _checks(merged["validate"]["checks"], defaults["check"])},
        "clusters": _clusters(merged["clusters"], document.get("clusters", {}), nodes, defaults["cluster"]),
        "nodes": nodes,
    }
    _check_network(resolved["network"])
    existing_hosts.check(resolved)
    for cluster, one in resolved["clusters"].items():
        one["endpoint"] = _endpoint(cluster, one["endpoint"], resolved)
    _check_nodes(resolved, said, topology)
    return resolved


def _kubernetes(said: Mapping[str, Any], configs: Path) -> dict[str, Any]:
    versions = _data(configs / "versions.yml")
    version = said.get("version", versions["default"])
    known = sorted(versions["kubernetes"])
    if version not in known:
        raise DevenvError(
            "profile_invalid", f"kubernetes.version: {json.dumps(version)} is not known; allowed: {', '.join(known)}"
        )
    own = {"gravity": dict(said["gravity"])} if said["engine"] == "gravity" else {}
    return {"version": version, "engine": said["engine"], **own}


def _checks(said: Sequence[Mapping[str, Any]], defaults: Mapping[str, Any]) -> list[dict[str, Any]]:
    names_ = [check["name"] for check in said]
    for place, name in enumerate(names_):
        if name in names_[:place]:
            raise DevenvError("profile_invalid", f"validate.checks[{place}].name: {name} stands twice")
    return [_merge(defaults, check) for check in said]


def _clusters(
    said: Mapping[str, Any], own: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """The clusters that the profile says itself (``own``) or its nodes belong to, each with a control plane."""
    used = {node["cluster"] for node in nodes}
    wanted = {name: one for name, one in said.items() if one is not None and (name in own or name in used)}
    for node in nodes:
        if node["cluster"] is not None and node["cluster"] not in wanted:
            allowed = ", ".join([*(name for name, one in said.items() if one is not None), "null"])
            asked = json.dumps(node["cluster"])
            raise DevenvError(
                "profile_invalid",
                f"nodes.{node['name']}.cluster: {asked} is not under clusters; allowed: {allowed}",
            )
    if len(wanted) > addresses.LARGEST_CLUSTERS:
        raise DevenvError("profile_invalid", f"clusters: at most {addresses.LARGEST_CLUSTERS}, are {len(wanted)}")
    for name in wanted:
        groups = [node["group"] for node in nodes if node["cluster"] == name]
        if not groups:
            raise DevenvError("profile_invalid", f"clusters.{name}: no node belongs to it")
        if "control_plane" not in groups:
            raise DevenvError("profile_invalid", f"clusters.{name}: has no control plane node (master-N)")
    return {name: _merge(defaults, one) for name, one in wanted.items()}


def _endpoint(cluster: str, said: Mapping[str, Any], resolved: Mapping[str, Any]) -> dict[str, Any]:
    """Kind and addresses (in the families' order) of a cluster's endpoint; ``auto`` is settled here."""
    path = f"clusters.{cluster}.endpoint"
    kind, given = said["kind"], list(said["addresses"])
    if kind == "auto" and "virtual" not in engine_traits(resolved["kubernetes"]["engine"])["endpoints"]:
        kind = "node"
    elif kind == "auto":
        masters = [n for n in resolved["nodes"] if n["cluster"] == cluster and n["group"] == "control_plane"]
        kind = "virtual" if len(masters) > 1 else "node"
    # On a network of ours an address is reserved for it.
    if kind == "node" or (kind == "virtual" and provider_traits.makes_machines(resolved["provider"])):
        if given:
            raise DevenvError("profile_invalid", f"{path}.addresses: are for kind external, is {said['kind']}")
        return {"kind": kind, "addresses": []}
    if not given:
        raise DevenvError("profile_invalid", f"{path}.addresses: kind {kind} needs at least one address")
    found: dict[str, str] = {}
    for place, text in enumerate(given):
        family = _external_address(f"{path}.addresses[{place}]", text, resolved)
        if family in found:
            raise DevenvError("profile_invalid", f"{path}.addresses[{place}]: a second {family} address; one a family")
        found[family] = str(ipaddress.ip_address(text))
    return {"kind": kind, "addresses": [found[family] for family in resolved["families"] if family in found]}


def _external_address(path: str, text: str, resolved: Mapping[str, Any]) -> str:
    """Family of an address that the nodes can reach and no pod or Service has."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise DevenvError("profile_invalid", f"{path}: must be an IP address, is {json.dumps(text)}") from None
    family = f"ipv{address.version}"
    if family not in resolved["families"]:
        raise DevenvError("profile_invalid", f"{path}: {text} is {family}, and the stack is {resolved['stack']}")
    if address.is_loopback or address.is_multicast or address.is_link_local or address.is_unspecified:
        raise DevenvError("profile_invalid", f"{path}: must be an ordinary unicast address, is {text}")
    for key in ("pods", "services"):
        if address in ipaddress.ip_network(resolved["network"][key][family]):
            raise DevenvError("subnet_overlap", f"{path}: {text} lies in network.{key}.{family}")
    return family


def _node(
    name: str,
    said: Mapping[str, Any],
    defaults: Mapping[str, Any],
    groups: Mapping[str, Mapping[str, Any]],
    families: Sequence[str],
) -> dict[str, Any]:
    group = _group(name)
    # A group that the engine has not: the profile can still be looked at (require_engine).
    sizing = groups.get(group) or groups["control_plane"]
    node = _merge(_merge(defaults, sizing["default"]), said)
    if group == "workers" and said.get("schedulable") is False:
        raise DevenvError(
            "profile_invalid", f"nodes.{name}.schedulable: false is for control plane nodes; give a worker a taint"
        )
    sizes = {key: parse_quantity(node[key]) for key in ("memory", "disk")}
    for key in sizes:
        least = parse_quantity(sizing["least"][key])
        if sizes[key] < least:
            raise DevenvError(
                "profile_invalid", f"nodes.{name}.{key}: must be at least {least >> 20}MiB, is {node[key]}"
            )
    twice = _taint_twice(node["taints"])
    if twice:
        raise DevenvError("profile_invalid", f"nodes.{name}.taints: {twice} stands twice")
    return {
        "name": name,
        "group": group,
        "cluster": node["cluster"],
        "cpus": node["cpus"],
        **sizes,
        "labels": {key: value for key, value in sorted(node["labels"].items()) if value is not None},
        "taints": list(node["taints"]),
        "schedulable": group == "workers" or node["schedulable"],
        **({"node_type": node["node_type"]} if "node_type" in node else {}),
        **({"host": _host(f"nodes.{name}.host", node["host"], families)} if "host" in node else {}),
    }


def _host(path: str, said: Mapping[str, Any], families: Sequence[str]) -> dict[str, Any]:
    given = existing_hosts.ordered(f"{path}.addresses", said["addresses"], families)
    return {**_merge(existing_hosts.DEFAULTS, said), "addresses": given}


def _taint_twice(taints: Sequence[str]) -> str:
    """Key and effect that two taints share (Kubernetes takes one value only), or an empty string."""
    seen: set[str] = set()
    for taint in taints:
        key, effect = taint.rsplit(":", 1)
        one = f"{key.partition('=')[0]}:{effect}"
        if one in seen:
            return one
        seen.add(one)
    return ""


def _check_nodes(resolved: Mapping[str, Any], said: Mapping[str, Any], topology: Mapping[str, Any]) -> None:
    """Refuse no nodes, numbers left out (unless taken away by null), and more nodes than have a place."""
    if not resolved["nodes"]:
        raise DevenvError("profile_invalid", "nodes: none is left")
    for prefix in _GROUPS:
        numbers = sorted(int(name.rpartition("-")[2]) for name in said if name.startswith(f"{prefix}-"))
        for place, number in enumerate(numbers):
            if number != place:
                given = f"topology {resolved['topology']} has {', '.join(topology.get('nodes', {})) or 'none'}"
                raise DevenvError(
                    "profile_invalid", f"nodes.{prefix}-{number}: {given}; the next {prefix} to add is {prefix}-{place}"
                )
    count = len(resolved["nodes"])
    for family in resolved["families"]:
        addresses.check_place(resolved["network"]["node_prefix"], family, count - 1)
        addresses.pod_cidr(resolved["network"]["pods"][family], count - 1)


def _check_network(network: Mapping[str, Any]) -> None:
    """Refuse pools that are no networks, too small, not unicast, or overlap. Both families, whatever the stack."""
    parsed: list[tuple[str, addresses.Network]] = []
    longest = {
        "node_pools": {family: (1, prefix) for family, prefix in addresses.prefixes(network).items()},
        "pods": {family: (1, prefix) for family, prefix in addresses.PREFIX.items()},
        "services": _SERVICE_PREFIXES,
    }
    for key, allowed in longest.items():
        for family, text in network[key].items():
            path = f"network.{key}.{family}"
            one = _pool(path, family, text)
            least, most = allowed[family]
            if not least <= one.prefixlen <= most:
                raise DevenvError(
                    "profile_invalid", f"{path}: the prefix must be /{least} to /{most}, is /{one.prefixlen}"
                )
            parsed.append((path, one))
    for place, (path, one) in enumerate(parsed):
        for other_path, other in parsed[:place]:
            if one.version == other.version and one.overlaps(other):
                raise DevenvError("subnet_overlap", f"{path} {one} overlaps {other_path} {other}")


def _pool(path: str, family: str, text: str) -> addresses.Network:
    try:
        network = ipaddress.IPv4Network(text) if family == "ipv4" else ipaddress.IPv6Network(text)
    except ValueError as error:
        raise DevenvError(
            "profile_invalid", f"{path}: must be an IPv{family[-1]} network in CIDR form: {error}"
        ) from None
    if (
        "/" not in text
        or network.is_loopback
        or network.is_multicast
        or network.is_link_local
        or network.is_unspecified
    ):
        raise DevenvError("profile_invalid", f"{path}: must be an ordinary unicast network in CIDR form, is {text}")
    return network


# --- overrides -------------------------------------------------------------------------------------------------------


def _override_document(overrides: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    documents.check_plain(dict(overrides), OVERRIDES)
    document: dict[str, Any] = {}
    for path, value in overrides.items():
        parts, rule = _split(path, schema)
        part: dict[str, Any] = {parts[-1]: _typed(value, rule)}
        for key in reversed(parts[:-1]):
            part = {key: part}
        document = _merge(document, part)
    if "extends" in document:
        raise DevenvError("profile_invalid", "extends: cannot be overridden; name another profile", where=OVERRIDES)
    documents.validate(document, schema, OVERRIDES)
    return document


def _split(path: str, schema: Mapping[str, Any]) -> tuple[list[str], Mapping[str, Any]]:
    """The keys of a dotted path and the schema of its last one.

    A path that the schema has not keeps its parts: validation names the wrong one.
    """
    parts: list[str] = []
    rule: Mapping[str, Any] = schema
    rest = path
    while rest:
        free = rule.get("additionalProperties")
        # Such a key may have dots, unless keys of its own follow it.
        if isinstance(free, dict) and "properties" not in free:
            parts.append(rest)
            return parts, _deref(free, schema)
        key, rest = rest.partition(".")[::2]
        parts.append(key)
        rule = _deref(_below(rule, key), schema)
    if not parts or "" in parts:
        raise DevenvError(
            "profile_invalid", f"{json.dumps(path)} is no path of a key, such as nodes.worker-0.memory", where=OVERRIDES
        )
    return parts, rule


def _below(rule: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    if key in rule.get("properties", {}):
        return dict(rule["properties"][key])
    for pattern, below in rule.get("patternProperties", {}).items():
        if re.search(pattern, key):
            return dict(below)
    free = rule.get("additionalProperties")
    return dict(free) if isinstance(free, dict) else {}


def _deref(rule: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in rule:
        rule = schema["$defs"][rule["$ref"].rpartition("/")[2]]
    return rule


def _typed(value: Any, rule: Mapping[str, Any]) -> Any:
    """Text from a command line as the type that the schema wants; anything else as it is."""
    kinds = rule.get("type", [])
    if not isinstance(value, str) or not kinds or "string" in kinds:
        return value
    try:
        return documents.value(value)
    except (yaml.YAMLError, ValueError):
        return value


# --- changes ---------------------------------------------------------------------------------------------------------


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """What differs from ``old`` to ``new`` (resolved profiles), and whether an existing environment takes it.

    It takes labels, taints, added and removed nodes, further clusters, other endpoints and what `up` puts on a cluster.
    Names and what follows from other keys (profile, name, topology, families) are left out, as is the order of nodes.
    """
    found: list[Change] = []
    for key in sorted({*old, *new} - {"profile", "name", "topology", "families", "nodes"}):
        found += _differences(old.get(key), new.get(key), key)
    before, after = ({node["name"]: node for node in one.get("nodes", [])} for one in (old, new))
    for name in [*before, *(name for name in after if name not in before)]:
        found += _node_changes(f"nodes.{name}", before.get(name), after.get(name))
    return found


def _differences(old: Any, new: Any, path: str) -> list[Change]:
    if old == new:
        return []
    inner = isinstance(old, Mapping) and isinstance(new, Mapping)
    if inner and not re.fullmatch(r"clusters\.[^.]+\.endpoint", path):
        return [
            found for key in sorted({*old, *new}) for found in _differences(old.get(key), new.get(key), f"{path}.{key}")
        ]
    return [Change(path, old, new, *_judged(path, old, new))]


def _judged(path: str, old: Any, new: Any) -> tuple[bool, str]:
    """Whether an existing environment takes the change, and why (not)."""
    part, rest = path.partition(".")[::2]
    if path in ("kubernetes.gravity.tarball", "kubernetes.gravity.sha256"):
        return False, "playbooks/gravity_upgrade.yml brings a cluster to another tarball"
    if path == "kubernetes.version":
        return _version_change(str(old), str(new))
    if part == "clusters" and rest.endswith(".endpoint"):
        if new["addresses"]:
            return False, "certificates do not name these addresses: down, then up"
        return True, "the nodes get to know the endpoint's new address"
    if part == "clusters" and old is None:
        return True, "a further cluster is made"
    if part == "clusters" and new is None:
        return False, "a cluster is not taken away by itself: down, then up"
    if part in ("storage", "metrics") and rest == "enabled":
        return True, "is put on the cluster" if new else "is taken off the cluster; data stay"
    if part == "validate":
        return True, "the next validation runs them"
    return False, "needs a new environment: down, then up"


def _version_change(old: str, new: str) -> tuple[bool, str]:
    step = version_step(old, new)
    if step == "downgrade":
        return False, "a downgrade: needs a new environment"
    if step == "skip":
        major, minor = version_number(old)[:2]
        return False, f"skips a minor version: devenv upgrade to {major}.{minor + 1} first"
    return False, f"devenv upgrade --kubernetes {new} does it"


def version_number(version: str) -> tuple[int, ...]:
    """``1.36.3`` as numbers to compare."""
    return tuple(int(part) for part in re.findall(r"[0-9]+", version)[:3])


def version_step(old: str, new: str) -> str:
    """What lies between two versions of Kubernetes: ``same``, ``downgrade``, ``skip`` (more than the next minor
    version) or ``upgrade``.
    """
    before, after = version_number(old), version_number(new)
    if after == before:
        return "same"
    if after < before:
        return "downgrade"
    return "upgrade" if after[:1] == before[:1] and after[1] <= before[1] + 1 else "skip"


def _node_changes(path: str, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> list[Change]:
    if old is None:
        return [Change(path, None, new, True, "the node is made and joins")]
    if new is None:
        return [Change(path, old, None, True, "the node leaves its cluster and is removed")]
    found = []
    for key in sorted({*old, *new}):
        if old.get(key) == new.get(key):
            continue
        if key == "labels":
            one, two = old.get(key, {}), new.get(key, {})
            found += [
                Change(
                    f"{path}.labels.{label}", one.get(label), two.get(label), True, "labels are set on the running node"
                )
                for label in sorted({*one, *two})
                if one.get(label) != two.get(label)
            ]
        elif key == "taints":
            found.append(
                Change(f"{path}.taints", old.get(key), new.get(key), True, "taints are set on the running node")
            )
        else:
            found.append(Change(f"{path}.{key}", old.get(key), new.get(key), False, "a node is not changed in place"))
    return found


# --- small parts -----------------------------------------------------------------------------------------------------


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {key: copy.deepcopy(value) for key, value in below.items()}
    for key, value in above.items():
        inner = merged.get(key)
        merged[key] = (
            _merge(inner, value) if isinstance(inner, dict) and isinstance(value, Mapping) else copy.deepcopy(value)
        )
    return merged


def _in_order(nodes: Iterable[str]) -> list[str]:
    """Masters, arbiters, workers, each by number."""
    return sorted(nodes, key=lambda name: (list(_GROUPS.values()).index(_group(name)), int(name.rpartition("-")[2])))


def _group(node: str) -> str:
    match = _NODE.fullmatch(node)
    if not match:
        raise DevenvError("profile_invalid", f"nodes.{node}: must be master-N, arbiter-N or worker-N")
    return _GROUPS[match[1]]


def _is_path(name_or_path: str) -> bool:
    return "/" in name_or_path or name_or_path.endswith((".yml", ".yaml")) or name_or_path in (".", "..")


def _schema(configs: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((configs / "schema" / "profile.json").read_text(encoding="utf-8"))
    # The file has those that editors are to offer; a file in configs/providers is enough for another.
    providers = loaded["properties"]["provider"]["enum"]
    providers += [name for name in provider_traits.names(configs) if name not in providers]
    return loaded


def _data(path: Path) -> dict[str, Any]:
    """One of our own data files; not to be written to. Raises DevenvError as a profile would."""
    try:
        about = path.stat()
    except OSError:
        return documents.read(path).data
    return _read_once(path, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=64)
def _read_once(path: Path, _changed: int, _size: int) -> dict[str, Any]:
    # A listing of all profiles reads each file for each of them.
    return documents.read(path).data


def _stems(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yml"))


def _built(schema: Mapping[str, Any], key: str) -> list[str]:
    return list(schema["properties"][key]["enum"])


def _words(schema: Mapping[str, Any], key: str) -> Sequence[str]:
    """Built and planned values, the longer ones first so that none hides behind its own beginning."""
    rule = schema["properties"][key]
    return sorted([*rule["enum"], *rule.get(documents.NOT_BUILT, [])], key=len, reverse=True)


def _row(resolved: Mapping[str, Any], short: list[str], configs: Path) -> dict[str, Any]:
    nodes = resolved["nodes"]
    topology = _data(configs / "topologies" / f"{resolved['topology']}.yml")
    network = _data(configs / "networks" / f"{resolved['stack']}.yml")
    return {
        "profile": resolved["profile"],
        "aliases": sorted(short),
        "description": f"{topology['description']} {network['description']}",
        "topology": resolved["topology"],
        "stack": resolved["stack"],
        "addressing": resolved["addressing"],
        "provider": resolved["provider"],
        "engine": resolved["kubernetes"]["engine"],
        "nodes": len(nodes),
        "control_plane": sum(node["group"] == "control_plane" for node in nodes),
        "arbiters": sum(node["group"] == "arbiters" for node in nodes),
        "workers": sum(node["group"] == "workers" for node in nodes),
        **{key: sum(node[key] for node in nodes) for key in ("cpus", "memory", "disk")},
        "in_use": in_use(nodes, resolved["kubernetes"]["engine"], configs),
    }
