"""Extra variables: unknown names, wrong types, and values that a cluster keeps."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import state
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from ansible_collections.devenv.lab.plugins.plugin_utils.variables import check, kept, specs


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("validate_timout", "the role validate has no such variable (meant validate_timeout?)"),
        ("engine_kubeadm_kublet", "the role engine_kubeadm has no such variable (meant engine_kubeadm_kubelet?)"),
        ("provider_podman_zzz", "the role provider_podman has no such variable"),
        ("devenv_ful", "no playbook has such a variable (meant devenv_full?)"),
        ("devenv_labels", "no playbook has such a variable"),
    ],
)
def test_an_unknown_variable_is_refused_by_name(name: str, message: str) -> None:
    with pytest.raises(DevenvError) as caught:
        check.require({name: "1"})
    assert (caught.value.reason.id, caught.value.where) == ("variable_unknown", f"-e {name}")
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize("name", ["my_variable", "x", "node", "rolling", "ansible_user", "team_validate_timout"])
def test_the_users_own_variables_are_allowed(name: str) -> None:
    check.require({name: object()})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("validate_timeout", [10, "10", 1.5, "1.5", "{{ later }}"]),
        ("engine_kubeadm_coredns_replicas", [2, "2"]),
        ("cluster_addons_metrics", [True, "yes", "false", 0]),
        ("engine_kubeadm_kubelet", [{"maxPods": 50}]),
        ("engine_kubeadm_encryption", ["RSA-2048"]),
        ("devenv_remove", [["worker-1"], "worker-1"]),
        ("devenv_overrides", [{"nodes.worker-0.memory": "4GiB"}]),
        ("engine_gravity_tarball", ["/x.tar"]),
    ],
)
def test_a_value_of_the_right_type_is_allowed(name: str, values: list[Any]) -> None:
    for value in values:
        check.require({name: value})


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("validate_timeout", ["abc", "0022", "22:22", "", True, [1], None], "must be a number"),
        ("engine_kubeadm_coredns_replicas", ["two", 1.5, "1e3", "02", True], "must be a whole number"),
        ("cluster_addons_metrics", ["maybe", 2, [True]], "must be true or false"),
        ("engine_kubeadm_kubelet", ["maxPods=50", ["a"], 3], "must be a mapping"),
        ("engine_kubeadm_encryption", ["DSA"], "must be one of ECDSA-P256"),
        ("validate_nodes", [3, {"a": 1}], "must be a list"),
        ("validate_junit", [["a"], {"a": 1}], "must be text"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(name: str, values: list[Any], message: str) -> None:
    for value in values:
        with pytest.raises(DevenvError, match=message) as caught:
            check.require({name: value})
        assert (caught.value.exit_code, caught.value.where) == (2, f"-e {name}")


def test_numbers_are_checked_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "vars.yml"
    path.write_text("validate_timeout: 0022\nmy_port: 0022\nsecret: !vault abc\n")
    for options in (["{validate_timeout: 0022}"], [f"@{path}"], ["a=1", '{"devenv_overrides": {"x": 22:22}}']):
        with pytest.raises(DevenvError, match="is not a plain number"):
            check.require_options({"validate_timeout": 18, "my_port": 18}, options)
    check.require_options({"my_port": 18}, ["{my_port: 0022}", "@/there/is/none", "{broken"])


def test_a_variable_of_another_engine_is_refused() -> None:
    common = {"devenv_engine": "kubeadm", "devenv_provider": "podman"}
    check.require_roles({"engine_kubeadm_timeout": 9, "validate_timeout": 9}, common)
    for name in ("engine_gravity_wait", "provider_libvirt_kvm"):
        with pytest.raises(DevenvError, match="has no effect"):
            check.require_roles({name: 9}, common)
    check.require_roles({"engine_gravity_wait": 9}, {})


def test_all_roles_are_checked_in_less_than_100_ms() -> None:
    every = {name: "{{ x }}" for role in specs.roles() for name in specs.of_role(role)}
    assert len(every) > 150
    specs.of_role.cache_clear()
    began = time.process_time()
    check.require(every)
    assert time.process_time() - began < 0.1


def test_every_documented_variable_of_a_playbook_is_known() -> None:
    documented = set(re.findall(r"`(devenv_[a-z_]+)`", (paths.COLLECTION / "docs" / "ansible.md").read_text()))
    used = set(re.findall(r"-e (devenv_[a-z_]+)", "".join(p.read_text() for p in paths.COLLECTION.glob("docs/*.md"))))
    required = {
        name
        for path in paths.COLLECTION.glob("playbooks/*.yml")
        for names in re.findall(r"required: \[(.*)\]", path.read_text())
        for name in names.split(", ")
    }
    assert documented | used | required <= specs.of_playbooks().keys()


# --- values that a cluster keeps -------------------------------------------------------------------------------------


def created(folder: Path) -> Path:
    (folder / "clusters" / "main").mkdir(parents=True)
    (folder / "clusters" / "main" / "kubeconfig").touch()
    return folder


@pytest.mark.parametrize("engine", engines.names())
def test_kept_variables_exist(engine: str) -> None:
    assert set(engines.traits(engine).get("created_with", [])) <= specs.of_role(f"engine_{engine}").keys()


def test_a_value_that_follows_from_the_profile_is_refused() -> None:
    given = {"engine_kubeadm_kubelet": {"maxPods": 50, "systemReserved": {"cpu": "1"}}}
    with pytest.raises(
        DevenvError, match="systemReserved cannot be set here: it follows from cpus and memory"
    ) as caught:
        kept.selected("kubeadm", given)
    assert (caught.value.reason.id, caught.value.where) == ("variable_invalid", "-e engine_kubeadm_kubelet")


def test_values_given_at_creation_are_kept_and_reach_later_runs(tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    given = {"engine_kubeadm_kubelet": {"maxPods": 50}, "validate_timeout": 9, "my": 1}
    kept.keep(folder, kept.selected("kubeadm", given))
    kept.keep(created(folder), {})
    assert kept.read(folder) == {"engine_kubeadm_kubelet": {"maxPods": 50}}
    assert (folder / "variables.yml").stat().st_mode & 0o777 == 0o600
    state.write_profile(folder, resolve("aio"))
    state.write_inventory(folder)
    written = yaml.safe_load((folder / "inventory.yml").read_text())
    assert written["all"]["vars"]["engine_kubeadm_kubelet"] == {"maxPods": 50}


def test_a_live_cluster_refuses_another_value(tmp_path: Path) -> None:
    folder = created(tmp_path / "lab")
    with pytest.raises(DevenvError, match='encryption: "ECDSA-P256" -> "RSA-2048"') as caught:
        kept.keep(folder, {"engine_kubeadm_encryption": "RSA-2048"})
    assert caught.value.exit_code == 14
    assert kept.read(folder) == {}
    # The default and the kept value change nothing.
    kept.keep(folder, {"engine_kubeadm_encryption": "ECDSA-P256", "engine_kubeadm_coredns_replicas": "0"})


def test_a_value_can_change_until_the_cluster_exists(tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    for value in ("RSA-2048", "RSA-3072"):
        kept.keep(folder, {"engine_kubeadm_encryption": value})
    assert kept.read(folder) == {"engine_kubeadm_encryption": "RSA-3072"}
