"""Wait for the apps of a snapshot in a new environment."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ansible_collections.devenv.lab.plugins.plugin_utils.core import wait
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.clusters import Cluster
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.readiness import not_ready
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots.catalogue import Snapshot
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots.contents import is_of_probes, pod_name
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.levels import problems


def for_apps(snapshot: Snapshot, clusters: Sequence[Cluster], timeout: float, progress: Callable[[str], None]) -> int:
    """Wait until every pod is ready that was ready in the snapshot; return the number of pods.

    Raises DevenvError ``snapshot_apps`` with the pods that are not ready after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    unready = set(snapshot.manifest.get("unready", []))
    return sum(_for_pods(cluster, unready, deadline, progress) for cluster in clusters)


def _for_pods(cluster: Cluster, unready: set[str], deadline: float, progress: Callable[[str], None]) -> int:
    missing: dict[str, str] = {}
    required: list[client.Json] = []
    report = wait.on_change(progress)

    def are_ready() -> bool:
        nonlocal missing, required
        try:
            items = api.get("/api/v1/pods")["items"]
        except client.ApiFailure as error:
            missing = {"the API": str(error)}
        else:
            alive = [pod for pod in items if "deletionTimestamp" not in pod["metadata"]]
            required = [pod for pod in alive if pod_name(pod) not in unready and not is_of_probes(pod["metadata"])]
            missing = {pod_name(pod): why for pod in required if (why := not_ready(pod))}
        if missing:
            report(f"waiting for {problems(sorted(missing))}")
        return not missing

    def failure() -> DevenvError:
        text = problems([f"{pod} {why}" for pod, why in missing.items()])
        return DevenvError("snapshot_apps", text, where=f"cluster {cluster.name}")

    with client.Api(client.read_access(cluster.kubeconfig)) as api:
        wait.until(are_ready, deadline, failure)
    return len(required)
