"""Which keys of the profile add and remove nodes, and the rows of the list."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import network_plan, node_changes, state
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve


def test_added_nodes_get_the_next_number_and_the_given_keys() -> None:
    resolved = resolve("master-2pipe")
    assert node_changes.added(resolved, [], {}) == {"nodes.worker-2": {}}
    assert node_changes.added(resolved, ["master-1", "worker-2"], {"memory": "4GiB"}) == {
        "nodes.master-1": {}, "nodes.master-1.memory": "4GiB", "nodes.worker-2": {}, "nodes.worker-2.memory": "4GiB",
    }  # fmt: skip
    with pytest.raises(DevenvError, match="worker-1") as caught:
        node_changes.added(resolved, ["worker-1"], {})
    assert caught.value.reason.id == "node_exists"


@pytest.mark.parametrize(("unwanted", "reason"), [("worker-7", "node_unknown"), ("master-0", "control_plane_last")])
def test_unknown_and_last_nodes_cannot_be_removed(unwanted: str, reason: str) -> None:
    with pytest.raises(DevenvError) as caught:
        node_changes.removed(resolve("master-2pipe"), [unwanted])
    assert caught.value.reason.id == reason


def test_a_removed_node_becomes_null() -> None:
    assert node_changes.removed(resolve("master-2pipe"), ["worker-0"]) == {"nodes.worker-0": None}


@pytest.mark.parametrize(
    ("have", "following"),
    [(["master-0"], "worker-0"), (["worker-0", "worker-2"], "worker-1"), (["worker-0", "worker-1"], "worker-2")],
)
def test_the_next_worker_has_the_lowest_free_number(have: list[str], following: str) -> None:
    assert node_changes.next_worker(have) == following


def test_rows_mark_leaving_nodes(tmp_path: Path) -> None:
    old = resolve("master-2pipe")
    state.write_network(tmp_path, {**network_plan.make(old, {"ipv4": "10.213.9.0/24"}), "bridge": "podman9"})
    state.write_profile(tmp_path, resolve("master-2pipe", overrides={"nodes.worker-0": None}))
    kubeconfig = tmp_path / "clusters" / "main" / "kubeconfig"
    kubeconfig.parent.mkdir(parents=True)
    kubeconfig.touch()
    queried: list[Path] = []

    def states(path: Path) -> dict[str, str]:
        queried.append(path)
        return {"master-0": "Ready", "worker-0": "NotReady"}

    rows = {
        row["name"]: row for row in node_changes.rows(tmp_path, {"master-0": "running", "worker-0": "exited"}, states)
    }
    assert queried == [kubeconfig]
    assert {name: (row["container"], row["kubernetes"], row["leaving"]) for name, row in rows.items()} == {
        "master-0": ("running", "Ready", False),
        "worker-1": ("absent", "absent", False),
        "worker-0": ("exited", "NotReady", True),
    }
    assert {row["cluster"] for row in rows.values()} == {"main"}
    assert all(row["addresses"] for row in rows.values())
