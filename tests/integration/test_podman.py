"""Queries of podman while other processes change its objects."""

from __future__ import annotations

import secrets
import threading

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import cli as podman

pytestmark = pytest.mark.cluster


def test_networks_are_listed_while_others_come_and_go() -> None:
    stable, changing = (f"e2e-{word}-{secrets.token_hex(2)}" for word in ("stable", "changing"))
    done, failures = threading.Event(), []

    def come_and_go() -> None:
        try:
            while not done.is_set():
                podman.create_network(changing, changing, "/nowhere", ["10.253.0.0/24"])
                podman.podman("network", "rm", changing)
        except Exception as error:
            failures.append(error)

    created = podman.create_network(stable, stable, "/nowhere", ["10.252.0.0/24", "fd00:1::/64"])
    others = threading.Thread(target=come_and_go)
    others.start()
    try:
        lists = [podman.networks() for _ in range(20)]
    finally:
        done.set()
        others.join(timeout=60)
        podman.podman("network", "rm", stable)
    assert failures == []
    assert all(created in networks for networks in lists)
    assert len({changing in [network.name for network in networks] for networks in lists}) == 2, "it never changed"
    assert podman.networks(stable) == []
