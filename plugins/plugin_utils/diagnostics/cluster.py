"""Collect the objects of a cluster for an archive, without the content of Secrets; events also as lines."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.client import Json

Put = Callable[[str, bytes], None]
LIMIT = "2000"
SECONDS = 8.0
HIDDEN = "[credential redacted]"
# Shorter values ("true", a user name) are ordinary words of a text.
SMALLEST = 8
LARGEST = 4096

_SECRETIVE = re.compile(r"passw|secret|token|credential|api_?key|private|auth", re.IGNORECASE)
_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def collect(access: client.Access, put: Put) -> str:
    """Write every list of the API as ``resources/<group>/<name>.yaml``; return which requests failed."""
    troubles: list[str] = []
    try:
        with client.Api(access, timeout=SECONDS) as api:
            put("version.yaml", _yaml(api.get("/version")))
            for path in ("/readyz", "/livez"):
                put(f"health{path}.txt", _health(api, path, troubles).encode())
            for group, base, name, kind in _kinds(api, troubles):
                _list(api, group, base, name, kind, put, troubles)
    except client.ApiUnreachable as error:
        troubles.append(f"the API does not answer: {error}")
    except client.ApiError as error:
        troubles.append(f"the API returns {error.status}: {error}")
    return "; ".join(troubles)


def _health(api: client.Api, path: str, troubles: list[str]) -> str:
    try:
        return api.text(path, {"verbose": ""})
    except client.ApiError as error:
        # The error text lists what is not ready.
        troubles.append(f"{path} returns {error.status}")
        return str(error)


def _kinds(api: client.Api, troubles: list[str]) -> Iterator[tuple[str, str, str, str]]:
    """Yield group, path, plural name and kind of everything that can be listed, in its preferred version."""
    groups = [("core", "/api/v1")]
    groups += [
        (str(group["name"]), f"/apis/{group['preferredVersion']['groupVersion']}")
        for group in api.get("/apis").get("groups") or []
        # Its events are those of the core group.
        if group["name"] != "events.k8s.io"
    ]
    for group, base in groups:
        try:
            resources = api.get(base).get("resources") or []
        except client.ApiError as error:
            # An aggregated API whose server is down.
            troubles.append(f"{group}: {error}")
            continue
        for resource in resources:
            if "list" in resource.get("verbs", ()) and "/" not in resource["name"]:
                yield group, base, str(resource["name"]), str(resource["kind"])


def _list(api: client.Api, group: str, base: str, name: str, kind: str, put: Put, troubles: list[str]) -> None:
    try:
        listed = api.get(f"{base}/{name}", {"limit": LIMIT})
    except client.ApiError as error:
        troubles.append(f"{group}/{name}: {error}")
        return
    items = [masked(kind, item) for item in listed.get("items") or []]
    if listed.get("metadata", {}).get("continue"):
        troubles.append(f"{group}/{name}: more than {LIMIT}, only the first {len(items)} are included")
    if items:
        put(f"resources/{group}/{name}.yaml", _yaml({"kind": f"{kind}List", "items": items}))
    if kind == "Event":
        put("events.txt", _event_lines(items).encode())


def _event_lines(items: list[Json]) -> str:
    """Return one line per event, in the order of time."""
    rows = sorted(
        (
            str(item.get("lastTimestamp") or item.get("eventTime") or item["metadata"].get("creationTimestamp") or ""),
            f"{item.get('type', '')} {item['metadata'].get('namespace', '')} {_object(item)} "
            f"{item.get('reason', '')}: {' '.join(str(item.get('message') or '').split())} (x{item.get('count') or 1})",
        )
        for item in items
    )
    return "".join(f"{when} {text}\n" for when, text in rows)


def _object(event: Json) -> str:
    about = event.get("involvedObject") or {}
    return f"{about.get('kind', '')}/{about.get('name', '')}"


def masked(kind: str, item: Json) -> Json:
    """Return the object without the content of a Secret and without values of variables with a secretive name."""
    metadata = dict(item.get("metadata") or {})
    metadata.pop("managedFields", None)
    annotations = {key: value for key, value in (metadata.get("annotations") or {}).items() if key != _APPLIED}
    if "annotations" in metadata:
        metadata["annotations"] = annotations
    shown = {**item, "metadata": metadata}
    if kind == "Secret":
        for key in ("data", "stringData"):
            if shown.get(key):
                shown[key] = dict.fromkeys(shown[key], "[secret redacted]")
        return shown
    return dict(_without_secrets(shown))


def _without_secrets(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_secrets(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("name"), str) and isinstance(value.get("value"), str) and _SECRETIVE.search(value["name"]):
        return {**value, "value": HIDDEN}
    return {key: _without_secrets(inner) for key, inner in value.items()}


def secret_values(access: client.Access) -> set[str]:
    """Return the values in the cluster's Secrets, which are redacted in other texts; none if the API fails."""
    try:
        with client.Api(access, timeout=SECONDS) as api:
            items = api.get("/api/v1/secrets", {"limit": LIMIT}).get("items") or []
    except client.ApiFailure:
        return set()
    return {value for item in items for value in values_of(item)}


def values_of(secret: Json) -> set[str]:
    """Return the values of a Secret that cannot be an ordinary word of a text: decoded, and in base64."""
    data = secret.get("data") or {}
    if str(secret.get("type")) == "bootstrap.kubernetes.io/token":
        data = {key: value for key, value in data.items() if key == "token-secret"}
    values = set()
    for encoded in data.values():
        try:
            text = base64.b64decode(str(encoded)).decode().strip()
        except (binascii.Error, UnicodeDecodeError):
            continue
        if SMALLEST <= len(text) <= LARGEST and not re.search(r"\s", text) and re.search(r"[^a-z-]", text):
            values |= {text, str(encoded)}
        elif "PRIVATE KEY" in text:
            values |= {line for line in text.splitlines() if len(line) >= 40}
    return values


def _yaml(value: Any) -> bytes:
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=120)
    return text.encode()
