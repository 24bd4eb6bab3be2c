"""Which nodes a cluster calls ready."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client


def ask(kubeconfig: Path, timeout: float) -> tuple[str, dict[str, str]]:
    """Return ``answers`` or why the API does not, and Ready or NotReady by node."""
    if not kubeconfig.exists():
        return "not made yet", {}
    try:
        with client.Api(client.read_access(kubeconfig), timeout=timeout) as api:
            items = api.get("/api/v1/nodes")["items"]
    except (client.ApiFailure, DevenvError) as error:
        return str(error), {}
    ready = {item["metadata"]["name"]: client.condition(item, "Ready").get("status") == "True" for item in items}
    return "answers", {name: "Ready" if is_ready else "NotReady" for name, is_ready in ready.items()}
