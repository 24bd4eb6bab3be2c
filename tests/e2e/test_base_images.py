"""Base images: a variant of the node image for one node of a cluster, built, requested by a test, and removed."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman.cli import image_exists
from support.commands import ROOT, Typed, shown

pytestmark = [pytest.mark.cluster, pytest.mark.nightly]

TEST = """
from devenv.testing import hardware_config, on_all

SEEN = "cat /opt/lab/note 2> /dev/null || echo none; command -v tree || :"


@hardware_config(
    hardware={"host1": {"base_image": "k8s_base"}, "host2": {"base_image": "e2e_tools"}},
    grouping={"cluster1": {"hosts": ["host1", "host2"]}},
)
def test_one_cluster_has_two_images(base_config):
    cluster = base_config.clusters.cluster1
    assert cluster.installer == "k8s"
    assert on_all(base_config.hosts, SEEN) == {"host1": "none\\n", "host2": "lab\\n/usr/bin/tree\\n"}
    assert len(cluster.Kubectl.get_nodes()) == 2
"""


def rows(user: Typed) -> dict[str, Any]:
    return {row["name"]: row for row in user.data("base-image", "list")}


def test_a_cluster_mixes_two_images(user: Typed, tmp_path: Path) -> None:
    (tmp_path / "note").write_text("lab\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --install -p no:cacheprovider --color=no\n")
    (tmp_path / "test_it.py").write_text(TEST)
    typed = Typed(user.home, tmp_path)
    before = typed.run("pytest", code=None)
    assert '"e2e_tools" is unknown' in before.stdout, shown(before)
    assert "build it with devenv base-image build e2e_tools" in before.stdout, shown(before)

    words = ("base-image", "build", "e2e_tools", "--package", "tree", "--file", "./note:/opt/lab/note")
    assert "changed=1" in typed.devenv(*words).stdout
    assert "changed=0" in typed.devenv(*words).stdout
    (root,) = rows(user)["e2e_tools"]["images"]
    assert root.startswith("localhost/devenv-root:")

    done = typed.run("pytest", "--devenv-reuse", code=None)
    assert "1 passed" in done.stdout, shown(done)
    (environment,) = rows(user)["e2e_tools"]["environments"]
    try:
        refused = user.devenv("base-image", "rm", "e2e_tools", code=2)
        assert f"base image e2e_tools is used by {environment}" in refused.stderr
    finally:
        user.devenv("down", "--name", environment)
    images = rows(user)["e2e_tools"]["images"]
    assert len(images) == 2, images
    user.devenv("base-image", "rm", "e2e_tools")
    assert "e2e_tools" not in rows(user)
    assert [image for image in images if image_exists(image)] == []


def archive(folder: Path, packages: list[str]) -> str:
    """Return an archive of a root filesystem in which dpkg has installed ``packages``."""
    status = folder / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True, exist_ok=True)
    status.write_text("".join(f"Package: {name}\nStatus: install ok installed\n\n" for name in packages))
    (folder / "root").mkdir(mode=0o700, exist_ok=True)
    with tarfile.open(f"{folder}.tar", "w") as tar:
        tar.add(folder, ".")
    return f"{folder}.tar"


@contextmanager
def mounted(image: str) -> Iterator[Path]:
    words = ("podman", "image", "mount", image)
    yield Path(subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip())
    subprocess.run(("podman", "image", "unmount", image), capture_output=True, check=True)


def test_an_image_can_start_from_a_root_filesystem(user: Typed, tmp_path: Path) -> None:
    of_nodes = yaml.safe_load((ROOT / "roles/node_image/vars/main.yml").read_text())
    packages = of_nodes["__node_image_packages"]
    (tmp_path / "note").write_text("lab\n")
    words = ("base-image", "build", "e2e_rootfs", "--file", f"{tmp_path}/note:/root/note", "--rootfs")
    lacking = archive(tmp_path / "lacking", [name for name in packages if name != "runc"])
    refused = user.devenv(*words, lacking, code=2)
    assert "the rootfs lacks packages of a node: runc" in refused.stderr
    assert "e2e_rootfs" not in rows(user)

    user.devenv(*words, archive(tmp_path / "whole", packages))
    (image,) = rows(user)["e2e_rootfs"]["images"]
    with mounted(image) as root:
        assert (root / "root/note").read_text() == "lab\n"
        assert (root / "root").stat().st_mode & 0o777 == 0o700
        assert (root / "usr/local/sbin/node-init").stat().st_mode & 0o777 == 0o755
        units = [root / "etc/systemd/system" / name for name in of_nodes["__node_image_masked"]]
        assert {str(unit.readlink()) for unit in units} == {"/dev/null"}
    described = subprocess.run(("podman", "inspect", image), capture_output=True, text=True, check=True).stdout
    assert json.loads(described)[0]["Config"]["Cmd"] == ["/usr/local/sbin/node-init"]
    user.devenv("base-image", "rm", "e2e_rootfs")
    assert not image_exists(image)


FROM_SNAPSHOT = """
from devenv.testing import hardware_config


@hardware_config(hardware={"host1": {"base_image": "e2e_ready"}}, grouping={"cluster1": {"hosts": ["host1"]}})
def test_the_cluster_has_the_saved_objects(base_config):
    found = base_config.clusters.cluster1.Kubectl.core.read_namespaced_config_map("e2e-mark", "default")
    assert found.data == {"saved": "yes"}
"""


def test_an_image_can_be_a_snapshot(user: Typed, new_name: Callable[[str], str], tmp_path: Path) -> None:
    name = new_name("ready")
    user.devenv("up", "--profile", "aio", "--name", name)
    kubectl = ("exec", "--name", name, "--", "kubectl", "create", "configmap", "e2e-mark", "--from-literal=saved=yes")
    user.devenv(*kubectl)
    user.devenv("snapshot", "save", "e2e-ready", "--name", name)
    user.devenv("down", "--name", name)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --install -p no:cacheprovider --color=no\n")
    (tmp_path / "devenv-testing.yml").write_text("base_images: {e2e_ready: {snapshot: e2e-ready}}\n")
    (tmp_path / "test_it.py").write_text(FROM_SNAPSHOT)
    try:
        done = Typed(user.home, tmp_path).run("pytest", code=None)
        assert "1 passed" in done.stdout, shown(done)
    finally:
        user.devenv("snapshot", "rm", "e2e-ready")
