"""The smallest patch from a Node object to what the profile wants."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.nodes import NodeSpec
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import labels

DB = {"key": "dedicated", "value": "db", "effect": "NoSchedule"}
NOT_READY = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}


def wanted(
    own: dict[str, str] | None = None,
    taints: tuple[str, ...] = (),
    cidrs: tuple[str, ...] = (),
    group: str = "control_plane",
) -> NodeSpec:
    return NodeSpec("n", group, labels=own or {}, taints=taints, pod_cidrs=cidrs)


def node(
    own: dict[str, str] | None = None,
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
    spec: dict[str, Any] = {}
    if taints:
        spec["taints"] = taints
    if cidrs:
        spec |= {"podCIDR": cidrs[0], "podCIDRs": cidrs}
    return {
        "metadata": {"name": "n", "resourceVersion": "7", "labels": own, "annotations": annotations or None},
        "spec": spec,
    }


@pytest.mark.parametrize(
    ("current", "node_wanted"),
    [
        pytest.param(node(), wanted(), id="nothing-wanted"),
        pytest.param(node({"a": "1", "other": "x"}), wanted({"a": "1"}), id="label-there-though-not-ours"),
        pytest.param(
            node(taints=[NOT_READY, DB], recorded_taints={}),
            wanted(taints=("dedicated=db:NoSchedule",)),
            id="taint-there",
        ),
        pytest.param(
            node(taints=[NOT_READY, DB], recorded_taints={"dedicated:NoSchedule": "db"}),
            wanted(taints=("dedicated=db:NoSchedule",)),
            id="taint-of-ours-there",
        ),
        pytest.param(node({"other": "x"}, recorded={}, taints=[DB], recorded_taints={}), wanted(), id="all-of-others"),
        pytest.param(node(cidrs=["10.1.0.0/24"]), wanted(cidrs=("10.1.0.0/24",)), id="ranges-there"),
        pytest.param(node(cidrs=["10.1.0.0/24"]), wanted(), id="ranges-of-the-cluster's-own"),
        pytest.param(node({labels.WORKER_LABEL: ""}), wanted(group="workers"), id="worker"),
    ],
)
def test_nothing_to_do(current: dict[str, Any], node_wanted: NodeSpec) -> None:
    change = labels.plan(current, node_wanted)
    assert (change.patch, change.conflicts) == ({}, ())
    assert change.before == change.after


@pytest.mark.parametrize(
    ("current", "node_wanted", "patch"),
    [
        pytest.param(
            node({"other": "x"}),
            wanted({"b": "2", "a": "1"}),
            {"metadata": {"labels": {"a": "1", "b": "2"}, "annotations": {"devenv.lab/labels": '{"a":"1","b":"2"}'}}},
            id="new-labels",
        ),
        pytest.param(
            node({"a": "changed"}, recorded={"a": "1", "old": "x"}),
            wanted({"a": "1"}),
            {"metadata": {"labels": {"a": "1"}, "annotations": {"devenv.lab/labels": '{"a":"1"}'}}},
            id="ours-changed-by-hand",
        ),
        pytest.param(
            node({"a": "1", "old": "x", "other": "y"}, recorded={"a": "1", "old": "x"}),
            wanted({"a": "1"}),
            {"metadata": {"labels": {"old": None}, "annotations": {"devenv.lab/labels": '{"a":"1"}'}}},
            id="label-left-the-profile",
        ),
        pytest.param(
            node({"old": "theirs"}, recorded={"old": "x"}),
            wanted(),
            {"metadata": {"annotations": {"devenv.lab/labels": "{}"}}},
            id="label-left-the-profile-and-is-someone-else's-by-now",
        ),
        pytest.param(
            node({"a": "2"}, recorded={"a": "1"}),
            wanted({"a": "2"}),
            {"metadata": {"annotations": {"devenv.lab/labels": '{"a":"2"}'}}},
            id="label-of-ours-has-the-new-value-already",
        ),
        pytest.param(
            node(taints=[NOT_READY, DB]),
            wanted(taints=("dedicated=db:NoSchedule",)),
            {"metadata": {"annotations": {"devenv.lab/taints": '{"dedicated:NoSchedule":"db"}'}}},
            id="taint-that-the-node-registered-with",
        ),
        pytest.param(
            node(taints=[NOT_READY, DB], recorded_taints={"dedicated:NoSchedule": "db"}),
            wanted(),
            {"metadata": {"annotations": {"devenv.lab/taints": "{}"}}, "spec": {"taints": [NOT_READY]}},
            id="taint-left-the-profile",
        ),
        pytest.param(
            node(taints=[DB | {"value": "x"}], recorded_taints={"dedicated:NoSchedule": "db"}),
            wanted(),
            {"metadata": {"annotations": {"devenv.lab/taints": "{}"}}},
            id="taint-left-the-profile-and-is-someone-else's-by-now",
        ),
        pytest.param(
            node(),
            wanted(group="workers"),
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
            wanted(taints=("dedicated=db:NoSchedule", "slow:PreferNoSchedule")),
            {
                "metadata": {
                    "annotations": {"devenv.lab/taints": '{"dedicated:NoSchedule":"db","slow:PreferNoSchedule":""}'}
                },
                "spec": {"taints": [NOT_READY, DB, {"key": "slow", "effect": "PreferNoSchedule"}]},
            },
            id="new-taints-beside-others",
        ),
        pytest.param(
            node(taints=[DB | {"value": "x"}], recorded_taints={"dedicated:NoSchedule": "db"}),
            wanted(taints=("dedicated=db:NoSchedule",)),
            {"metadata": {}, "spec": {"taints": [DB]}},
            id="taint-of-ours-changed-by-hand",
        ),
        pytest.param(
            node(),
            wanted(cidrs=("10.1.0.0/24", "fd01::/64")),
            {
                "metadata": {"annotations": {"devenv.lab/labels": "{}", "devenv.lab/taints": "{}"}},
                "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd01::/64"]},
            },
            id="new-node",
        ),
        pytest.param(
            {"metadata": {"name": "n", "annotations": {"devenv.lab/labels": "[oops"}}, "spec": {}},
            wanted({"a": "1"}),
            {"metadata": {"labels": {"a": "1"}, "annotations": {"devenv.lab/labels": '{"a":"1"}'}}},
            id="broken-record",
        ),
    ],
)
def test_patch(current: dict[str, Any], node_wanted: NodeSpec, patch: dict[str, Any]) -> None:
    """Done once, nothing is left to do."""
    current["metadata"]["resourceVersion"] = "7"
    patch["metadata"]["resourceVersion"] = "7"
    change = labels.plan(current, node_wanted)
    assert (change.patch, change.conflicts) == (patch, ())
    assert change.before != change.after
    again = labels.plan(merged(current, patch), node_wanted)
    assert (again.patch, again.conflicts) == ({}, ())


def merged(current: Any, patch: Any) -> Any:
    """A JSON merge patch (RFC 7396) applied."""
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
    ("current", "node_wanted", "says"),
    [
        (node({"a": "theirs"}), wanted({"a": "1"}), "label a is 'theirs', set by someone else; the profile wants '1'"),
        (
            node(taints=[DB | {"value": "x"}]),
            wanted(taints=("dedicated=db:NoSchedule",)),
            "taint dedicated:NoSchedule is 'x', set by someone else; the profile wants 'db'",
        ),
        (
            node(cidrs=["10.1.0.0/24"]),
            wanted(cidrs=("10.2.0.0/24",)),
            "pod ranges are 10.1.0.0/24; the profile's network gives 10.2.0.0/24",
        ),
    ],
)
def test_conflicts(current: dict[str, Any], node_wanted: NodeSpec, says: str) -> None:
    change = labels.plan(current, node_wanted)
    assert (change.patch, change.conflicts) == ({}, (says,))


@pytest.mark.parametrize(
    ("text", "taint"),
    [
        ("dedicated=db:NoSchedule", DB),
        ("a:NoExecute", {"key": "a", "effect": "NoExecute"}),
        ("a=:NoExecute", {"key": "a", "effect": "NoExecute"}),
    ],
)
def test_parse_taint(text: str, taint: dict[str, str]) -> None:
    assert labels.parse_taint(text) == taint


@pytest.mark.parametrize("text", ["", "a", "a=b", "a:Never", "=b:NoSchedule", "a=b:NoSchedule:x"])
def test_refused_taints(text: str) -> None:
    with pytest.raises(DevenvError, match="is not key"):
        labels.parse_taint(text)
