"""Names of plugins, and the order of the calls that a test run makes to them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from devenv.testing import objects, registry
from devenv.testing.errors import NotAvailable, PluginFailed, SeveralFailed, TestingError
from devenv.testing.plugins import kubectl, lifecycle


@pytest.fixture(autouse=True)
def private(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what a test registers."""
    for plugins in (registry.HOST, registry.CLUSTER):
        monkeypatch.setattr(plugins, "_registered", {})


def config() -> objects.BaseConfig:
    hosts = {name: objects.Host(name, name, ("192.0.2.1",)) for name in ("master-0", "worker-0")}
    cluster = objects.Cluster("main", "k8s", objects.Named(hosts), ("master-0",))
    return objects.BaseConfig("", hosts.values(), [cluster])


def recorder(calls: list[str], **methods: Any) -> type:
    """Return a class of plugins that records its calls; a method is the error that it raises, or None."""

    def method(name: str, error: Exception | None) -> Any:
        def call(self: Any) -> None:
            calls.append(f"{self.owner.name} {type(self).__name__} {name}")
            if error is not None:
                raise error

        return call

    def create(self: Any, owner: Any) -> None:
        self.owner = owner

    members = {name: method(name, error) for name, error in methods.items() if name != "reset_first"}
    return type("Mine", (), {"__init__": create, "reset_first": methods.get("reset_first", False), **members})


# --- names ------------------------------------------------------------------------------------------------------------


def test_every_plugin_has_a_lower_case_name() -> None:
    registry.register_cluster_plugin("ShopDB", recorder([]))
    (cluster,) = config().clusters.values()
    assert cluster.shopdb is cluster.ShopDB
    assert cluster.kubectl is cluster.Kubectl
    host = cluster.hosts["master-0"]
    assert host.sshdirect is host.SshDirect
    for owner in (host, cluster):
        names = owner.registry.names()
        assert {form for name in names for form in (name, name.lower())} <= set(dir(owner))
        assert [owner.registry.spelled(name.lower()) for name in names] == names


def test_an_attribute_of_a_host_is_not_replaced_by_the_lower_case_name_of_a_plugin() -> None:
    registry.register_host_plugin("Labels", recorder([]))
    host = config().hosts["master-0"]
    assert host.labels == {}
    assert type(host.Labels).__name__ == "Mine"


def test_two_plugins_cannot_share_a_lower_case_name() -> None:
    with pytest.raises(ValueError, match="'KUBECTL' and the plugin 'Kubectl' have the same lower-case name"):
        registry.register_cluster_plugin("KUBECTL", recorder([]))
    # A plugin can be replaced.
    registry.register_cluster_plugin("Kubectl", recorder([]))
    assert type(config().clusters.main.kubectl).__name__ == "Mine"


def test_names_with_hyphens_are_attributes_with_underscores() -> None:
    hosts = config().hosts
    assert hosts.master_0 is hosts["master-0"]
    assert "worker_0" in dir(hosts)


def test_machines_whose_plugins_were_used_can_be_sent_to_another_process() -> None:
    before = config()
    assert before.hosts.master_0.SshDirect
    after = pickle.loads(pickle.dumps(before))
    assert after.hosts.master_0 is after.clusters.main.hosts.master_0
    assert after.hosts.master_0.ip == "192.0.2.1"


# --- manifests --------------------------------------------------------------------------------------------------------


def test_namespaces_and_definitions_of_a_folder_come_first(tmp_path: Path) -> None:
    for name, kinds in (
        ("b.yml", "Service Namespace"),
        ("a.json", "Deployment"),
        ("c.yaml", "CustomResourceDefinition"),
    ):
        (tmp_path / name).write_text("\n---\n".join(f'{{"kind": "{kind}"}}' for kind in kinds.split()))
    (tmp_path / "notes.txt").write_text("not: [yaml")
    found = [item["kind"] for item in kubectl._objects(tmp_path)]
    assert found == ["Namespace", "CustomResourceDefinition", "Deployment", "Service"]


def test_a_folder_without_objects_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(TestingError, match="no object in files"):
        kubectl._objects(tmp_path)


def test_a_cluster_without_kubeconfig_has_no_programs() -> None:
    cluster = config().clusters.main
    for plugin in (cluster.kubectl, cluster.helm):
        with pytest.raises(NotAvailable, match="main has no kubeconfig"):
            plugin.command("version")


# --- calls ------------------------------------------------------------------------------------------------------------


def test_plugins_of_the_project_are_checked_without_being_used() -> None:
    calls: list[str] = []
    registry.register_host_plugin("Mine", recorder(calls, ping=None, verify_functionality=None))
    registry.register_cluster_plugin("Mine", recorder(calls, ping=None))
    lifecycle.check(config(), verify=False)
    assert sorted(calls[:2]) == ["master-0 Mine ping", "worker-0 Mine ping"]
    assert calls[2:] == ["main Mine ping"]
    calls.clear()
    lifecycle.check(config(), verify=True)
    for host in ("master-0", "worker-0"):
        own = [call for call in calls if call.startswith(host)]
        assert own == [f"{host} Mine ping", f"{host} Mine verify_functionality"]


def test_a_plugin_that_does_not_apply_is_not_checked_further() -> None:
    calls: list[str] = []
    registry.register_cluster_plugin("Mine", recorder(calls, ping=NotAvailable("no"), verify_functionality=None))
    lifecycle.check(config(), verify=True)
    assert calls == ["main Mine ping"]


def test_failed_checks_name_the_plugin_and_its_owner() -> None:
    registry.register_host_plugin("Mine", recorder([], ping=RuntimeError("cold")))
    with pytest.raises(SeveralFailed, match="plugin Mine of master-0: ping: cold; plugin Mine of worker-0: ping: cold"):
        lifecycle.check(config(), verify=False)


def test_plugins_are_reset_in_an_order_in_which_each_can_use_what_it_needs() -> None:
    calls: list[str] = []
    for name, first in (("First", False), ("Power", True), ("Last", False)):
        plugin = recorder(calls, reset_state=None, reset_first=first)
        plugin.__name__ = name
        registry.register_host_plugin(name, plugin)
    registry.register_cluster_plugin("Mine", recorder(calls, reset_state=RuntimeError("stuck")))
    machines = config()
    for name in ("First", "Power", "Last"):
        getattr(machines.hosts.master_0, name)
    assert machines.clusters.main.Mine
    with pytest.raises(PluginFailed, match="plugin Mine of main: reset_state: stuck"):
        machines.reset_state()
    owners = ["master-0 Power", "main Mine", "master-0 Last", "master-0 First"]
    assert calls == [f"{owner} reset_state" for owner in owners]


def test_after_a_crash_every_plugin_is_reset_though_none_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(registry.HOST, "_built_in", {})
    for name, first, error in (("Firewall", False, RuntimeError("jammed")), ("Power", True, None)):
        plugin = recorder(calls, reset_state=error, reset_first=first)
        plugin.__name__ = name
        registry.register_host_plugin(name, plugin)
    failures = [str(failure) for failure in lifecycle.recover(config())]
    assert failures == [f"plugin Firewall of {host}: reset_state: jammed" for host in ("master-0", "worker-0")]
    assert calls[:2] == ["master-0 Power reset_state", "master-0 Firewall reset_state"]
