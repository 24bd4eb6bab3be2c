"""Labels, taints and pod ranges of Node objects: plan and send the smallest patch to the profile's values.

The annotations ``devenv.lab/labels`` and ``devenv.lab/taints`` of a node (JSON, name to value) record what devenv set,
so that a label that leaves the profile is removed, and one of another program never is.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ansible_collections.devenv.lab.plugins.plugin_utils.core import wait
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.nodes import ROLE_TAINT, NodeSpec
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
    """The change of one node. ``patch`` is a JSON merge patch, empty if there is nothing to change; ``before`` and
    ``after`` show the parts that devenv manages; ``conflicts`` name what other programs set to another value.
    """

    node: str
    patch: Json
    before: Json
    after: Json
    conflicts: tuple[str, ...] = ()


@dataclass
class LabelOutcome:
    """Names of changed nodes (in check mode: that would change), names of nodes without a Node object, all changes."""

    changed: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)


def parse_taint(text: str) -> dict[str, str]:
    """Return the taint ``key[=value]:Effect`` in the form of the API. Raises DevenvError ``labels_refused``."""
    match = _TAINT.fullmatch(text)
    if match is None:
        raise DevenvError(
            "labels_refused", f"taint {text!r} is not key[=value]:NoSchedule, PreferNoSchedule or NoExecute"
        )
    taint = {"key": match["key"], "effect": match["effect"]}
    return taint | ({"value": match["value"]} if match["value"] else {})


def plan(current: Json, node: NodeSpec) -> Change:
    """Return the Change that converges the Node object ``current`` to ``node``."""
    metadata, spec = current["metadata"], current.get("spec", {})
    annotations = metadata.get("annotations") or {}
    labels, taints = metadata.get("labels") or {}, spec.get("taints") or []
    pod_cidrs = spec.get("podCIDRs") or []
    records = {name: _record(annotations, name) for name in (LABELS_RECORD, TAINTS_RECORD)}
    # kubeadm does not set the worker role.
    role = {WORKER_LABEL: ""} if node.group == "workers" else {}
    label_plan = _plan_values("label", labels, dict(sorted((role | dict(node.labels)).items())), records[LABELS_RECORD])
    desired_taints = [parse_taint(taint) for taint in node.taints]
    actual, desired, owned = _taint_values(taints), _taint_values(desired_taints), records[TAINTS_RECORD]
    if TAINTS_RECORD not in annotations:
        # A node registers with its taints, so those that it has before the first record are owned by devenv.
        owned = {name: value for name, value in desired.items() if actual.get(name) == value}
    elif ROLE_TAINT in desired and ROLE_TAINT in actual:
        # Set at the node's registration; earlier versions did not record it.
        owned = {**owned, ROLE_TAINT: ""}
    taint_plan = _plan_values("taint", actual, desired, owned)
    # The API replaces the list as a whole.
    new_taints = [dict(taint) for taint in taints if _taint_id(taint) not in taint_plan.patch]
    new_taints += [dict(taint) for taint in desired_taints if taint_plan.patch.get(_taint_id(taint)) is not None]
    cidrs, cidr_conflicts = _plan_pod_cidrs(pod_cidrs, node.pod_cidrs)
    new_records = {
        name: json.dumps(owned, sort_keys=True, separators=(",", ":"))
        for name, owned in ((LABELS_RECORD, label_plan.owned), (TAINTS_RECORD, taint_plan.owned))
        # On a new node even an empty record: what is set from now on is set by other programs.
        if cidrs or records[name] != owned
    }
    parts = (("labels", label_plan.patch), ("annotations", new_records))
    meta_patch: Json = {key: value for key, value in parts if value}
    spec_patch: Json = {"taints": new_taints} if taint_plan.patch else {}
    spec_patch |= {"podCIDR": cidrs[0], "podCIDRs": cidrs} if cidrs else {}
    patch: Json = {"spec": spec_patch} if spec_patch else {}
    if meta_patch or spec_patch:
        # With the version, the API rejects the patch if another program wrote in between: a list is replaced whole.
        patch["metadata"] = meta_patch | {"resourceVersion": metadata["resourceVersion"]}
    old_labels = {key: labels[key] for key in label_plan.patch if key in labels}
    new_labels = {key: value for key, value in label_plan.patch.items() if value is not None}
    return Change(
        node=node.name,
        patch=patch,
        before=_shown(old_labels, taints, pod_cidrs, records[LABELS_RECORD] | records[TAINTS_RECORD]),
        after=_shown(new_labels, new_taints, cidrs or pod_cidrs, label_plan.owned | taint_plan.owned),
        conflicts=(*label_plan.conflicts, *taint_plan.conflicts, *cidr_conflicts),
    )


class _ValuesPlan(NamedTuple):
    """The patch (None removes a key), the values that devenv owns afterwards, the conflicts."""

    patch: dict[str, str | None]
    owned: dict[str, str]
    conflicts: list[str]


def _plan_values(
    kind: str, actual: Mapping[str, str], desired: Mapping[str, str], record: Mapping[str, str]
) -> _ValuesPlan:
    """Plan labels or taints. A value that left the profile is removed only if it is still the one that devenv set;
    otherwise another program owns it.
    """
    patch: dict[str, str | None] = {
        key: None for key, value in sorted(record.items()) if key not in desired and actual.get(key) == value
    }
    owned = {key: value for key, value in record.items() if key in desired}
    conflicts: list[str] = []
    for key, value in desired.items():
        if key in actual and key not in record and actual[key] != value:
            conflicts.append(f"{kind} {key} is {actual[key]!r}, set by another program; the profile has {value!r}")
        elif actual.get(key) != value:
            patch[key] = owned[key] = value
        elif key in owned:
            owned[key] = value
    return _ValuesPlan(patch, owned, conflicts)


def _taint_values(taints: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return {_taint_id(taint): str(taint.get("value", "")) for taint in taints}


def _taint_id(taint: Mapping[str, Any]) -> str:
    return f"{taint['key']}:{taint['effect']}"


def _plan_pod_cidrs(actual: Sequence[str], desired: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the pod ranges to set, and the conflicts."""
    if not desired or list(actual) == list(desired):
        return [], []
    if actual:
        # The API does not allow a change of pod ranges.
        return [], [f"pod ranges are {', '.join(actual)}; those of the profile's network are {', '.join(desired)}"]
    return list(desired), []


def _record(annotations: Mapping[str, str], name: str) -> dict[str, str]:
    try:
        record = json.loads(annotations.get(name, "{}"))
    except ValueError:
        return {}
    return {str(key): str(value) for key, value in record.items()} if isinstance(record, dict) else {}


def _shown(
    labels: Mapping[str, str], taints: Sequence[Mapping[str, Any]], cidrs: Sequence[str], owned: Mapping[str, str]
) -> Json:
    return {
        "labels": dict(sorted(labels.items())),
        "taints": sorted(f"{t['key']}={t.get('value', '')}:{t['effect']}" for t in taints),
        "podCIDRs": list(cidrs),
        "owned": dict(sorted(owned.items())),
    }


def is_applied(cluster: Cluster, api: client.Api) -> bool:
    """Return whether all nodes are registered and have converged. Raises DevenvError as `apply`."""
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
    """Converge all nodes of ``cluster`` to the profile; wait up to ``timeout`` seconds for their Node objects.

    Nothing is written before every node is registered and none has a conflict. With ``check``, nothing is written and
    there is no wait. Raises DevenvError ``labels_nodes_missing``, ``labels_refused`` or ``api_unreachable``.
    """
    where = f"cluster {cluster.name}"
    outcome = LabelOutcome()
    failures: list[DevenvError] = []
    report = wait.on_change(progress)

    def is_converged() -> bool:
        try:
            nodes = by_node(api.get("/api/v1/nodes")["items"], cluster)
        except client.ApiFailure as error:
            failures.append(DevenvError("api_unreachable", str(error), where=where))
            return False
        outcome.absent = sorted({node.name for node in cluster.nodes} - nodes.keys())
        if outcome.absent and not check:
            names = ", ".join(outcome.absent)
            failures.append(DevenvError("labels_nodes_missing", f"no Node object of {names}", where=where))
            report(f"waiting for Node objects: {names}")
            return False
        changes = [plan(nodes[node.name], node) for node in cluster.nodes if node.name in nodes]
        conflicts = [f"{change.node}: {text}" for change in changes for text in change.conflicts]
        if conflicts:
            raise DevenvError("labels_refused", "; ".join(conflicts))
        outcome.changes = outcome.changes or changes
        done = True
        for change in changes:
            if change.patch:
                path = f"/api/v1/nodes/{nodes[change.node]['metadata']['name']}"
                failure = None if check else _write(api, path, change)
                # A patch without an answer may have arrived.
                if change.node not in outcome.changed and (failure is None or failure.reason.id == "api_unreachable"):
                    outcome.changed.append(change.node)
                if failure is not None:
                    failures.append(failure)
                    done = False
        return done

    wait.until(is_converged, time.monotonic() + (0 if check else timeout), lambda: failures[-1], pause=POLL)
    return outcome


def _write(api: client.Api, path: str, change: Change) -> DevenvError | None:
    """Send the patch; return an error if the node has to be planned again."""
    try:
        api.merge(path, change.patch)
    except client.ApiError as error:
        rejection = DevenvError("labels_refused", str(error), where=change.node)
        # 409: the object has changed meanwhile; kubelet and the controllers write too.
        if error.status != 409:
            raise rejection from error
        return rejection
    except client.ApiUnreachable as error:
        return DevenvError("api_unreachable", str(error), where=change.node)
    return None
