"""Which nodes a cluster calls ready."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client


def ask(kubeconfig: Path, timeout: float) -> tuple[str, dict[str, str]]:
    """Return ``answers`` or why the API does not, and Ready or NotReady by node."""
    if not kubeconfig.exists():
        return "not made yet", {}
    try:
        with client.Api(client.read_access(kubeconfig), timeout=timeout) as api:
            items = api.get("/api/v1/nodes")["items"]
    except (client.ApiUnreachable, client.ApiError, DevenvError) as error:
        return str(error), {}
    return "answers", {item["metadata"]["name"]: _of(item) for item in items}


def _of(node: Mapping[str, Any]) -> str:
    conditions = {one["type"]: one["status"] for one in node.get("status", {}).get("conditions", [])}
    return "Ready" if conditions.get("Ready") == "True" else "NotReady"
