"""Why a pod is not ready, from its status and its namespace's events."""

from __future__ import annotations

from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.client import Json


def not_ready(pod: Json) -> str:
    """Return why a pod is not Ready, in a few words; an empty text for one that is, or that has completed."""
    status = pod.get("status", {})
    if status.get("phase") == "Succeeded" or client.condition(pod, "Ready").get("status") == "True":
        return ""
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        waiting = container.get("state", {}).get("waiting")
        if waiting and waiting.get("reason") not in ("ContainerCreating", "PodInitializing"):
            return f"waits: {waiting.get('reason', '')} {waiting.get('message', '')}".strip()
        ended = container.get("state", {}).get("terminated")
        if ended and ended.get("exitCode"):
            return f"ended with code {ended['exitCode']} ({ended.get('reason', '')})"
    scheduled = client.condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return f"is not scheduled: {scheduled.get('message', '')}"
    if status.get("phase") == "Running":
        return "runs, not Ready yet"
    return f"is {status.get('phase', 'new')}" + (f": {status['message']}" if status.get("message") else "")


def warnings(api: client.Api, namespace: str) -> list[str]:
    """Return the last warning event of each object in ``namespace``; none when the API does not answer."""
    try:
        events = api.get(f"/api/v1/namespaces/{namespace}/events", {"fieldSelector": "type=Warning"})["items"]
    except client.ApiFailure:
        return []
    last: dict[str, str] = {}
    for event in sorted(events, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or "")):
        last[event["involvedObject"].get("name", "")] = f"{event.get('reason', '')}: {event.get('message', '')}"
    return [f"{name}: {text}" for name, text in sorted(last.items())]
