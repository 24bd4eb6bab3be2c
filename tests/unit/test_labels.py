"""The smallest patch that converges a Node object to the profile."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import nodes
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.nodes import NodeSpec
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import labels

DB = {"key": "dedicated", "value": "db", "effect": "NoSchedule"}
ROLE = {"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}
NOT_READY = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}


def spec(
    values: dict[str, str] | None = None,
    taints: tuple[str, ...] = (),
    cidrs: tuple[str, ...] = (),
    group: str = "control_plane",
) -> NodeSpec:
    return NodeSpec("n", group, labels=values or {}, taints=taints, pod_cidrs=cidrs)


def node(
    values: dict[str, str] | None = None,
    *,
    recorded: dict[str, str] | None = None,
    taints: list[dict[str, str]] | None = None,
    recorded_taints: dict[str, str] | None = None,
    cidrs: list[str] | None = None,
) -> dict[str, Any]:
    annotations = {}
    if recorded is not None:
        annotations["devenv.lab/labels"] = json.dumps(recorded)
    if recorded_taints is not None:
        annotations["devenv.lab/taints"] = json.dumps(recorded_taints)
    node_spec: dict[str, Any] = {}
    if taints:
        node_spec["taints"] = taints
    if cidrs:
        node_spec |= {"podCIDR": cidrs[0], "podCIDRs": cidrs}
    return {
        "metadata": {"name": "n", "resourceVersion": "7", "labels": values, "annotations": annotations or None},
        "spec": node_spec,
    }


@pytest.mark.parametrize(
    ("current", "desired"),
    [
        pytest.param(node(), spec(), id="nothing-desired"),
        pytest.param(node({"a": "1", "other": "x"}), spec({"a": "1"}), id="label-set-by-another-program"),
        pytest.param(
            node(taints=[NOT_READY, DB], recorded_taints={}),
            spec(taints=("dedicated=db:NoSchedule",)),
            id="taint-exists",
        ),
        pytest.param(
            node(taints=[NOT_READY, DB], recorded_taints={"dedicated:NoSchedule": "db"}),
            spec(taints=("dedicated=db:NoSchedule",)),
            id="own-taint-exists",
        ),
        pytest.param(
            node({"other": "x"}, recorded={}, taints=[DB], recorded_taints={}),
            spec(),
            id="only-values-of-other-programs",
        ),
        pytest.param(node(taints=[ROLE], recorded_taints={}), spec(), id="role-taint-set-by-hand"),
        pytest.param(node(cidrs=["10.1.0.0/24"]), spec(cidrs=("10.1.0.0/24",)), id="ranges-exist"),
        pytest.param(node(cidrs=["10.1.0.0/24"]), spec(), id="ranges-assigned-by-the-cluster"),
        pytest.param(node({labels.WORKER_LABEL: ""}), spec(group="workers"), id="worker"),
    ],
)
def test_a_converged_node_gets_no_patch(current: dict[str, Any], desired: NodeSpec) -> None:
    change = labels.plan(current, desired)
    assert (change.patch, change.conflicts) == ({}, ())
    assert change.before == change.after


@pytest.mark.parametrize(
    ("current", "desired", "patch"),
    [
        pytest.param(
            node({"other": "x"}),
            spec({"b": "2", "a": "1"}),
            {"metadata": {"labels": {"a": "1", "b": "2"}, "annotations": {"devenv.lab/labels": '{"a":"1","b":"2"}'}}},
            id="new-labels",
        ),
        pytest.param(
            node({"a": "changed"}, recorded={"a": "1", "old": "x"}),
            spec({"a": "1"}),
            {"metadata": {"labels": {"a": "1"}, "annotations": {"devenv.lab/labels": '{"a":"1"}'}}},
            id="own-label-changed-by-hand",
        ),
        pytest.param(
            node({"a": "1", "old": "x", "other": "y"}, recorded={"a": "1", "old": "x"}),
            spec({"a": "1"}),
            {"metadata": {"labels": {"old": None}, "annotations": {"devenv.lab/labels": '{"a":"1"}'}}},
            id="label-left-the-profile",
        ),
        pytest.param(
            node({"old": "theirs"}, recorded={"old": "x"}),
            spec(),
            {"metadata": {"annotations": {"devenv.lab/labels": "{}"}}},
            id="label-left-the-profile-and-was-changed-by-another-program",
        ),
        pytest.param(
            node({"a": "2"}, recorded={"a": "1"}),
            spec({"a": "2"}),
            {"metadata": {"annotations": {"devenv.lab/labels": '{"a":"2"}'}}},
            id="own-label-already-has-the-new-value",
        ),
        pytest.param(
            node(taints=[NOT_READY, DB]),
            spec(taints=("dedicated=db:NoSchedule",)),
            {"metadata": {"annotations": {"devenv.lab/taints": '{"dedicated:NoSchedule":"db"}'}}},
            id="taint-that-the-node-registered-with",
        ),
        pytest.param(
            node(taints=[NOT_READY, DB], recorded_taints={"dedicated:NoSchedule": "db"}),
            spec(),
            {"metadata": {"annotations": {"devenv.lab/taints": "{}"}}, "spec": {"taints": [NOT_READY]}},
            id="taint-left-the-profile",
        ),
        pytest.param(
            node(taints=[DB | {"value": "x"}], recorded_taints={"dedicated:NoSchedule": "db"}),
            spec(),
            {"metadata": {"annotations": {"devenv.lab/taints": "{}"}}},
            id="taint-left-the-profile-and-was-changed-by-another-program",
        ),
        pytest.param(
            node(),
            spec(group="workers"),
            {
                "metadata": {
                    "labels": {labels.WORKER_LABEL: ""},
                    "annotations": {"devenv.lab/labels": f'{{"{labels.WORKER_LABEL}":""}}'},
                }
            },
            id="worker",
        ),
        pytest.param(
            node(taints=[NOT_READY]),
            spec(taints=("dedicated=db:NoSchedule", "slow:PreferNoSchedule")),
            {
                "metadata": {
                    "annotations": {"devenv.lab/taints": '{"dedicated:NoSchedule":"db","slow:PreferNoSchedule":""}'}
                },
                "spec": {"taints": [NOT_READY, DB, {"key": "slow", "effect": "PreferNoSchedule"}]},
            },
            id="new-taints-next-to-others",
        ),
        pytest.param(
            node(taints=[DB | {"value": "x"}], recorded_taints={"dedicated:NoSchedule": "db"}),
            spec(taints=("dedicated=db:NoSchedule",)),
            {"metadata": {}, "spec": {"taints": [DB]}},
            id="own-taint-changed-by-hand",
        ),
        pytest.param(
            node(taints=[NOT_READY], recorded_taints={}),
            spec(taints=(nodes.ROLE_TAINT,)),
            {
                "metadata": {"annotations": {"devenv.lab/taints": f'{{"{nodes.ROLE_TAINT}":""}}'}},
                "spec": {"taints": [NOT_READY, ROLE]},
            },
            id="no-longer-schedulable",
        ),
        pytest.param(
            node(taints=[ROLE, DB], recorded_taints={nodes.ROLE_TAINT: ""}),
            spec(),
            {"metadata": {"annotations": {"devenv.lab/taints": "{}"}}, "spec": {"taints": [DB]}},
            id="schedulable-now",
        ),
        pytest.param(
            node(taints=[ROLE], recorded_taints={}),
            spec(taints=(nodes.ROLE_TAINT,)),
            {"metadata": {"annotations": {"devenv.lab/taints": f'{{"{nodes.ROLE_TAINT}":""}}'}}},
            id="not-schedulable-since-before-it-was-recorded",
        ),
        pytest.param(
            node(),
            spec(cidrs=("10.1.0.0/24", "fd01::/64")),
            {
                "metadata": {"annotations": {"devenv.lab/labels": "{}", "devenv.lab/taints": "{}"}},
                "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd01::/64"]},
            },
            id="new-node",
        ),
        pytest.param(
            {"metadata": {"name": "n", "annotations": {"devenv.lab/labels": "[oops"}}, "spec": {}},
            spec({"a": "1"}),
            {"metadata": {"labels": {"a": "1"}, "annotations": {"devenv.lab/labels": '{"a":"1"}'}}},
            id="broken-record",
        ),
    ],
)
def test_the_patch_converges_the_node(current: dict[str, Any], desired: NodeSpec, patch: dict[str, Any]) -> None:
    """A second plan after the patch is empty."""
    current["metadata"]["resourceVersion"] = "7"
    patch["metadata"]["resourceVersion"] = "7"
    change = labels.plan(current, desired)
    assert (change.patch, change.conflicts) == (patch, ())
    assert change.before != change.after
    again = labels.plan(merged(current, patch), desired)
    assert (again.patch, again.conflicts) == ({}, ())


def merged(current: Any, patch: Any) -> Any:
    """Apply a JSON merge patch (RFC 7396)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(current) if isinstance(current, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


@pytest.mark.parametrize(
    ("current", "desired", "conflict"),
    [
        (node({"a": "theirs"}), spec({"a": "1"}), "label a is 'theirs', set by another program; the profile has '1'"),
        (
            node(taints=[DB | {"value": "x"}]),
            spec(taints=("dedicated=db:NoSchedule",)),
            "taint dedicated:NoSchedule is 'x', set by another program; the profile has 'db'",
        ),
        (
            node(cidrs=["10.1.0.0/24"]),
            spec(cidrs=("10.2.0.0/24",)),
            "pod ranges are 10.1.0.0/24; those of the profile's network are 10.2.0.0/24",
        ),
    ],
)
def test_values_of_other_programs_are_conflicts(current: dict[str, Any], desired: NodeSpec, conflict: str) -> None:
    change = labels.plan(current, desired)
    assert (change.patch, change.conflicts) == ({}, (conflict,))


@pytest.mark.parametrize(
    ("text", "taint"),
    [
        ("dedicated=db:NoSchedule", DB),
        ("a:NoExecute", {"key": "a", "effect": "NoExecute"}),
        ("a=:NoExecute", {"key": "a", "effect": "NoExecute"}),
    ],
)
def test_taints_are_parsed(text: str, taint: dict[str, str]) -> None:
    assert labels.parse_taint(text) == taint


@pytest.mark.parametrize("text", ["", "a", "a=b", "a:Never", "=b:NoSchedule", "a=b:NoSchedule:x"])
def test_invalid_taints_are_rejected(text: str) -> None:
    with pytest.raises(DevenvError, match="is not key"):
        labels.parse_taint(text)
