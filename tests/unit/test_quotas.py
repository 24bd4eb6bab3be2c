"""Limits of directories: where the kernel can enforce them, and what a run does where it cannot."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths, program
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.core.program import Result
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.nodes import NodeSpec
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.checks import quotas
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import Request
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import provider as podman_provider

LIMIT = {"nodes.master-0.disk": "3GiB"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DEVENV_HOME that does not exist, in a folder with a space, on the btrfs of the device dm-7 without quotas."""
    place = tmp_path / "my disk"
    place.mkdir()
    device = tmp_path / "dm-7"
    device.touch()
    (tmp_path / "root").symlink_to(device)
    mounts, escaped = tmp_path / "mountinfo", str(place).replace(" ", "\\040")
    mounts.write_text(
        "20 1 254:0 / / rw - ext4 /dev/vda rw\n"
        f"21 20 254:0 / {escaped} rw - xfs /dev/vdb rw\n"
        f"22 21 0:39 /@ {escaped} rw,relatime shared:1 - btrfs {tmp_path}/root rw\n"
        f"23 20 0:40 / {escaped}/devenv2 rw - tmpfs tmpfs rw\n"
    )
    (tmp_path / "sys" / "d3869322" / "devices" / "dm-7").mkdir(parents=True)
    monkeypatch.setattr(quotas, "MOUNTS", mounts)
    monkeypatch.setattr(quotas, "SYSFS", tmp_path / "sys")
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setenv("DEVENV_HOME", str(place / "devenv"))
    return place / "devenv"


@pytest.fixture
def limited(home: Path, tmp_path: Path) -> Path:
    """The same with quotas."""
    (tmp_path / "sys" / "d3869322" / "qgroups").mkdir()
    return home


def refusal() -> str:
    with pytest.raises(DevenvError) as caught:
        resolve("sno", overrides=LIMIT)
    assert caught.value.reason.id == "profile_invalid"
    return caught.value.message


def test_a_disk_of_a_container_is_accepted_where_quotas_are_on(limited: Path) -> None:
    assert resolve("sno", overrides=LIMIT)["nodes"][0]["disk"] == 3 << 30


def test_quotas_that_are_off_are_named_with_the_command(home: Path) -> None:
    message = refusal()
    assert message.startswith("nodes.master-0.disk: has no effect with the provider podman: quotas of the btrfs on ")
    assert f"btrfs quota enable {home.parent}" in message
    assert "or use the provider libvirt" in message


def test_another_filesystem_is_named_with_the_directory(limited: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = limited.with_name("devenv2")
    other.mkdir()
    monkeypatch.setenv("DEVENV_HOME", str(other))
    assert f"{other}/environments is on tmpfs, and only btrfs with quotas limits a directory" in refusal()
    quotas.MOUNTS.write_text("20 1 254:0 / / rw - ext4 /dev/vda rw\n")
    assert f"{other}/environments is on ext4" in refusal()


def test_a_link_to_another_filesystem_is_followed(limited: Path, tmp_path: Path) -> None:
    limited.symlink_to(tmp_path)
    assert "environments is on ext4" in refusal()


def test_a_missing_program_is_named(limited: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "the program btrfs is missing (apt-get install -y --no-install-recommends btrfs-progs)" in refusal()


def test_a_node_is_not_created_without_the_limit_that_its_profile_had(limited: Path, tmp_path: Path) -> None:
    """Quotas were on when the profile was stored. Nodes of the default size get a limit where there are quotas."""
    stored = resolve("sno", overrides=LIMIT)
    (accepted,) = podman_provider._limit_probes(stored["nodes"], "kubeadm")
    (tmp_path / "sys" / "d3869322" / "qgroups").rmdir()
    (refused,) = podman_provider._limit_probes(stored["nodes"], "kubeadm")
    assert (accepted.ok, refused.ok, refused.name) == (True, False, "disk of master-0")
    assert "btrfs quota enable" in refused.seen
    assert list(podman_provider._limit_probes(resolve("sno")["nodes"], "kubeadm")) == []


@pytest.mark.parametrize("is_on", [True, False])
def test_the_data_of_a_node_have_the_limit_of_its_disk(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_on: bool
) -> None:
    if is_on:
        (tmp_path / "sys" / "d3869322" / "qgroups").mkdir()
    commands: list[list[str]] = []

    def run(argv: list[str], **_: object) -> Result:
        commands.append(argv)
        if argv[:3] == ["btrfs", "subvolume", "create"]:
            Path(argv[3]).mkdir()
        return Result(0, "", "")

    monkeypatch.setattr(program, "run", run)
    monkeypatch.setattr(podman_provider.image_store, "copy", lambda store, target: False)
    request = Request("lab", resolve("sno"), options={"store": "/store", "stores": {}})
    linked = podman_provider._make_data(request, NodeSpec("master-0", "control_plane", disk=3 << 30))
    nodes = paths.environment("lab") / "nodes"
    unfinished = str(nodes / ".master-0.making")
    expected = [["btrfs", "subvolume", "create", unfinished], ["btrfs", "qgroup", "limit", str(3 << 30), unfinished]]
    assert commands == (expected if is_on else [])
    assert linked is is_on
    assert (nodes / "master-0" / "containerd").is_dir()
