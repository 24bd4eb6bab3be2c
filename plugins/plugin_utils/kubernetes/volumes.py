"""PersistentVolumes on the disks of nodes: what is lost with a node, and claims that can be used again afterwards."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import wait
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.client import Json

HOSTNAME = "kubernetes.io/hostname"
# Set by the controllers that bind a claim; a new claim gets its own.
_BINDING = ("pv.kubernetes.io/", "volume.kubernetes.io/", "volume.beta.kubernetes.io/")


@dataclass(frozen=True)
class Volume:
    """A bound volume: its claim (namespace and name), its ``node`` (empty: not on the disk of a single node)."""

    name: str
    namespace: str
    claim: str
    node: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.claim} ({self.name})"


def bound(items: Iterable[Json]) -> list[Volume]:
    """Return the volumes of these PersistentVolume objects that have a claim, sorted by claim."""
    claims = ((item, item["spec"].get("claimRef")) for item in items)
    found = [
        Volume(item["metadata"]["name"], claim["namespace"], claim["name"], _node(item["spec"]))
        for item, claim in claims
        if claim
    ]
    return sorted(found, key=str)


def _node(spec: Mapping[str, Any]) -> str:
    """Return the only node whose pods can use a volume, empty if there are several."""
    terms = ((spec.get("nodeAffinity") or {}).get("required") or {}).get("nodeSelectorTerms") or []
    rows = [row for term in terms for row in term.get("matchExpressions") or [] if row["key"] == HOSTNAME]
    values = {value for row in rows for value in row.get("values") or [] if row["operator"] == "In"}
    return values.pop() if len(values) == 1 and len(rows) == len(terms) else ""


def lost(api: client.Api, nodes: Collection[str]) -> list[Volume]:
    """Return the bound volumes on the disks of ``nodes``. Raises ApiFailure."""
    return [volume for volume in bound(api.get("/api/v1/persistentvolumes")["items"]) if volume.node in nodes]


def kept(api: client.Api, nodes: Collection[str]) -> list[Volume]:
    """Return the volumes elsewhere that pods on ``nodes`` use. Raises ApiFailure."""
    pods = [pod for pod in api.get("/api/v1/pods")["items"] if pod["spec"].get("nodeName") in nodes]
    used = {(pod["metadata"]["namespace"], claim) for pod in pods for claim in _claims(pod)}
    volumes = bound(api.get("/api/v1/persistentvolumes")["items"])
    return [volume for volume in volumes if volume.node not in nodes and (volume.namespace, volume.claim) in used]


def release(api: client.Api, volumes: Iterable[Volume], timeout: float = 30) -> list[str]:
    """Remove volumes whose data are gone, and create their claims again, so that applications get new volumes.

    Pods that still use one, on a node that is gone, are deleted. Return why a claim could not be created again.
    """
    return [text for volume in volumes if (text := _release(api, volume, timeout))]


def _release(api: client.Api, volume: Volume, timeout: float) -> str:
    path = f"/api/v1/namespaces/{volume.namespace}/persistentvolumeclaims"
    try:
        claim = api.get(f"{path}/{volume.claim}")
        for pod in api.get(f"/api/v1/namespaces/{volume.namespace}/pods")["items"]:
            if pod["spec"].get("nodeName") == volume.node and volume.claim in _claims(pod):
                api.delete(f"/api/v1/namespaces/{volume.namespace}/pods/{pod['metadata']['name']}", grace=0)
        # The volume first: a provisioner does not try to remove its directory from a node that is gone.
        api.delete(f"/api/v1/persistentvolumes/{volume.name}")
        api.delete(f"{path}/{volume.claim}")
        deadline = time.monotonic() + timeout
        if not wait.until(lambda: not _exists(api, f"{path}/{volume.claim}", claim), deadline, pause=0.2):
            return f"{volume}: its claim is still in use"
        api.create(path, renewed(claim))
    except client.ApiError as error:
        # 404: it was deleted; 409: a controller, such as that of StatefulSets, has created it already.
        return "" if error.status in (404, 409) else f"{volume}: {error}"
    except client.ApiUnreachable as error:
        return f"{volume}: {error}"
    return ""


def _exists(api: client.Api, path: str, claim: Json) -> bool:
    """Return whether this very claim exists, not a new one of the same name."""
    try:
        return bool(api.get(path)["metadata"]["uid"] == claim["metadata"]["uid"])
    except client.ApiError as error:
        if error.status == 404:
            return False
        raise


def renewed(claim: Json) -> Json:
    """Return a new claim like ``claim``, not bound to a volume."""
    metadata = claim["metadata"]
    notes = {k: v for k, v in (metadata.get("annotations") or {}).items() if not k.startswith(_BINDING)}
    kept_keys = {key: metadata[key] for key in ("name", "namespace", "labels", "ownerReferences") if key in metadata}
    spec = {key: value for key, value in claim["spec"].items() if key != "volumeName"}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {**kept_keys, **({"annotations": notes} if notes else {})},
        "spec": spec,
    }


def _claims(pod: Json) -> list[str]:
    volumes = pod["spec"].get("volumes") or []
    return [volume["persistentVolumeClaim"]["claimName"] for volume in volumes if "persistentVolumeClaim" in volume]
