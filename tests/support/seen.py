"""What a test compares before and after a run that must change nothing."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from support.commands import Typed


def inside(container: str, *argv: str) -> str:
    """Run a program in a container; return its standard output."""
    done = subprocess.run(["podman", "exec", container, *argv], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def untouched(user: Typed, name: str, nodes: list[str]) -> dict[str, Any]:
    """Return start times of the containers, versions of the API objects that devenv writes, digests of /etc/kubernetes.

    Of Node objects only the parts that devenv writes are compared, because the kubelet updates their status.
    """
    containers = {}
    for node in nodes:
        shown = json.loads(
            subprocess.run(
                ["podman", "inspect", f"{name}-{node}"], capture_output=True, text=True, check=True, timeout=60
            ).stdout
        )[0]
        containers[node] = (shown["Id"], shown["State"]["StartedAt"])
    listed = json.loads(user.kubectl(name, "get", "deployments,daemonsets,namespaces", "-A", "-o", "json").stdout)
    objects = {
        "/".join((item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"])): item["metadata"][
            "resourceVersion"
        ]
        for item in listed["items"]
        # The namespace of the probes is deleted without waiting.
        if not (item["metadata"].get("namespace") or item["metadata"]["name"]).startswith("devenv-validate-")
    }
    items = json.loads(user.kubectl(name, "get", "nodes", "-o", "json").stdout)["items"]
    return {
        "containers": containers,
        "objects": objects,
        "nodes": {
            item["metadata"]["name"]: (item["metadata"]["labels"], item["metadata"]["annotations"], item["spec"])
            for item in items
        },
        "files": {
            node: inside(f"{name}-{node}", "sh", "-c", "find /etc/kubernetes -type f -exec sha256sum {} + | sort")
            for node in nodes
        },
    }
