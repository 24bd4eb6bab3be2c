"""Installers: their order, their arguments, and what they do for each other."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from support.demands import forget_registered, problems_of

from devenv.testing import demand, demand_parse, objects, registry
from devenv.testing.installers import catalogue, steps

# For what happens at once, if it happens.
SECONDS = 20.0


@pytest.fixture(autouse=True)
def _no_registered_installers(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_registered(monkeypatch)


def config_of(requested: demand.Demand) -> objects.BaseConfig:
    hosts = {host.name: objects.Host(host.name, host.name, ("192.0.2.1",)) for host in requested.hosts}
    clusters = [
        objects.Cluster(cluster.name, cluster.installer, objects.Named({n: hosts[n] for n in cluster.hosts}), ())
        for cluster in requested.clusters
    ]
    return objects.BaseConfig("", hosts.values(), clusters)


def run(stage: str, requested: demand.Demand) -> objects.BaseConfig:
    config = config_of(requested)
    steps.run_stage(stage, config, requested, None)  # type: ignore[arg-type]
    return config


def test_the_needs_of_an_installer_come_first() -> None:
    order = catalogue.with_needs(["core_k8s"], catalogue.INSTALLERS.all())
    assert order == ["ssh", "k8s", "devops_k8s", "core_k8s"]


def test_unknown_and_circular_needs_are_refused() -> None:
    class Lost(catalogue.Installer):
        needs = ("nothing",)
        engine = "kubeadm"

    class Round(catalogue.Installer):
        needs = ("round",)
        engine = "kubeadm"

    catalogue.register_installer("lost", Lost)
    catalogue.register_installer("round", Round)
    for name, message in (("lost", "lost needs nothing, which is unknown"), ("round", "installers need each other")):
        arguments = {"hardware": {"h": {}}, "grouping": {"c": {"hosts": ["h"], "installer": name}}}
        assert message in problems_of(arguments)[0]


class _Recorder(catalogue.Installer):
    calls: ClassVar[list[tuple[str, str]]] = []

    def session(self, target: Any, base_config: objects.BaseConfig, request: Any) -> None:
        self.calls.append((type(self).__name__, target.name))
        if target.name == "bad":
            raise RuntimeError("no")

    def teardown(self, target: Any, base_config: objects.BaseConfig, request: Any) -> None:
        self.calls.append((type(self).__name__, target.name))


class _Base(_Recorder):
    on = "host"


class _Top(_Recorder):
    needs = ("base",)
    engine = "kubeadm"


@pytest.fixture
def recorded() -> list[tuple[str, str]]:
    _Recorder.calls.clear()
    catalogue.register_installer("base", _Base)
    catalogue.register_installer("top", _Top)
    return _Recorder.calls


def test_a_stage_runs_on_each_target_in_order_and_reports_errors(recorded: list[tuple[str, str]]) -> None:
    arguments = {
        "hardware": {"good": {}, "bad": {}, "bare": {}},
        "grouping": {"c": {"hosts": ["good"], "installer": "top"}, "d": {"hosts": ["bad"], "installer": "top"}},
    }
    with pytest.raises(steps.StageError, match=r"stage session: installer base on host bad: no$"):
        run("session", demand_parse.parse(arguments))
    # Not on a host without an installer, nor on the cluster whose host failed, but on the other cluster.
    assert sorted(recorded) == [("_Base", "bad"), ("_Base", "good"), ("_Top", "c")]


def test_teardown_runs_in_the_reverse_order(recorded: list[tuple[str, str]]) -> None:
    arguments = {"hardware": {"a": {}, "b": {}}, "grouping": {"c": {"hosts": ["a", "b"], "installer": "top"}}}
    run("teardown", demand_parse.parse(arguments))
    assert recorded[0] == ("_Top", "c")
    assert sorted(recorded[1:]) == [("_Base", "a"), ("_Base", "b")]


def test_a_host_does_not_wait_for_the_steps_of_others() -> None:
    """The second step of one host runs while the first step of another is still busy."""
    second_done = threading.Event()
    waited: list[bool] = []

    class First(catalogue.Installer):
        on = "host"

        def install(self, target: objects.Host, base_config: objects.BaseConfig, request: Any) -> None:
            if target.name == "slow":
                waited.append(second_done.wait(SECONDS))

    class Second(catalogue.Installer):
        on = "host"
        needs = ("first",)

        def install(self, target: objects.Host, base_config: objects.BaseConfig, request: Any) -> None:
            if target.name == "fast":
                second_done.set()

    catalogue.register_installer("first", First)
    catalogue.register_installer("second", Second)
    hardware = {"slow": {"installer": "second"}, "fast": {"installer": "second"}}
    run("session_install", demand_parse.parse({"hardware": hardware}))
    assert waited == [True]


def test_all_independent_hosts_run_at_once() -> None:
    count = 20
    together = threading.Barrier(count)

    class Meet(catalogue.Installer):
        on = "host"

        def install(self, target: objects.Host, base_config: objects.BaseConfig, request: Any) -> None:
            together.wait(SECONDS)

    catalogue.register_installer("meet", Meet)
    hardware = {f"h{number}": {"installer": "meet"} for number in range(count)}
    run("session_install", demand_parse.parse({"hardware": hardware}))
    assert not together.broken


# --- arguments --------------------------------------------------------------------------------------------------------


def test_every_method_gets_the_target_and_all_hosts_and_clusters() -> None:
    seen: dict[str, tuple[Any, Any]] = {}

    class Mine(catalogue.Installer):
        engine = "kubeadm"

        def session(self, target: objects.Cluster, base_config: objects.BaseConfig, request: Any) -> None:
            seen["session"] = (target, base_config)

        def install(self, target: objects.Cluster, base_config: objects.BaseConfig, request: Any) -> None:
            seen["session_install"] = (target, base_config)

        def runtest_setup(self, target: objects.Cluster, base_config: objects.BaseConfig, request: Any) -> None:
            seen["runtest_setup"] = (target, base_config)

        def setup(self, target: objects.Cluster, base_config: objects.BaseConfig, request: Any) -> None:
            seen["setup"] = (target, base_config)

        def teardown(self, target: objects.Cluster, base_config: objects.BaseConfig, request: Any) -> None:
            seen["teardown"] = (target, base_config)

    catalogue.register_installer("mine", Mine)
    arguments = {"hardware": {"h": {}, "proxy": {}}, "grouping": {"c": {"hosts": ["h"], "installer": "mine"}}}
    requested = demand_parse.parse(arguments)
    for stage in catalogue.METHODS:
        config = run(stage, requested)
        target, given = seen[stage]
        assert target is config.clusters.c
        assert given is config
        assert given.hosts.proxy.name == "proxy"


def test_an_installer_without_base_config_still_works() -> None:
    calls: list[str] = []

    class Old(catalogue.Installer):
        engine = "kubeadm"

        def session(self, cluster: Any, request: Any) -> None:  # type: ignore[override]
            calls.append(f"session {cluster.name}")

        def session_install(self, target: Any, request: Any) -> None:
            calls.append(f"install {target.name}")

    catalogue.register_installer("old", Old)
    arguments = {"hardware": {"h": {}}, "grouping": {"c": {"hosts": ["h"], "installer": "old"}}}
    for stage in catalogue.METHODS:
        run(stage, demand_parse.parse(arguments))
    assert calls == ["session c", "install c"]


def test_an_installer_without_base_config_calls_its_base_class() -> None:
    calls: list[str] = []

    class New(catalogue.Installer):
        engine = "kubeadm"

        def session(self, target: Any, base_config: objects.BaseConfig, request: Any) -> None:
            super().session(target, base_config, request)
            calls.append(f"session {target.name} {[*base_config.hosts]} {request}")

        def install(self, target: Any, base_config: objects.BaseConfig, request: Any) -> None:
            super().install(target, base_config=base_config, request=request)
            calls.append(f"install {target.name} {[*base_config.hosts]} {request}")

    class Old(New):
        def session(self, target: Any, request: Any) -> None:  # type: ignore[override]
            super().session(target, request)  # type: ignore[call-arg, arg-type]

        def session_install(self, target: Any, request: Any) -> None:
            super().session_install(target, request)

    class Oldest(catalogue.Installer):
        on = "host"

        def teardown(self, target: Any, request: Any) -> None:  # type: ignore[override]
            super().teardown(target, request=request)  # type: ignore[call-arg]
            calls.append(f"teardown {target.name}")

    catalogue.register_installer("old", Old)
    catalogue.register_installer("oldest", Oldest)
    hardware = {"h": {}, "bare": {"installer": "oldest"}}
    requested = demand_parse.parse({"hardware": hardware, "grouping": {"c": {"hosts": ["h"], "installer": "old"}}})
    for stage in catalogue.METHODS:
        run(stage, requested)
    assert calls == ["session c ['h', 'bare'] None", "install c ['h', 'bare'] None", "teardown bare"]


def test_arguments_are_matched_by_name() -> None:
    calls: list[Any] = []

    class Mine(catalogue.Installer):
        on = "host"

        def install(self, target: Any, request: Any, timeout: float = 300) -> None:  # type: ignore[override]
            calls.append((target.name, request, timeout))

        def setup(self, host: Any, request: Any, base_config: Any) -> None:  # type: ignore[override]
            calls.append((host.name, request, [*base_config.hosts]))

    catalogue.register_installer("mine", Mine)
    requested = demand_parse.parse({"hardware": {"h": {"installer": "mine"}}})
    for stage in catalogue.METHODS:
        run(stage, requested)
    assert calls == [("h", None, 300), ("h", None, ["h"])]


@pytest.mark.parametrize("method", ["install", "session_install", "setup"])
@pytest.mark.parametrize("arguments", ["self", "self, target", "self, target, base_config", "self, a, b, c"])
def test_other_arguments_are_refused_by_name(method: str, arguments: str) -> None:
    names: dict[str, Any] = {}
    exec(f"def {method}({arguments}): pass", names)
    with pytest.raises(TypeError) as caught:
        type("Wrong", (catalogue.Installer,), {method: names[method]})
    assert f"{method}(self, target, base_config, request), but has ({arguments})" in str(caught.value)


# --- for each other ---------------------------------------------------------------------------------------------------


def test_core_k8s_calls_the_functions_of_devops_k8s() -> None:
    calls: list[str] = []

    class Mine(catalogue.DevopsK8s):
        needs = ()

        def default_storage_class(self, cluster: objects.Cluster) -> str:
            calls.append(f"storage {cluster.name}")
            return ""

        def wait_for_metrics(self, cluster: objects.Cluster, timeout: float = 0) -> None:
            calls.append(f"metrics {cluster.name}")

    Mine.engine = "kubeadm"
    # A project's own replaces the ready-made one for every installer that needs it.
    catalogue.register_installer("devops_k8s", Mine)
    arguments = {"hardware": {"h": {}}, "grouping": {"c": {"hosts": ["h"], "installer": "core_k8s"}}}
    requested = demand_parse.parse(arguments)
    run("session_install", requested)
    assert calls == ["storage c", "metrics c"]
    assert requested.profile == {"storage": {"enabled": True}, "metrics": {"enabled": True}}


def test_an_installer_calls_only_what_it_needs() -> None:
    assert isinstance(catalogue.CoreK8s().needed("k8s"), catalogue.K8s)
    with pytest.raises(LookupError, match="CoreK8s does not need devops_gravity; it needs devops_k8s"):
        catalogue.CoreK8s().needed("devops_gravity")


# --- docker -----------------------------------------------------------------------------------------------------------


class _Recording:
    """A plugin that records its calls."""

    calls: ClassVar[list[str]] = []

    def __init__(self, host: objects.Host) -> None:
        self._host = host

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> str:
            texts = [str(argument) for argument in arguments]
            self.calls.append(" ".join([self._host.name, type(self).__name__, name, *texts]))
            return ""

        return call


@pytest.fixture
def docker_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    _Recording.calls.clear()
    names = ("SshDirect", "Docker", "DockerCompose", "ProxyContainer")
    monkeypatch.setattr(registry.HOST, "_registered", {name: type(name, (_Recording,), {}) for name in names})
    return _Recording.calls


def of_project(folder: Path) -> Any:
    """Return a request of a test in the project ``folder``; its hooks do nothing."""
    ihook = SimpleNamespace(pytest_after_proxy_container=lambda **_: None)
    return SimpleNamespace(config=SimpleNamespace(rootpath=folder), node=SimpleNamespace(ihook=ihook))


def test_devops_docker_brings_the_proxy_container(docker_calls: list[str], tmp_path: Path) -> None:
    for name in ("devops", "core"):
        (tmp_path / f"{name}_docker_compose.yaml").write_text("services: {}\n")
    request = of_project(tmp_path)
    requested = demand_parse.parse({"hardware": {"a": {"installer": "core_docker"}}})
    steps.run_stage("session_install", config_of(requested), requested, request)
    assert [call for call in docker_calls if "SshDirect" not in call] == [
        "a ProxyContainer run",
        "a DockerCompose up /var/lib/devenv-compose/devops_docker_compose/compose.yaml",
        "a DockerCompose up /var/lib/devenv-compose/core_docker_compose/compose.yaml",
    ]


def test_a_missing_compose_file_is_named(docker_calls: list[str], tmp_path: Path) -> None:
    request = of_project(tmp_path)
    requested = demand_parse.parse({"hardware": {"a": {"installer": "devops_docker"}}})
    with pytest.raises(steps.StageError, match=r"devops_docker_compose\.yaml: the compose file of"):
        steps.run_stage("session_install", config_of(requested), requested, request)
    assert not any("DockerCompose" in call for call in docker_calls)
