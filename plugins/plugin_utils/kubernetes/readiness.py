"""Which nodes and pods are ready, and why a pod is not."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.client import Json

NOT_YET = "runs, not Ready yet"


def nodes(kubeconfig: Path, timeout: float) -> tuple[str, dict[str, str]]:
    """Return ``answers`` or why the API does not, and Ready or NotReady by node."""
    if not kubeconfig.exists():
        return "not created yet", {}
    try:
        with client.Api(client.read_access(kubeconfig), timeout=timeout) as api:
            items = api.get("/api/v1/nodes")["items"]
    except (client.ApiFailure, DevenvError) as error:
        return str(error), {}
    return "answers", {item["metadata"]["name"]: "Ready" if is_ready(item) else "NotReady" for item in items}


def is_ready(item: Json) -> bool:
    """Return whether a Node or Pod object is Ready."""
    return client.condition(item, "Ready").get("status") == "True"


def not_ready(pod: Json) -> str:
    """Return why a pod is not Ready, in a few words; an empty text if it is Ready or has completed."""
    status = pod.get("status", {})
    if status.get("phase") == "Succeeded" or is_ready(pod):
        return ""
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        waiting = container.get("state", {}).get("waiting")
        if waiting and waiting.get("reason") not in ("ContainerCreating", "PodInitializing"):
            return f"waits: {waiting.get('reason', '')} {waiting.get('message', '')}".strip()
        terminated = container.get("state", {}).get("terminated")
        if terminated and terminated.get("exitCode"):
            return f"ended with code {terminated['exitCode']} ({terminated.get('reason', '')})"
    scheduled = client.condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return f"is not scheduled: {scheduled.get('message', '')}"
    if status.get("phase") == "Running":
        return NOT_YET
    return f"is {status.get('phase', 'new')}" + (f": {status['message']}" if status.get("message") else "")


def warnings(api: client.Api, namespace: str) -> list[str]:
    """Return the last warning event of each object in ``namespace``; none if the API does not answer."""
    try:
        events = api.get(f"/api/v1/namespaces/{namespace}/events", {"fieldSelector": "type=Warning"})["items"]
    except client.ApiFailure:
        return []
    last: dict[str, str] = {}
    for event in sorted(events, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or "")):
        last[event["involvedObject"].get("name", "")] = f"{event.get('reason', '')}: {event.get('message', '')}"
    return [f"{name}: {text}" for name, text in sorted(last.items())]
