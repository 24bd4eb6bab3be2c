"""Addresses and endpoints of Services, as every supported version of Kubernetes reports them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.client import Json

NAME_LABEL = "kubernetes.io/service-name"


def addresses(service: Mapping[str, Any]) -> list[str]:
    """Return the addresses of a Service, of each family. Before Kubernetes 1.20 there is a single one."""
    spec = service["spec"]
    return list(spec.get("clusterIPs") or [spec["clusterIP"]])


def endpoint_slices(api: client.Api, namespace: str, service: str) -> list[Json]:
    """Return the EndpointSlices of a Service. Before Kubernetes 1.21, which has them in v1, its Endpoints in that form.

    Raises ApiError, ApiUnreachable.
    """
    slices = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
    try:
        return list(api.get(slices, {"labelSelector": f"{NAME_LABEL}={service}"})["items"])
    except client.ApiError as error:
        if error.status != 404:
            raise
    try:
        return [as_slice(api.get(f"/api/v1/namespaces/{namespace}/endpoints/{service}"))]
    except client.ApiError as error:
        if error.status != 404:
            raise
    return []


def as_slice(endpoints: Mapping[str, Any]) -> Json:
    """Return an Endpoints object in the form of an EndpointSlice."""
    rows = [
        {"addresses": [address["ip"]], "conditions": {"ready": is_ready}}
        for subset in endpoints.get("subsets") or []
        for key, is_ready in (("addresses", True), ("notReadyAddresses", False))
        for address in subset.get(key) or []
    ]
    return {"metadata": {"labels": {NAME_LABEL: endpoints["metadata"]["name"]}}, "endpoints": rows}
