"""The steps that all providers of machines share: order, outcomes, claims."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import members, network_plan, state
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.nodes import NodeSpec
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.types import NetworkPlan
from ansible_collections.devenv.lab.plugins.plugin_utils.host import dhcp, publish
from ansible_collections.devenv.lab.plugins.plugin_utils.host import network as host_network
from ansible_collections.devenv.lab.plugins.plugin_utils.host.network import Network
from ansible_collections.devenv.lab.plugins.plugin_utils.host.probes import Probe
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import machines, registry
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import (
    RUNNING,
    Machine,
    ProvisionOutcome,
    Request,
)


class Memory(machines.MachineProvider):
    """Machines in memory; ``steps`` are the calls that change this host."""

    name: ClassVar[str] = "podman"
    failure: ClassVar[str] = "podman_failed"

    def __init__(self, **states: str) -> None:
        self.states_by_node = {name.replace("_", "-"): state for name, state in states.items()}
        self.claimed: list[Network] = []
        self.kept: set[str] = set()
        self.steps: list[str] = []

    def bring_up(
        self, request: Request, plan: NetworkPlan, nodes: Sequence[NodeSpec], outcome: ProvisionOutcome, *, create: bool
    ) -> None:
        for node in nodes:
            if node.name in self.states_by_node or create:
                (outcome.started if node.name in self.states_by_node else outcome.made).append(node.name)
                self.states_by_node[node.name] = RUNNING
        self.steps.append("bring up")

    def shut_down(self, environment: str, running: Sequence[Machine], grace: int) -> list[str]:
        self.states_by_node.update({machine.node: "exited" for machine in running})
        return [f"{len(running)} after {grace} s"]

    def discard(self, environment: str, machines: Sequence[Machine]) -> None:
        for machine in machines:
            del self.states_by_node[machine.node]

    def machines(self, environment: str | None = None) -> list[Machine]:
        return [Machine(f"lab-{node}", "lab", node, "", state, 1) for node, state in self.states_by_node.items()]

    def networks(self, environment: str | None = None) -> list[Network]:
        return list(self.claimed)

    def claim_network(self, environment: str, home: str, subnets: Sequence[str]) -> Network:
        self.claimed.append(Network("devenv-lab", environment, home, "br0", list(subnets)))
        return self.claimed[0]

    def release_network(self, environment: str, networks: Sequence[Network]) -> list[str]:
        self.claimed.clear()
        return ["released"]

    def intact(self, request: Request, existing: Sequence[Machine]) -> set[str]:
        return self.states_by_node.keys() | self.kept

    def volumes(self, request: Request, node: str) -> list[str]:
        return [f"volume-of-{node}"] if node.startswith("worker") else []

    def capacity_probes(self, profile: Any, missing: Any) -> list[Probe]:
        return []

    def wait(self, request: Request, nodes: Sequence[NodeSpec]) -> None:
        self.steps.append(f"wait for {', '.join(node.name for node in nodes)}")


@pytest.fixture
def use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that makes a provider the only one, with a network that is always complete."""
    monkeypatch.setenv("DEVENV_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(host_network, "ALLOCATOR", tmp_path / "lock")
    monkeypatch.setattr(host_network, "routes", dict)
    monkeypatch.setattr(host_network, "remove", lambda environment, bridges: [f"bridges {' '.join(bridges)}"])
    monkeypatch.setattr(publish, "remove", lambda environment: None)
    monkeypatch.setattr(dhcp, "stop", lambda environment: True)

    def use(provider: Memory) -> Request:
        def set_up(environment: str, folder: Path, plan: NetworkPlan, *, serve_dhcp: bool) -> bool:
            provider.steps.append(f"network {plan['bridge']}")
            return "bring up" in provider.steps

        monkeypatch.setattr(registry, "every", lambda: [provider])
        monkeypatch.setattr(host_network, "set_up", set_up)
        request = Request("lab", resolve("master-2pipe"))
        if provider.states_by_node:
            state.write_network(request.folder, network_plan.make(request.profile, {"ipv4": "10.213.9.0/24"}))
        return request

    return use


ALL = "wait for master-0, worker-0, worker-1"


def test_create_sets_up_the_network_before_and_after_the_nodes(use: Any) -> None:
    provider = Memory(worker_1="exited", master_0=RUNNING)
    request = use(provider)
    outcome = provider.create(request)
    assert (outcome.made, outcome.started) == (["worker-0"], ["worker-1"])
    assert outcome.notes == ["network of this host repaired"]
    assert provider.steps == ["network br0", "bring up", "network br0", ALL]
    assert (state.read_network(request.folder) or {})["bridge"] == "br0"
    assert "worker-1" in (request.folder / "ssh" / "known_hosts").read_text()


def test_create_leaves_running_nodes_alone(use: Any) -> None:
    provider = Memory(master_0=RUNNING, worker_0=RUNNING, worker_1=RUNNING)
    outcome = provider.create(use(provider))
    assert (outcome.changed, outcome.notes, provider.steps) == (False, [], ["network br0", ALL])


def test_start_creates_nothing(use: Any) -> None:
    provider = Memory(worker_1="exited", master_0="exited")
    outcome = provider.start(use(provider))
    assert (outcome.made, outcome.started, outcome.notes) == ([], ["master-0", "worker-1"], [])


def test_stop_shuts_down_running_nodes(use: Any) -> None:
    provider = Memory(worker_1="exited", master_0=RUNNING)
    outcome = provider.stop(use(provider), 7)
    assert (outcome.stopped, outcome.notes) == (["master-0"], ["1 after 7 s"])
    assert provider.stop(use(provider), 7).changed is False


def test_remove_takes_data_of_the_named_nodes_only(use: Any) -> None:
    provider = Memory(worker_1="exited", master_0=RUNNING)
    request = use(provider)
    for node in ("worker-0", "worker-1", "master-0"):
        (request.folder / "nodes" / node).mkdir(parents=True)
    assert provider.remove(request, ["worker-0", "worker-1"]).removed == ["worker-1"]
    assert [entry.name for entry in (request.folder / "nodes").iterdir()] == ["master-0"]
    assert list(provider.states_by_node) == ["master-0"]


def test_destroy_removes_nodes_network_and_claim(use: Any) -> None:
    provider = Memory(master_0=RUNNING)
    request = use(provider)
    machines.claim(provider, request)
    outcome = provider.destroy(request)
    assert outcome.removed == ["master-0", "DHCP server", "bridges br0", "devenv-lab"]
    assert (outcome.notes, provider.claimed) == (["released"], [])


def lost(use: Any, provider: Memory) -> Request:
    """Return a request of an environment whose cluster came up once."""
    request: Request = use(provider)
    state.write_network(request.folder, network_plan.make(request.profile, {"ipv4": "10.213.9.0/24"}))
    members.record(request.folder, "main", ["master-0"])
    return request


@pytest.mark.parametrize("states", [{}, {"worker_0": RUNNING}])
@pytest.mark.parametrize("method", ["create", "preflight"])
def test_an_empty_cluster_never_replaces_a_lost_one(use: Any, states: dict[str, str], method: str) -> None:
    provider = Memory(**states)
    request = lost(use, provider)
    with pytest.raises(DevenvError, match=r"master-0.*volumes on worker-0: volume-of-worker-0") as caught:
        getattr(provider, method)(request)
    assert (caught.value.reason.id, caught.value.exit_code) == ("cluster_lost", 9)
    assert (provider.steps, members.recorded(request.folder)) == ([], {"main": ["master-0"]})


def test_all_nodes_of_a_lost_cluster_are_recreated_if_the_run_accepts_it(use: Any) -> None:
    provider = Memory(worker_0=RUNNING)
    request = dataclasses.replace(lost(use, provider), recreate=True)
    assert provider.create(request).made == ["master-0", "worker-0", "worker-1"]
    assert members.recorded(request.folder) == {}
    # Now it has nothing more to lose.
    assert not provider.create(request).changed


def test_nodes_with_kept_data_are_created_without_a_question(use: Any) -> None:
    provider = Memory()
    provider.kept = {"master-0"}
    request = lost(use, provider)
    provider.create(request)
    assert members.recorded(request.folder) == {"main": ["master-0"]}


def test_machines_without_their_state_directory_are_refused(use: Any) -> None:
    provider = Memory(master_0="exited", worker_0="exited")
    request: Request = use(provider)
    (request.folder / "network.yml").unlink()
    with pytest.raises(DevenvError, match="master-0, worker-0: the keys and records") as caught:
        provider.create(request)
    assert (caught.value.reason.id, caught.value.exit_code) == ("state_lost", 9)
    accepted = provider.create(dataclasses.replace(request, recreate=True))
    assert accepted.made == ["master-0", "worker-0", "worker-1"]
