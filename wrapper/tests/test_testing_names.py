"""Names in a demand: the decorator as the original plan prints it, base images, hardware types, own names."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from support import allocators, demands

from devenv import testing
from devenv.testing import demand_parse, registry
from devenv.testing.errors import ExtensionInvalid
from devenv.testing.installers import catalogue, machines, project

TESTS = Path(__file__).resolve().parents[2] / "tests"
# Word for word.
PRINTED = (Path(__file__).parent / "printed_decorator.txt").read_text()
HOSTS: dict[str, dict[str, Any]] = {
    "host1": {"hardware_type": "ai_camera", "base_image": "regular", "installer": "camera", "gpus": 1},
    "host2": {"hardware_type": "vm", "base_image": "k8s_base", "installer": "k8s"},
    "host3": {"hardware_type": "vm", "base_image": "k8s_base", "installer": "bt"},
}
GROUPING = {"cluster1": {"hosts": ["host1", "host2"]}}
NAMES = """
installers:
  camera: {target: host}
  bt: {target: host, needs: [ssh]}
  k8s: {engine: kubeadm}
  ssh: {target: host}
"""


@pytest.fixture(autouse=True)
def _nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    demands.forget_registered(monkeypatch)


def problems_of(hardware: Mapping[str, Any], grouping: Mapping[str, Any] | None = None, **options: Any) -> list[str]:
    return demands.problems_of({"hardware": hardware, "grouping": grouping or {}}, **options)


def run_pytest(folder: Path, *options: str) -> tuple[int, str]:
    """Run pytest in a project with the printed decorator; return its exit code and output."""
    body = "def test_it(base_config):\n    assert list(base_config.clusters.cluster1.hosts) == ['host1', 'host2']\n"
    (folder / "test_it.py").write_text(f"from devenv.testing import hardware_config\n{PRINTED}{body}")
    (folder / "pytest.ini").write_text("[pytest]\n")
    argv = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "--color=no", *options]
    env = {"PATH": "/usr/bin:/bin", "DEVENV_HOME": str(folder / "home"), "PYTHONPATH": str(TESTS), "HOME": str(folder)}
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


# --- the decorator ----------------------------------------------------------------------------------------------------


def test_the_printed_decorator_is_refused_here_by_name(tmp_path: Path) -> None:
    code, out = run_pytest(tmp_path, "--install")
    assert code == pytest.ExitCode.INTERRUPTED, out
    for text in (
        "host1.hardware_type: ai_camera needs an allocator that has it",
        "host1.gpus: needs an allocator that has it",
        "host1.installer: camera is unknown; known: core_docker, core_k8s, ",
        "host3.installer: bt is unknown; known: core_docker, core_k8s, ",
        "register others in devenv-testing.yml, or by an entry point of devenv.installers",
    ):
        assert text in out
    assert not (tmp_path / "home").exists()


def test_the_printed_decorator_runs_with_an_allocator_that_has_the_machines(tmp_path: Path) -> None:
    (tmp_path / "devenv-testing.yml").write_text(NAMES)
    code, out = run_pytest(tmp_path, "--install", "--devenv-allocator=support.allocators:Remote")
    assert code == 0, out
    (sent,) = [name for kind, name in allocators.events(tmp_path / "home") if kind == "demand"]
    assert json.loads(sent) == HOSTS


def test_an_allocator_gets_names_that_nothing_here_knows() -> None:
    hardware = {**HOSTS, "host4": {"hardware_type": "submarine", "base_image": "own_2.3", "gpu": 2, "networks": ["a"]}}
    with pytest.warns(UserWarning, match="is not registered") as caught:
        requested = demand_parse.parse({"hardware": hardware, "grouping": GROUPING}, remote=True)
    assert [str(warning.message).partition(" is not registered")[0] for warning in caught] == [
        "hardware.host1.installer: camera",
        "hardware.host3.installer: bt",
    ]
    assert {host.name: host.remote for host in requested.hosts} == hardware
    assert [cluster.installer for cluster in requested.clusters] == ["k8s"]
    # To skip an installer during an installation would be a failure that nobody sees.
    (first, second) = problems_of(hardware, GROUPING, remote=True, install=True)
    assert (first.split(";")[0], second.split(";")[0]) == (
        "hardware.host1.installer: camera is unknown",
        "hardware.host3.installer: bt is unknown",
    )


def test_machines_that_come_with_their_cluster_may_have_an_installer_that_nothing_here_knows() -> None:
    hardware, grouping = {"a": {"base_image": "gravity_base"}, "b": {}}, {"c": {"hosts": ["a"], "installer": "own"}}
    with pytest.warns(
        UserWarning, match=r"grouping\.c\.installer: own is not registered: the stages of devops_gravity"
    ):
        assert demand_parse.parse({"hardware": hardware, "grouping": grouping}, remote=True).engine == "gravity"
    arguments = {"hardware": {"a": {}}, "grouping": {"c": {"hosts": ["a"]}}}
    with pytest.warns(UserWarning, match="own is not registered: the stages of k8s run instead"):
        requested = demand_parse.parse(arguments, remote=True, cluster_installer="own")
    assert [cluster.installer for cluster in requested.clusters] == ["k8s"]
    (problem,) = problems_of(hardware, grouping, remote=True, install=True)
    assert problem.startswith("grouping.c.installer: own is unknown")


def test_a_project_may_turn_these_warnings_into_errors(tmp_path: Path) -> None:
    options = ("-W", "error::UserWarning", "-p", "no:asyncio")
    code, out = run_pytest(tmp_path, *options, "--devenv-allocator=support.allocators:Remote")
    assert code == pytest.ExitCode.INTERRUPTED, out
    assert "test_it.py::test_it: hardware.host1.installer: camera is not registered" in out
    assert "INTERNALERROR" not in out


def test_an_allocator_gets_the_hosts_of_a_template_unchanged() -> None:
    grouping = {"c": testing.cluster("aio", hosts=["a"])}
    (host,) = demand_parse.parse({"hardware": {"a": {"ram": 8}}, "grouping": grouping}, remote=True).hosts
    assert host.remote == {"ram": 8}
    assert problems_of({"a": {"networks": {"one"}}}, remote=True) == ["hardware.a: has a value that is not JSON"]


@pytest.mark.parametrize("name", ["ai_camera", "table"])
def test_a_hardware_type_that_this_machine_lacks_is_refused(name: str) -> None:
    (problem,) = problems_of({"a": {"hardware_type": name}})
    assert problem.startswith(f"hardware.a.hardware_type: {name} needs an allocator that has it")


@pytest.mark.parametrize("key", ["gpu", "gpus"])
def test_gpus_need_an_allocator(key: str) -> None:
    (problem,) = problems_of({"a": {key: 1}})
    assert problem.startswith(f"hardware.a.{key}: needs an allocator that has it")
    assert demand_parse.parse({"hardware": {"a": {key: 0}}}).hosts
    assert demand_parse.parse({"hardware": {"a": {key: 1}}}, remote=True).hosts[0].remote == {key: 1}


def test_installer_type_is_another_word_for_installer() -> None:
    grouping = {"c": {"hosts": ["b"], "installer_type": "devops_k8s"}}
    requested = demand_parse.parse({"hardware": {"a": {"installer_type": "ssh"}, "b": {}}, "grouping": grouping})
    assert [host.installer for host in requested.hosts] == ["ssh", ""]
    assert requested.clusters[0].installer == "devops_k8s"
    (problem,) = problems_of({"a": {"installer_type": "ssh", "installer": "k8s"}})[:1]
    assert problem == "hardware.a.installer_type: differs from installer, which it is another word for"


@pytest.mark.parametrize("key", ["hardware_type", "base_image", "role", "installer"])
@pytest.mark.parametrize("value", [["vm"], {"vm": 1}, 7])
@pytest.mark.parametrize("remote", [False, True])
def test_a_name_is_text(key: str, value: Any, remote: bool) -> None:
    assert any(problem.startswith(f"hardware.a.{key}: ") for problem in problems_of({"a": {key: value}}, remote=remote))


# --- what follows from a base image -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "installer", "engine"),
    [
        ("k8s_base", "k8s", "kubeadm"),
        ("gravity_base", "devops_gravity", "gravity"),
        ("gravity_infra_230", "devops_gravity", "gravity"),
        ("regular", "k8s", "kubeadm"),
        ("ubuntu_clean", "k8s", "kubeadm"),
    ],
)
def test_the_installer_of_a_cluster_follows_from_its_base_image(image: str, installer: str, engine: str) -> None:
    hardware = {"a": {"base_image": image}, "b": {}}
    requested = demand_parse.parse({"hardware": hardware, "grouping": {"c": {"hosts": ["a", "b"]}}})
    assert (requested.clusters[0].installer, requested.engine) == (installer, engine)


@pytest.mark.parametrize(
    ("host", "group", "module"),
    [({"installer": "k8s"}, {}, ""), ({}, {"installer": "core_k8s"}, ""), ({}, {}, "devops_k8s")],
)
def test_a_gravity_image_never_becomes_another_cluster(
    host: dict[str, str], group: dict[str, str], module: str
) -> None:
    hardware, grouping = {"a": {"base_image": "gravity_base", **host}}, {"c": {"hosts": ["a"], **group}}
    (problem,) = problems_of(hardware, grouping, cluster_installer=module)
    assert problem.startswith("hardware.a: its base image is for the engine gravity (installer devops_gravity), but c ")
    # Machines that come with their cluster can call it what they like.
    arguments = {"hardware": hardware, "grouping": grouping}
    assert demand_parse.parse(arguments, cluster_installer=module, remote=True).clusters


def test_two_images_of_one_cluster_need_one_installer() -> None:
    hardware = {"a": {"base_image": "gravity_base"}, "b": {"base_image": "k8s_base"}}
    problems = problems_of(hardware, {"c": {"hosts": ["a", "b"]}})
    assert problems[0].startswith("grouping.c: its base images need several installers: devops_gravity, k8s")
    other = {"a": {"base_image": "gravity_base"}, "b": {"base_image": "ubuntu_clean"}}
    assert demand_parse.parse({"hardware": other, "grouping": {"c": {"hosts": ["a", "b"]}}}).engine == "gravity"


def test_the_installer_of_an_image_must_exist() -> None:
    machines.register_base_image("own", machines.BaseImage(installer="nowhere"))
    (problem,) = problems_of({"a": {"base_image": "own"}})
    assert problem.startswith("hardware.a.base_image: its installer nowhere is unknown; known: core_docker, core_k8s")


# --- registration -----------------------------------------------------------------------------------------------------

FILE = """
installers:
  camera: {description: A camera, target: host, role: my.cameras.agent, variables: {port: 9100}}
  bt: {target: host, needs: [ssh]}
base_images:
  camera_base: {description: "", node: {memory: 3GiB}, installer: camera}
hardware_types:
  ai_camera: {description: "", node: {memory: 2GiB, cpus: 3}}
  truck: {installer: bt}
"""


def by_file(folder: Path) -> None:
    (folder / project.FILE).write_text(FILE)
    project.load(folder / project.FILE)


def by_call() -> None:
    class Camera(testing.Installer):
        on = "host"

    class Bt(testing.Installer):
        on = "host"
        needs = ("ssh",)

    testing.register_installer("camera", Camera)
    testing.register_installer("bt", Bt)
    testing.register_base_image("camera_base", testing.BaseImage("", {"memory": "3GiB"}, "camera"))
    testing.register_hardware_type("ai_camera", testing.HardwareType("", {"memory": "2GiB", "cpus": 3}))
    testing.register_hardware_type("truck", testing.HardwareType(installer="bt"))


class EntryCamera(catalogue.Installer):
    on = "host"


class EntryBt(catalogue.Installer):
    on = "host"
    needs = ("ssh",)


ENTRIES: dict[str, Any] = {
    "devenv.installers": {"camera": EntryCamera, "bt": EntryBt},
    "devenv.base_images": {"camera_base": machines.BaseImage("", {"memory": "3GiB"}, "camera")},
    "devenv.hardware_types": {
        "ai_camera": machines.HardwareType("", {"memory": "2GiB", "cpus": 3}),
        "truck": machines.HardwareType(installer="bt"),
    },
}


class Entry:
    """An installed entry point."""

    value = "package:attribute"

    def __init__(self, extension: Any) -> None:
        self.load = lambda: extension


def by_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        registry, "installed", lambda group: {name: Entry(value) for name, value in ENTRIES.get(group, {}).items()}
    )


@pytest.mark.parametrize("how", ["file", "call", "entry points"])
def test_any_registered_name_works(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "file":
        by_file(tmp_path)
    elif how == "call":
        by_call()
    else:
        by_entry_points(monkeypatch)
    hardware = {
        "a": {"hardware_type": "ai_camera", "base_image": "camera_base"},
        "b": {"hardware_type": "truck", "cpus": 4},
        "c": {"hardware_type": "ai_camera", "installer": "bt"},
    }
    requested = demand_parse.parse({"hardware": hardware, "grouping": {"main": {"hosts": ["a"]}}})
    assert [host.installer for host in requested.hosts] == ["camera", "bt", "bt"]
    # The image overrides the type, and the test overrides both.
    assert [dict(host.node) for host in requested.hosts] == [
        {"memory": "3GiB", "cpus": 3},
        {"cpus": 4},
        {"memory": "2GiB", "cpus": 3},
    ]


def test_an_installer_of_a_file_is_a_class_with_its_attributes(tmp_path: Path) -> None:
    by_file(tmp_path)
    camera = catalogue.INSTALLERS.get("camera")
    assert (camera.on, camera.role, camera.variables) == ("host", "my.cameras.agent", {"port": 9100})
    (tmp_path / project.FILE).write_text("installers: {plain: 'devenv.testing.installers.catalogue:K8s'}\n")
    project.load(tmp_path / project.FILE)
    assert catalogue.INSTALLERS.get("plain") is catalogue.K8s


def test_a_call_replaces_the_file_which_replaces_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_entry_points(monkeypatch)
    assert catalogue.INSTALLERS.get("camera") is EntryCamera
    mine = type("Mine", (catalogue.Installer,), {})
    testing.register_installer("bt", mine)
    by_file(tmp_path)
    assert catalogue.INSTALLERS.get("camera").role == "my.cameras.agent"
    assert catalogue.INSTALLERS.get("bt") is mine


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("[]", "must be a mapping"),
        ("installer: {}", "unknown key"),
        ("installers: {a: {target: table}}", "installers.a.target"),
        ("installers: {a: {stages: []}}", "installers.a.stages"),
        ("installers: {a: {needs: ssh}}", "installers.a.needs"),
        ("installers: {a: 'b'}", "installers.a"),
        ("installers: {a: 'nowhere.at_all:B'}", "installers.a: cannot import nowhere.at_all:B"),
        ("installers: {a: 'json:JSONDecoder'}", "json:JSONDecoder is not a subclass of devenv.testing.Installer"),
        ("base_images: {a: {memory: 1GiB}}", "base_images.a.memory"),
        ("hardware_types: {a: {local: maybe}}", "hardware_types.a.local"),
        ("hardware_types: {a: ", "line 1"),
    ],
)
def test_a_mistake_in_the_file_is_refused_with_its_place(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / project.FILE
    path.write_text(textwrap.dedent(text))
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        project.load(path)
    assert str(path) in str(caught.value)


def test_the_run_reports_a_mistake_in_the_file(tmp_path: Path) -> None:
    (tmp_path / project.FILE).write_text("installers: {a: {target: table}}")
    code, out = run_pytest(tmp_path)
    assert code == pytest.ExitCode.USAGE_ERROR, out
    assert f'{tmp_path}/devenv-testing.yml, line 1: installers.a.target: "table" is not known' in out
    assert "session.py" not in out


def test_registering_something_else_is_refused() -> None:
    wrong: list[tuple[Callable[[str, Any], None], Any]] = [
        (testing.register_installer, object),
        (testing.register_base_image, "image"),
        (testing.register_hardware_type, machines.BaseImage()),
    ]
    for register, extension in wrong:
        with pytest.raises(TypeError, match=r"x: .* has the wrong type for devenv"):
            register("x", extension)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("broken", "nowhere.at_all:B", "devenv.installers")
    monkeypatch.setattr(registry, "installed", lambda group: {"broken": entry} if group == "devenv.installers" else {})


@pytest.mark.usefixtures("broken")
def test_a_broken_entry_point_is_named() -> None:
    with pytest.raises(ExtensionInvalid, match=r"broken = nowhere\.at_all:B of devenv\.installers: No module named"):
        demand_parse.parse({"hardware": {"a": {}}})


def test_an_unknown_allocator_is_named(tmp_path: Path) -> None:
    code, out = run_pytest(tmp_path, "--devenv-allocator=nowhere:At")
    assert code == pytest.ExitCode.USAGE_ERROR, out
    assert "allocator nowhere:At: No module named 'nowhere'; known: devenv, habertest, or module:attribute" in out
    assert "session.py" not in out
