"""Resolve the name or file of a profile to plain data with every value filled in (docs/design/profiles.md).

Layers, each merged over the one before: configs/defaults.yml, the sizes in the engine's file of configs/engines, the
stack's file of configs/networks, the topology's file of configs/topologies, the profile with what it extends,
overrides. Mappings merge, every other value is replaced.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import (
    addresses,
    data,
    draft,
    migrations,
    names,
    rules,
)
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import document as documents
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import overrides as override
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.draft import Draft
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import (
    ClusterSpec,
    Endpoint,
    ExistingHost,
    Kubernetes,
    Node,
    Profile,
)

# Failures of a parent profile whose message also names the file that extends it.
_MISSING = ("profile_unknown", "profile_missing", "profile_unreadable")


def resolve(name_or_path: str, *, overrides: Mapping[str, Any] | None = None, cwd: str | Path | None = None) -> Profile:
    """Return the resolved profile of a name, an alias or a file (names.is_path; relative to ``cwd``).

    ``overrides`` are applied to it (overrides.as_document). Raises DevenvError with a reason of exit code 2, or
    jsonschema_missing.
    """
    document = merged(name_or_path, cwd=cwd)
    name = document.pop("name", None) or names.of_environment(name_or_path)
    try:
        return resolve_document(document, name, overrides=overrides)
    except DevenvError as error:
        if error.where:
            raise
        where = f"profile {name_or_path}"
        raise DevenvError(error.reason.id, error.message, advice=error.advice, where=where) from None


def resolve_document(
    document: Mapping[str, Any], name: str, *, overrides: Mapping[str, Any] | None = None, stored: bool = False
) -> Profile:
    """Resolve a valid document that extends nothing; ``name`` is the default name of an environment.

    ``stored``: the document is a resolved profile, whose values are no longer known to be the user's.
    """
    schema = data.schema()
    requested = override.as_document(overrides, schema) if overrides else {}
    document = data.merge(document, requested)
    return _compose(draft.make(document, schema, requested if stored else document), name)


def merged(name_or_path: str, *, cwd: str | Path | None = None) -> dict[str, Any]:
    """Return the document of a profile, merged over everything that it extends. Raises as `resolve` does.

    The document of a resolved profile also has the key ``name``.
    """
    return _chain(name_or_path, Path(cwd or os.getcwd()), data.schema(), ())


def _chain(profile: str, base: Path, schema: Mapping[str, Any], seen: tuple[str, ...]) -> dict[str, Any]:
    """Return the document of ``profile``, merged over everything that it extends."""
    if names.is_path(profile):
        path = base / Path(profile).expanduser() if profile != documents.STDIN else Path(profile)
    else:
        file, document = names.find(profile, schema)
        if file is None:
            return document
        path = file
    key = os.path.realpath(path)
    if key in seen:
        circle = " -> ".join(Path(step).name for step in (*seen[seen.index(key) :], key))
        raise DevenvError("profile_loop", f"extends forms a loop: {circle}", where=str(path))
    read = documents.read(path)
    where = str(read.path)
    if migrations.is_resolved(read.data):
        return _of_resolved(read, schema, top=not seen)
    document = migrations.migrate(read.data, where)
    # A test validates the files in configs/, not every command: jsonschema takes a quarter of a second to load.
    if names.is_path(profile):
        documents.validate(document, schema, where, read.text)
    parent = document.pop("extends", None)
    if parent is None:
        return document
    try:
        below = _chain(parent, base if profile == documents.STDIN else path.parent, schema, (*seen, key))
    except DevenvError as error:
        if error.reason.id in _MISSING and not error.where.endswith(")"):
            error = DevenvError(error.reason.id, error.message, where=f"{error.where or parent} (extends in {where})")
        raise error from None
    # A description is not inherited.
    below.pop("description", None)
    return data.merge(below, document)


def _of_resolved(read: documents.Document, schema: Mapping[str, Any], *, top: bool) -> dict[str, Any]:
    """Return the document of a file that contains a resolved profile; of the ``top`` one with its name."""
    whole, where = migrations.from_resolved(read.data), str(read.path)
    documents.validate(whole, schema, where, read.text)
    document, ignored = migrations.without_ignored(whole)
    name = names.validate(read.data.get("name") or names.of_environment(where))
    resolved = resolve_document(document, name)
    migrations.check_derived(read.data, resolved, where)
    migrations.check_ignored(whole, ignored, resolved, where)
    return {**document, "name": name} if top else document


# --- from a merged document to the result ---------------------------------------------------------------------------


def _compose(made: Draft, name: str) -> Profile:
    rules.check(made)
    settings = made.settings
    return {
        "profile": f"{made.topology}-{settings['stack']}-{settings['addressing']}",
        "name": name,
        "topology": made.topology,
        "stack": settings["stack"],
        "families": made.families,
        "addressing": settings["addressing"],
        "provider": settings["provider"],
        "kubernetes": _kubernetes(settings["kubernetes"]),
        "network": settings["network"],
        "registry": settings["registry"],
        "proxy": settings["proxy"],
        "storage": settings["storage"],
        "metrics": settings["metrics"],
        "validate": settings["validate"],
        "clusters": {cluster: _cluster(cluster, made) for cluster in made.clusters},
        "nodes": [_node(node, made) for node in made.nodes],
    }


def _kubernetes(settings: Mapping[str, Any]) -> Kubernetes:
    """Return version, engine, and the settings of this engine only."""
    kept = ("version", "engine", settings["engine"])
    return cast(Kubernetes, {key: settings[key] for key in kept if key in settings})


def _cluster(cluster: str, made: Draft) -> ClusterSpec:
    given = made.clusters[cluster]["endpoint"]
    endpoint: Endpoint = {
        "kind": made.endpoint_kind(cluster),
        "addresses": _in_order(given["addresses"], made.families),
    }
    if given.get("names"):
        endpoint["names"] = list(given["names"])
    if given.get("published_port"):
        endpoint["published_port"] = given["published_port"]
    return {"endpoint": endpoint}


def _node(name: str, made: Draft) -> Node:
    node, group = made.nodes[name], draft.group(name)
    resolved: Node = {
        "name": name,
        "group": group,
        "cluster": node["cluster"],
        "cpus": node["cpus"],
        "memory": data.parse_quantity(node["memory"]),
        "disk": data.parse_quantity(node["disk"]),
        "labels": {key: value for key, value in sorted(node["labels"].items()) if value is not None},
        "taints": list(node["taints"]),
        "schedulable": group == "workers" or node["schedulable"],
    }
    if "node_type" in node:
        resolved["node_type"] = node["node_type"]
    if "image" in node:
        resolved["image"] = node["image"]
    if "base_image" in node:
        resolved["base_image"] = node["base_image"]
    if "host" in node:
        host: ExistingHost = node["host"]
        resolved["host"] = {**host, "addresses": _in_order(host["addresses"], made.families)}
    return resolved


def _in_order(given: Iterable[str], families: Sequence[str]) -> list[str]:
    """Return addresses in their usual notation, in the families' order."""
    of_family = {addresses.family_of(text): str(ipaddress.ip_address(text)) for text in given}
    return [of_family[family] for family in families if family in of_family]
