"""Find the data of apps in a cluster: volumes, folders of nodes, and the containers that write to them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.client import Json
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.clusters import Cluster
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.readiness import not_ready
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import rules
from ansible_collections.devenv.lab.plugins.plugin_utils.validation import checks, probe_pods
from ansible_collections.devenv.lab.plugins.plugin_utils.validation import run as validate


@dataclass(frozen=True)
class ClusterContents:
    """Pods, persistent volumes and claims of a cluster."""

    pods: Sequence[Json]
    volumes: Sequence[Json]
    claims: Sequence[Json]

    @property
    def unready(self) -> list[str]:
        """Names of the pods that are not ready."""
        return [pod_name(pod) for pod in self.pods if not_ready(pod)]


def read(cluster: Cluster, *, force: bool) -> ClusterContents:
    """Read the contents from the API. Raises DevenvError ``snapshot_unhealthy`` if a check fails (unless ``force``) or
    the API does not answer.
    """
    # As in check mode: each check once, without probe pods and without a record.
    report = validate.run(cluster, probes="never", changed=False, timeout=0, domain="", check=True)
    failing = [f"{check.name}: {check.seen}" for check in report.checks if not check.ok]
    if failing and not force:
        raise DevenvError("snapshot_unhealthy", "; ".join(failing), where=f"cluster {cluster.name}")
    with client.Api(client.read_access(cluster.kubeconfig), timeout=30) as api:
        try:
            kinds = [
                api.get(f"/api/v1/{kind}")["items"] for kind in ("pods", "persistentvolumes", "persistentvolumeclaims")
            ]
        except client.ApiFailure as error:
            raise DevenvError("snapshot_unhealthy", f"the API: {error}", where=f"cluster {cluster.name}") from error
    return lasting(*kinds)


def lasting(pods: Sequence[Json], volumes: Sequence[Json], claims: Sequence[Json]) -> ClusterContents:
    """Return the contents without objects that are about to be removed: those of the last validation, which end some
    seconds after it, and volumes of deleted claims. Their folders vanish while others are read.
    """
    pods, claims = ([item for item in items if not is_of_probes(item["metadata"])] for items in (pods, claims))
    volumes = [
        volume for volume in volumes
        if not is_of_probes(volume["spec"].get("claimRef") or {})
        and not (
            volume.get("status", {}).get("phase") == "Released"
            and volume["spec"].get("persistentVolumeReclaimPolicy") == "Delete"
        )
    ]  # fmt: skip
    return ClusterContents(pods, volumes, claims)


def is_of_probes(reference: Json) -> bool:
    """Return whether metadata, or a reference, is in a namespace of probe pods."""
    return str(reference.get("namespace", "")).startswith(probe_pods.NAMESPACE)


def pod_name(pod: Json) -> str:
    """Return namespace/name."""
    return f"{pod['metadata'].get('namespace', '')}/{pod['metadata']['name']}"


def data_paths(contents: ClusterContents, nodes: Sequence[str]) -> dict[str, list[str]]:
    """Return the folders with data of apps, by node: those of persistent volumes, and folders of the node that pods
    mount. Parts of the machine (configs/snapshots.yml) and folders inside other ones are left out.
    """
    folders: dict[str, set[str]] = {node: set() for node in nodes}
    for volume in contents.volumes:
        path = _volume_path(volume)
        for node in _volume_nodes(volume, nodes) if path else ():
            folders[node].add(path)
    for pod in contents.pods:
        node = pod["spec"].get("nodeName", "")
        if node not in folders or pod["metadata"].get("namespace") == checks.SYSTEM:
            continue
        for mount in pod["spec"].get("volumes") or []:
            path = (mount.get("hostPath") or {}).get("path", "")
            if path and mount["hostPath"].get("type") not in ("Socket", "CharDevice", "BlockDevice"):
                folders[node].add(path)
    return {node: _outermost(path for path in paths if rules.is_data(path)) for node, paths in folders.items()}


def _volume_path(volume: Json) -> str:
    spec = volume["spec"]
    return str((spec.get("hostPath") or spec.get("local") or {}).get("path", ""))


def _volume_nodes(volume: Json, nodes: Sequence[str]) -> list[str]:
    """Return the nodes that may have a volume: those of its affinity, or all."""
    required = (volume["spec"].get("nodeAffinity") or {}).get("required") or {}
    named = {
        value
        for term in required.get("nodeSelectorTerms") or []
        for rule in term.get("matchExpressions") or []
        if rule.get("key") == "kubernetes.io/hostname" and rule.get("operator") == "In"
        for value in rule.get("values") or []
    }
    return [node for node in nodes if not named or node in named]


def _outermost(paths: Iterable[str]) -> list[str]:
    kept: list[str] = []
    for path in sorted(os.path.normpath(path) for path in paths):
        if not any(rules.is_below(path, other) for other in kept):
            kept.append(path)
    return kept


def writers(contents: ClusterContents, paths_of: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return the ids of running containers of pods that use a folder with data, by node."""
    volumes = {volume["metadata"]["name"]: _volume_path(volume) for volume in contents.volumes}
    claimed = {pod_name(claim): volumes.get(claim["spec"].get("volumeName", ""), "") for claim in contents.claims}
    containers: dict[str, list[str]] = {node: [] for node in paths_of}
    for pod in contents.pods:
        node, namespace = pod["spec"].get("nodeName", ""), pod["metadata"].get("namespace", "")
        used = set()
        for mount in pod["spec"].get("volumes") or []:
            claim = (mount.get("persistentVolumeClaim") or {}).get("claimName", "")
            used.add(
                claimed.get(f"{namespace}/{claim}", "") if claim else (mount.get("hostPath") or {}).get("path", "")
            )
        folders = paths_of.get(node, ())
        if any(rules.is_below(os.path.normpath(path), folder) for path in used if path for folder in folders):
            containers[node] += [
                status["containerID"].rpartition("/")[2]
                for status in pod.get("status", {}).get("containerStatuses") or []
                if status.get("containerID") and "running" in (status.get("state") or {})
            ]
    return containers
