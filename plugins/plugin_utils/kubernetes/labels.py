"""Labels, taints and pod ranges of Node objects: plan and send the smallest patch to what the profile wants.

The annotations ``devenv.lab/labels`` and ``devenv.lab/taints`` of a node (JSON, name to value) record what devenv set,
so that what leaves the profile is removed, and what others set never is.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import wait
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.nodes import NodeSpec
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.client import Json
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.clusters import Cluster, by_node

LABELS_RECORD = "devenv.lab/labels"
TAINTS_RECORD = "devenv.lab/taints"
WORKER_LABEL = "node-role.kubernetes.io/worker"

POLL = 0.2
_TAINT = re.compile(r"(?P<key>[^=:]+)(?:=(?P<value>[^=:]*))?:(?P<effect>NoSchedule|PreferNoSchedule|NoExecute)")


@dataclass(frozen=True)
class Change:
    """What is to be done to one node. ``patch`` is a JSON merge patch, empty when nothing is to be done; ``before`` and
    ``after`` show the parts that devenv manages; ``conflicts`` name what others set to another value.
    """

    node: str
    patch: Json
    before: Json
    after: Json
    conflicts: tuple[str, ...] = ()


@dataclass
class LabelOutcome:
    """Names of nodes that were written to (in check mode: would be), of those without a Node object; all changes."""

    changed: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)


def parse_taint(text: str) -> dict[str, str]:
    """Return ``key[=value]:Effect`` as a taint of the API. Raises DevenvError ``labels_refused`` for anything else."""
    match = _TAINT.fullmatch(text)
    if match is None:
        raise DevenvError(
            "labels_refused", f"taint {text!r} is not key[=value]:NoSchedule, PreferNoSchedule or NoExecute"
        )
    taint = {"key": match["key"], "effect": match["effect"]}
    return taint | ({"value": match["value"]} if match["value"] else {})


def wanted_labels(node: NodeSpec) -> dict[str, str]:
    """Return the profile's labels, and the worker role, which kubeadm does not set."""
    role = {WORKER_LABEL: ""} if node.group == "workers" else {}
    return role | dict(node.labels)


def plan(current: Json, node: NodeSpec) -> Change:
    """Return the Change that brings the Node object ``current`` to what ``node`` wants."""
    metadata, spec = current["metadata"], current.get("spec", {})
    annotations = metadata.get("annotations") or {}
    labels, taints = metadata.get("labels") or {}, spec.get("taints") or []
    label_patch, label_record, label_conflicts = _plan_values(
        "label", labels, dict(sorted(wanted_labels(node).items())), _record(annotations, LABELS_RECORD)
    )
    wanted_taints = [parse_taint(taint) for taint in node.taints]
    known_taints = _record(annotations, TAINTS_RECORD)
    if TAINTS_RECORD not in annotations:
        # A node registers with its taints: what it has of them before the first record is ours.
        present = _named(taints)
        known_taints = {name: value for name, value in _named(wanted_taints).items() if present.get(name) == value}
    taint_patch, taint_record, taint_conflicts = _plan_values(
        "taint", _named(taints), _named(wanted_taints), known_taints
    )
    # The API replaces the list as a whole.
    new_taints = [dict(taint) for taint in taints if _taint_id(taint) not in taint_patch]
    new_taints += [dict(taint) for taint in wanted_taints if taint_patch.get(_taint_id(taint)) is not None]
    pod_cidrs = spec.get("podCIDRs") or []
    cidrs, cidr_conflicts = _plan_pod_cidrs(pod_cidrs, node.pod_cidrs)
    records = {
        name: _written(record)
        for name, record in ((LABELS_RECORD, label_record), (TAINTS_RECORD, taint_record))
        # On a new node, even an empty record: whatever is set from here on is someone else's.
        if cidrs or _record(annotations, name) != record
    }
    meta_patch: Json = {key: value for key, value in (("labels", label_patch), ("annotations", records)) if value}
    spec_patch: Json = {"taints": new_taints} if taint_patch else {}
    spec_patch |= {"podCIDR": cidrs[0], "podCIDRs": cidrs} if cidrs else {}
    patch: Json = {"spec": spec_patch} if spec_patch else {}
    if meta_patch or spec_patch:
        # The version makes the API refuse the patch when someone else wrote in between: a list is replaced whole.
        patch["metadata"] = meta_patch | {"resourceVersion": metadata["resourceVersion"]}
    old_labels = {key: labels[key] for key in label_patch if key in labels}
    new_labels = {key: value for key, value in label_patch.items() if value is not None}
    return Change(
        node=node.name,
        patch=patch,
        before=_shown(old_labels, taints, pod_cidrs, _recorded(annotations)),
        after=_shown(new_labels, new_taints, cidrs or pod_cidrs, label_record | taint_record),
        conflicts=(*label_conflicts, *taint_conflicts, *cidr_conflicts),
    )


def _plan_values(
    kind: str, current: Mapping[str, str], wanted: Mapping[str, str], record: Mapping[str, str]
) -> tuple[dict[str, str | None], dict[str, str], list[str]]:
    """Return the patch (None: remove it), what is ours afterwards, the conflicts.

    What left the profile is removed while it has the value that devenv set; otherwise someone else owns it.
    """
    patch: dict[str, str | None] = {
        key: None for key, value in sorted(record.items()) if key not in wanted and current.get(key) == value
    }
    ours = {key: value for key, value in record.items() if key in wanted}
    conflicts: list[str] = []
    for key, value in wanted.items():
        if key in current and key not in record and current[key] != value:
            conflicts.append(f"{kind} {key} is {current[key]!r}, set by someone else; the profile wants {value!r}")
        elif current.get(key) != value:
            patch[key] = ours[key] = value
        elif key in ours:
            ours[key] = value
    return patch, ours, conflicts


def _named(taints: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return {_taint_id(taint): str(taint.get("value", "")) for taint in taints}


def _taint_id(taint: Mapping[str, Any]) -> str:
    return f"{taint['key']}:{taint['effect']}"


def _plan_pod_cidrs(present: Sequence[str], wanted: Sequence[str]) -> tuple[list[str], list[str]]:
    if not wanted or list(present) == list(wanted):
        return [], []
    if present:
        # The API never lets them change once they are set.
        return [], [f"pod ranges are {', '.join(present)}; the profile's network gives {', '.join(wanted)}"]
    return list(wanted), []


def _record(annotations: Mapping[str, str], name: str) -> dict[str, str]:
    try:
        record = json.loads(annotations.get(name, "{}"))
    except ValueError:
        return {}
    return {str(key): str(value) for key, value in record.items()} if isinstance(record, dict) else {}


def _recorded(annotations: Mapping[str, str]) -> dict[str, str]:
    return _record(annotations, LABELS_RECORD) | _record(annotations, TAINTS_RECORD)


def _written(record: Mapping[str, str]) -> str:
    return json.dumps(record, sort_keys=True, separators=(",", ":"))


def _shown(
    labels: Mapping[str, str], taints: Sequence[Mapping[str, Any]], cidrs: Sequence[str], ours: Mapping[str, str]
) -> Json:
    return {
        "labels": dict(sorted(labels.items())),
        "taints": sorted(f"{t['key']}={t.get('value', '')}:{t['effect']}" for t in taints),
        "podCIDRs": list(cidrs),
        "ours": dict(sorted(ours.items())),
    }


def is_applied(cluster: Cluster, api: client.Api) -> bool:
    """Return whether all nodes are registered and `apply` would change none. Raises DevenvError as `apply`."""
    outcome = apply(cluster, api, timeout=0, check=True)
    return not outcome.changed and not outcome.absent


def apply(
    cluster: Cluster,
    api: client.Api,
    *,
    timeout: float,
    check: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> LabelOutcome:
    """Bring all nodes of ``cluster`` to what the profile wants; waits up to ``timeout`` seconds for their objects.

    Nothing is written before every node is registered and none has a conflict. With ``check`` nothing is written or
    waited for. Raises DevenvError ``labels_nodes_missing``, ``labels_refused`` or ``api_unreachable``.
    """
    deadline = time.monotonic() + timeout
    nodes = _nodes(cluster, api) if check else _wait_for_nodes(cluster, api, deadline, progress)
    outcome = LabelOutcome(absent=[node.name for node in cluster.nodes if node.name not in nodes])
    outcome.changes = [plan(nodes[node.name], node) for node in cluster.nodes if node.name in nodes]
    conflicts = [f"{change.node}: {text}" for change in outcome.changes for text in change.conflicts]
    if conflicts:
        raise DevenvError("labels_refused", "; ".join(conflicts))
    wanted = {node.name: node for node in cluster.nodes}
    for change in outcome.changes:
        path = f"/api/v1/nodes/{nodes[change.node]['metadata']['name']}"
        written = bool(change.patch) if check else _write(api, path, change, wanted[change.node], deadline)
        if written:
            outcome.changed.append(change.node)
    return outcome


def _nodes(cluster: Cluster, api: client.Api) -> dict[str, Json]:
    """Return the Node objects by name. Raises DevenvError ``api_unreachable``."""
    try:
        return by_node(api.get("/api/v1/nodes")["items"], cluster)
    except client.ApiFailure as error:
        raise DevenvError("api_unreachable", str(error), where=f"cluster {cluster.name}") from error


def _wait_for_nodes(
    cluster: Cluster, api: client.Api, deadline: float, progress: Callable[[str], None]
) -> dict[str, Json]:
    nodes: dict[str, Json] = {}
    failures: list[DevenvError] = []
    report = wait.on_change(progress)

    def are_registered() -> bool:
        nonlocal nodes
        try:
            nodes = _nodes(cluster, api)
        except DevenvError as error:
            failures.append(error)
            return False
        missing = ", ".join(sorted({node.name for node in cluster.nodes} - nodes.keys()))
        if missing:
            where = f"cluster {cluster.name}"
            failures.append(DevenvError("labels_nodes_missing", f"no Node object of {missing}", where=where))
            report(f"waiting for Node objects: {missing}")
        return not missing

    wait.until(are_registered, deadline, lambda: failures[-1], pause=POLL)
    return nodes


def _write(api: client.Api, path: str, change: Change, node: NodeSpec, deadline: float) -> bool:
    """Send the patch; when the object changed meanwhile (kubelet and the controllers write too), plan again. Return
    whether something was written.
    """
    current: Change | None = change
    sent = False
    failures: list[DevenvError] = []

    def is_written() -> bool:
        nonlocal current, sent
        try:
            current = current or plan(api.get(path), node)
            if current.conflicts:
                raise DevenvError("labels_refused", "; ".join(current.conflicts), where=node.name)
            if current.patch:
                api.merge(path, current.patch)
                sent = True
            return True
        except client.ApiError as error:
            failures.append(DevenvError("labels_refused", str(error), where=node.name))
            if error.status != 409:
                raise failures[-1] from error
        except client.ApiUnreachable as error:
            failures.append(DevenvError("api_unreachable", str(error), where=node.name))
            # The patch may have arrived though its answer did not.
            sent = sent or current is not None
        current = None
        return False

    wait.until(is_written, deadline, lambda: failures[-1], pause=POLL)
    return sent
