"""How healthy an environment is, and the exit code of `devenv status` for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EXIT_CODES = {"healthy": 0, "stopped": 15, "degraded": 16, "unreachable": 17}


def of(status: Mapping[str, Any]) -> str:
    """Return a key of EXIT_CODES for the document of `devenv status`: stopped if all existing nodes are, unreachable
    if nodes run but the API of a cluster does not answer, degraded if a node is missing, stopped or not Ready.
    """
    machines = [node["container"] for node in status["nodes"]]
    members = [node for node in status["nodes"] if node["cluster"]]
    if "running" not in machines:
        return "stopped" if set(machines) - {"absent"} else "degraded"
    if members and status["api"] != "answers":
        return "unreachable"
    healthy = set(machines) == {"running"} and all(node["kubernetes"] == "Ready" for node in members)
    return "healthy" if healthy else "degraded"
