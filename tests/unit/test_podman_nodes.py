"""The podman provider's pure parts: parsing of podman's output, and the arguments of `podman run`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core import program
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.core.program import ProgramFailed, Result
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import members, network_plan
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.nodes import NodeSpec
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import image_store, machines
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import ProvisionOutcome, Request
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import cli as podman
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import provider as podman_provider

NODE = NodeSpec(
    name="master-0",
    group="control_plane",
    cpus=2,
    memory=2**31,
    mac="52:54:0a:d5:00:0a",
    addresses=("10.213.0.10", "fd77::10"),
    prefixes=(24, 64),
    gateways=("10.213.0.1", "fd77::1"),
)

ROW = {
    "Names": ["aio-master-0"],
    "Labels": {"devenv.environment": "aio", "devenv.node": "master-0", "devenv.home": "/h"},
    "State": "running",
    "Image": "localhost/devenv-node:1",
    "Pid": 7,
}


def test_containers_are_sorted_by_name() -> None:
    other = {**ROW, "Names": ["aio-a"], "State": "exited"}
    containers = podman.parse_containers(json.dumps([ROW, other]))
    assert [(c.name, c.state, c.node, c.home) for c in containers] == [
        ("aio-a", "exited", "master-0", "/h"),
        ("aio-master-0", "running", "master-0", "/h"),
    ]


@pytest.mark.parametrize("text", ["", "[]", "null"])
def test_empty_output_has_no_containers_and_networks(text: str) -> None:
    assert podman.parse_containers(text) == []
    assert podman.parse_networks(text) == []


def test_a_network_has_its_bridge_and_subnets() -> None:
    row = {
        "name": "devenv-aio",
        "network_interface": "podman3",
        "labels": {"devenv.environment": "aio", "devenv.home": "/h", "devenv.subnets": "10.213.0.0/24 fd77::/64"},
    }
    (network,) = podman.parse_networks(json.dumps([row]))
    assert (network.bridge, network.subnets) == ("podman3", ["10.213.0.0/24", "fd77::/64"])


def test_a_name_of_another_home_is_refused() -> None:
    containers = podman.parse_containers(json.dumps([ROW]))
    machines.refuse_others(containers, "aio", "/h")
    with pytest.raises(DevenvError) as caught:
        machines.refuse_others(containers, "aio", "/other")
    assert caught.value.reason.id == "name_taken"
    assert "DEVENV_HOME=/h" in caught.value.advice


@pytest.fixture
def request_aio(monkeypatch: pytest.MonkeyPatch) -> Request:
    monkeypatch.setenv("DEVENV_HOME", "/h")
    return Request("aio", resolve("aio"), options={"image": "image:1"})


def test_run_arguments_have_all_labels_and_no_secret(request_aio: Request) -> None:
    arguments = podman_provider.run_arguments(request_aio, NODE)
    text = " ".join(arguments)
    assert arguments[-2:] == ["image:1", "/usr/local/sbin/node-init"]
    assert {"--label=devenv.environment=aio", "--label=devenv.node=master-0", "--label=devenv.home=/h"} <= set(
        arguments
    )
    assert "--env=DEVENV_ADDRESSES=10.213.0.10/24 fd77::10/64" in arguments
    assert "--volume=/h/environments/aio/nodes/master-0/etcd:/var/lib/etcd" in arguments
    assert "PRIVATE KEY" not in text


def test_a_node_can_have_an_image_of_its_own(request_aio: Request) -> None:
    node = dataclasses.replace(NODE, image="localhost/prepared:1")
    assert podman_provider.run_arguments(request_aio, node)[-2] == "localhost/prepared:1"
    profile = resolve("aio", overrides={"nodes.master-0.image": "localhost/prepared:1"})
    assert profile["nodes"][0]["image"] == "localhost/prepared:1"
    with pytest.raises(DevenvError, match=r"nodes\.master-0\.image: has no effect with the provider libvirt"):
        resolve("aio", overrides={"nodes.master-0.image": "localhost/prepared:1", "provider": "libvirt"})


def test_a_missing_image_of_a_node_is_found_before_anything_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podman_provider.cli, "image_exists", lambda name: name == "localhost/there:1")
    probes = {name: podman_provider._image_probe(name) for name in ("localhost/there:1", "localhost/gone:1")}
    assert probes["localhost/there:1"].ok
    missing = probes["localhost/gone:1"]
    assert (missing.ok, missing.reason, missing.required) == (False, "node_image_unknown", True)


def test_a_node_starts_with_the_data_of_its_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node's folders are outside its image: those that the image fills are copied, the others stay."""
    root, data = tmp_path / "image", tmp_path / "data"
    (root / "var/lib/etcd/member").mkdir(parents=True)
    (root / "var/lib/kubelet").mkdir(parents=True)
    for name in podman_provider.DATA:
        (data / name / "old").mkdir(parents=True)
    unmounted: list[str] = []

    def podman_words(*words: str) -> str:
        unmounted.extend(words[2:] if words[1] == "unmount" else ())
        return f"{root}\n"

    monkeypatch.setattr(podman_provider.cli, "podman", podman_words)
    podman_provider._copy_from_image("localhost/prepared:1", data)
    assert [path.name for path in (data / "etcd").iterdir()] == ["member"]
    assert [path.name for path in (data / "kubelet").iterdir()] == ["old"]
    assert [path.name for path in (data / "containerd").iterdir()] == ["old"]
    assert unmounted == ["localhost/prepared:1"]


def test_a_node_depends_on_no_default_of_podman(request_aio: Request) -> None:
    arguments = podman_provider.run_arguments(request_aio, NODE)
    namespaces = {"--userns=host", "--pid=private", "--ipc=private", "--uts=private", "--cgroupns=private"}
    others = {"--init=false", "--http-proxy=false", "--log-driver=none", "--runtime=runc", "--systemd=always"}
    assert namespaces | others <= set(arguments)


def test_podman_gets_none_of_the_users_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PODMAN_USERNS", "CONTAINERS_CONF_OVERRIDE", "STORAGE_DRIVER", "BUILDAH_ISOLATION", "NOTIFY_SOCKET"):
        monkeypatch.setenv(name, "auto")
    monkeypatch.setenv("CONTAINERS_CONF", "/srv/me/containers.conf")
    printed = program.run(["env"], env=podman.own_environment(os.environ)).stdout.splitlines()
    assert [line for line in printed if re.match("PODMAN|CONTAINERS|STORAGE|BUILDAH|NOTIFY", line)] == [
        "CONTAINERS_CONF=/dev/null"
    ]
    assert f"PATH={os.environ['PATH']}" in printed
    words = podman.command("ps")
    assert words[-2:] == ["podman", "ps"]
    assert {"--unset=PODMAN_USERNS", "CONTAINERS_CONF=/dev/null"} <= set(words)


@pytest.mark.parametrize(
    ("variables", "refused"),
    [
        ({}, False),
        ({"CONTAINER_HOST": ""}, False),
        ({"CONTAINER_HOST": "unix:///run/podman/podman.sock"}, False),
        ({"CONTAINER_HOST": "ssh://me@far.example/run/podman/podman.sock"}, True),
        ({"CONTAINER_HOST": "unix:///run/user/1000/podman/podman.sock"}, True),
        ({"CONTAINER_HOST": "tcp://127.0.0.1:8080"}, True),
        ({"CONTAINER_CONNECTION": "far"}, True),
    ],
)
def test_another_podman_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], refused: bool
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(podman.program, "run", lambda argv, **_options: calls.append(argv[1]) or Result(0, "[]", ""))
    for name in ("CONTAINER_HOST", "CONTAINER_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(podman.shutil, "which", lambda name: f"/usr/bin/{name}")
    if not refused:
        assert podman.containers() == []
        return
    with pytest.raises(DevenvError) as caught:
        podman.containers("lab")
    assert (caught.value.reason.id, caught.value.exit_code, calls) == ("podman_remote", 9, [])
    assert "=".join(*variables.items()) in str(caught.value)


INFO = {"host": {"networkBackend": "netavark", "serviceIsRemote": False}, "store": {"graphOptions": {}}}


@pytest.mark.parametrize(
    ("host", "options", "failed"),
    [
        ({}, {}, []),
        ({}, {"overlay.mountopt": "nodev,metacopy=on"}, []),
        ({}, {"overlay.mountopt": "nodev,noexec"}, ["podman storage"]),
        ({"networkBackend": "cni"}, {}, ["podman network"]),
    ],
)
def test_settings_of_podman_that_no_option_replaces_are_reported(
    host: dict[str, str], options: dict[str, str], failed: list[str]
) -> None:
    info = podman.parse_info(json.dumps({"host": INFO["host"] | host, "store": {"graphOptions": options}}))
    assert [probe.name for probe in podman_provider.podman_probes(info) if not probe.ok] == failed


def test_a_program_that_is_only_a_client_is_refused() -> None:
    with pytest.raises(DevenvError) as caught:
        podman.parse_info(json.dumps(INFO | {"host": {"serviceIsRemote": True}}))
    assert caught.value.reason.id == "podman_remote"


@pytest.mark.parametrize(
    ("dhcp", "addresses", "present", "absent"),
    [
        (False, {"fd77::10": 64}, ["--env=DEVENV_FAMILIES=ipv6", "--env=DEVENV_ADDRESSES=fd77::10/64"], "DEVENV_DHCP"),
        (True, {"10.213.0.10": 24}, ["--env=DEVENV_FAMILIES=ipv4", "--env=DEVENV_DHCP=ipv4"], "DEVENV_ADDRESSES"),
        (True, {"fd77::10": 64, "10.213.0.10": 24}, ["--env=DEVENV_DHCP=ipv6 ipv4"], "DEVENV_GATEWAYS"),
    ],
)
def test_a_node_gets_its_addresses_or_requests_them(
    request_aio: Request, dhcp: bool, addresses: dict[str, int], present: list[str], absent: str
) -> None:
    node = dataclasses.replace(NODE, addresses=tuple(addresses), prefixes=tuple(addresses.values()), dhcp=dhcp)
    arguments = podman_provider.run_arguments(request_aio, node)
    assert set(present) <= set(arguments)
    assert absent not in " ".join(arguments)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Simulate podman, on which only containers that are not named *broken* start; return its commands."""
    calls: list[str] = []

    def run(argv: Sequence[str], *, env: object = None, check: bool = True, timeout: float = 0) -> Result:
        calls.append(" ".join(argv[1:3] if argv[1] == "run" else argv[1:]))
        code = int(argv[1] == "start" and "broken" in argv[2])
        if check and code:
            raise ProgramFailed(argv, code, "no such file")
        return Result(code, "", "")

    monkeypatch.setenv("DEVENV_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(podman.program, "run", run)
    monkeypatch.setattr(podman_provider, "_host_settings_kept", contextlib.nullcontext)
    monkeypatch.setattr(image_store, "copy", lambda store, target: str(store) == "/store")
    rows = [podman.Container(f"lab-{node}", "lab", node, "", "exited", 0) for node in ("stopped", "broken")]
    monkeypatch.setattr(podman, "containers", lambda environment=None: rows)
    return calls


def bring_up(*nodes: str, create: bool) -> ProvisionOutcome:
    options = {"image": "image:1", "store": "/store", "stores": {"new": "/far/store"}}
    request, outcome = Request("lab", resolve("aio"), options=options), ProvisionOutcome()
    specs = [dataclasses.replace(NODE, name=name) for name in nodes]
    podman_provider.Provider().bring_up(request, network_plan.EMPTY, specs, outcome, create=create)
    return outcome


def test_create_starts_stopped_nodes_and_recreates_those_that_cannot_start(commands: list[str]) -> None:
    folder().mkdir(parents=True)
    (folder() / "inventory.yml").write_text("all: {hosts: {broken: {}}}")
    outcome = bring_up("stopped", "broken", "new", create=True)
    assert (outcome.started, sorted(outcome.made)) == (["stopped"], ["broken", "new"])
    assert outcome.notes == ["new: the image store was copied from another filesystem"]
    assert outcome.warnings == ["broken could not start and was recreated: everything on it is lost"]
    assert sorted(commands) == [
        "rm --force --time 0 lab-broken", "run --detach", "run --detach", "start lab-broken", "start lab-stopped",
    ]  # fmt: skip


def test_start_recreates_nothing(commands: list[str]) -> None:
    assert bring_up("stopped", create=False).started == ["stopped"]
    with pytest.raises(ProgramFailed):
        bring_up("broken", create=False)
    with pytest.raises(DevenvError, match="new: the container is gone") as caught:
        bring_up("stopped", "new", create=False)
    assert (caught.value.reason.id, caught.value.exit_code) == ("node_gone", 11)
    assert commands == ["start lab-stopped", "start lab-broken"]


def folder() -> Path:
    return Request("lab", resolve("aio")).folder


def finish(node: str) -> Path:
    """Create the data of a node that has run; return a file in them."""
    data = folder() / "nodes" / node
    for name in podman_provider.DATA:
        (data / name).mkdir(parents=True)
    (data / "devenv" / "kubernetes.json").write_text("{}")
    (data / "etcd" / "member").write_text("data")
    return data / "etcd" / "member"


def test_the_data_of_finished_nodes_outlive_their_containers(commands: list[str]) -> None:
    kept = [finish(node) for node in ("broken", "pruned")]
    (folder() / "nodes" / "pruned" / "devenv" / "volumes" / "pvc-1").mkdir(parents=True)
    outcome = bring_up("broken", "pruned", create=True)
    assert sorted(outcome.made) == ["broken", "pruned"]
    assert outcome.warnings == []
    assert sorted(outcome.notes) == [
        "broken could not start and was restored from its data",
        "pruned was gone and was restored from its data, with its volumes pvc-1",
    ]
    assert [file.read_text() for file in kept] == ["data", "data"]


@pytest.mark.parametrize("lost", ["devenv/kubernetes.json", "etcd/member", "kubernetes"])
def test_data_without_a_part_cannot_restore_a_node(commands: list[str], lost: str) -> None:
    """An empty folder of etcd is found later: the node knows that it was complete (kubernetes_damaged)."""
    finish("pruned")
    place = folder() / "nodes" / "pruned" / lost
    place.unlink() if place.is_file() else place.rmdir()
    assert podman_provider.is_kept(folder(), "pruned") is (lost == "etcd/member")


def test_the_only_control_plane_node_is_not_replaced_by_an_empty_one(commands: list[str]) -> None:
    members.record(folder(), "main", ["broken"])
    with pytest.raises(DevenvError, match="the data of broken are gone") as caught:
        bring_up("broken", create=True)
    assert caught.value.reason.id == "cluster_lost"
    assert commands == ["start lab-broken"]


def test_nodes_are_intact_if_they_run_or_have_their_data(commands: list[str]) -> None:
    finish("master-0")
    for name in podman_provider.LARGE:
        (folder() / "nodes" / "older" / name).mkdir(parents=True)
    rows = [
        podman.Container(f"lab-{node}", "lab", node, "", state, 0)
        for node, state in (("runs", "running"), ("older", "exited"), ("emptied", "exited"))
    ]
    assert podman_provider.Provider().intact(Request("lab", resolve("aio")), rows) == {"master-0", "older", "runs"}


def test_volumes_are_found_in_the_data_of_a_node(commands: list[str]) -> None:
    finish("master-0")
    (folder() / "nodes" / "master-0" / "devenv" / "volumes" / "pvc-1").mkdir(parents=True)
    provider, request = podman_provider.Provider(), Request("lab", resolve("aio"))
    assert [provider.volumes(request, node) for node in ("master-0", "worker-0")] == [["pvc-1"], []]


def test_an_image_with_several_names_is_listed_once_per_name(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["localhost/devenv-node:0123456789ab", "localhost/devenv-node:ba9876543210", "docker.io/my/app:1"]
    rows = [{"Id": "1", "Names": names, "Size": 7}] * len(names)
    monkeypatch.setattr(podman_provider.cli, "podman", lambda *_: json.dumps(rows))
    monkeypatch.setattr(podman_provider.cli, "containers", list)
    assert [item.what for item in podman_provider.Provider().cached_files()] == names[:2]
