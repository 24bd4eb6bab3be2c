"""The modules for nodes: which method of a provider they call, in check mode as well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.core.program import ProgramFailed
from ansible_collections.devenv.lab.plugins.plugin_utils.host.probes import Probe
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import provider_traits
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import base, module, registry
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import Machine, ProvisionOutcome, Request


class Recording(base.Provider):
    """Records its calls; has one running machine."""

    name: ClassVar[str] = "libvirt"
    failure: ClassVar[str] = "libvirt_failed"

    def __init__(self) -> None:
        self.calls: list[str] = []

    def create(self, request: Request) -> ProvisionOutcome:
        self.calls.append(f"create {request.options['image']}")
        return ProvisionOutcome(made=["master-0"], notes=["made"])

    def start(self, request: Request) -> ProvisionOutcome:
        raise ProgramFailed(["virsh", "start"], 1, "no")

    def stop(self, request: Request, grace: int) -> ProvisionOutcome:
        self.calls.append(f"stop {grace}")
        return ProvisionOutcome()

    def destroy(self, request: Request) -> ProvisionOutcome:
        self.calls.append("destroy")
        return ProvisionOutcome(removed=["master-0"])

    def remove(self, request: Request, names: Sequence[str]) -> ProvisionOutcome:
        self.calls.append(f"remove {' '.join(names)}")
        return ProvisionOutcome(removed=list(names))

    def states(self, request: Request) -> dict[str, str]:
        return {"master-0": base.RUNNING}

    def machines(self, environment: str | None = None) -> list[Machine]:
        return [Machine("lab-master-0", "lab", "master-0", "/h", base.RUNNING, 1)]

    def preflight(self, request: Request) -> list[Probe]:
        return [Probe("memory", False, "1", "2", "add memory", "memory_short")]


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Recording:
    recording = Recording()
    monkeypatch.setattr(registry, "get", lambda name: recording)
    return recording


def run(state: str, *, check: bool = False, **options: Any) -> dict[str, Any]:
    values = {"environment": "lab", "state": state, "names": None, "grace": 9, "image": "i", **options}
    return module.run("libvirt", values, {}, lambda text: None, check=check)


@pytest.mark.parametrize(
    ("state", "options", "calls"),
    [
        ("present", {}, ["create i"]),
        ("create", {}, ["create i"]),
        ("stopped", {}, ["stop 9"]),
        ("stop", {}, ["stop 9"]),
        ("absent", {}, ["destroy"]),
        ("destroy", {}, ["destroy"]),
        ("absent", {"names": ["a", "b"]}, ["remove a b"]),
        ("absent", {"names": []}, ["remove "]),
        ("remove", {"names": ["a"]}, ["remove a"]),
        ("status", {}, []),
        ("upgraded", {}, []),
    ],
)
def test_each_state_calls_its_method(
    provider: Recording, state: str, options: dict[str, Any], calls: list[str]
) -> None:
    assert run(state, **options)["nodes"] == ["master-0"]
    assert provider.calls == calls


@pytest.mark.parametrize(
    ("state", "changed"), [("present", False), ("started", False), ("stopped", True), ("absent", True)]
)
def test_check_mode_calls_no_method_that_changes(provider: Recording, state: str, changed: bool) -> None:
    assert run(state, check=True)["changed"] is changed
    assert provider.calls == []


@pytest.mark.parametrize(
    ("state", "reason", "message"),
    [
        ("snapshot", "provider_cannot", "libvirt cannot save snapshots"),
        ("change_address", "provider_cannot", "libvirt cannot change the address of a node"),
        ("preflight", "memory_short", "memory: 1, needed: 2"),
        ("started", "libvirt_failed", "virsh ended with code 1"),
    ],
)
def test_failures_have_a_reason(provider: Recording, state: str, reason: str, message: str) -> None:
    with pytest.raises(DevenvError, match=message) as caught:
        run(state)
    assert caught.value.reason.id == reason


def test_every_provider_matches_its_traits() -> None:
    for name in provider_traits.names():
        provider = registry.get(name)
        assert (provider.name, provider.traits["description"] != "") == (name, True)
        assert set(provider.traits) == set(provider_traits.ProviderTraits.__annotations__)
        assert set(provider.traits["cannot"]) <= {*module.STATES, "power"}


def test_an_unknown_provider_is_refused() -> None:
    with pytest.raises(DevenvError, match="there is no provider paper"):
        registry.get("paper")


def test_the_status_lists_missing_nodes() -> None:
    result = module.status({"a": "running", "b": "exited"}, ["a", "b", "c"], would_create=True)
    assert (result["nodes"], result["missing"], result["changed"]) == (["a"], ["b", "c"], True)
    assert result["notes"] == ["would be created or started: b, c"]
    assert module.status({"a": "running"}, ["a", "b"], would_create=False)["changed"] is False
