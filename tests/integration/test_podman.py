"""What we ask podman, asked of podman, while others change what it has."""

from __future__ import annotations

import secrets
import threading

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import cli as podman

pytestmark = pytest.mark.cluster


def test_networks_of_others_may_end_at_any_moment() -> None:
    mine, theirs = (f"e2e-{word}-{secrets.token_hex(2)}" for word in ("mine", "theirs"))
    over, failures = threading.Event(), []

    def come_and_go() -> None:
        try:
            while not over.is_set():
                podman.create_network(theirs, theirs, "/nowhere", ["10.253.0.0/24"])
                podman.podman("network", "rm", theirs)
        except Exception as error:
            failures.append(error)

    made = podman.create_network(mine, mine, "/nowhere", ["10.252.0.0/24", "fd00:1::/64"])
    others = threading.Thread(target=come_and_go)
    others.start()
    try:
        seen = [podman.networks() for _ in range(20)]
    finally:
        over.set()
        others.join(timeout=60)
        podman.podman("network", "rm", mine)
    assert failures == []
    assert all(made in networks for networks in seen)
    assert len({theirs in [network.name for network in networks] for networks in seen}) == 2, "it neither came nor went"
    assert podman.networks(mine) == []
