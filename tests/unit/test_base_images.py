"""Base images: their content and digest, what is refused, who uses them, and the keys of a profile."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory, state
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.nodes import NodeSpec
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import base_images, node_recipe, registry
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import CachedFile, Request
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import image as node_image
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import provider as podman_provider

WITH_TOOLS = {"nodes.master-0.base_image": "tools"}


def build(
    home: Path, name: str, packages: Sequence[str] = (), rootfs: Path | None = None, **files: Path
) -> base_images.BaseImage:
    """Record a base image; ``files`` are those in /opt."""
    sources = {f"/opt/{target}": source for target, source in files.items()}
    with base_images.staged(home, name, packages, sources, rootfs):
        pass
    return base_images.read(home, name)


class Images(podman_provider.Provider):
    """Has one image for each digest in ``built``."""

    def __init__(self, **built: str) -> None:
        self.built, self.removed = built, list[str]()

    def variants(self, digest: str) -> list[CachedFile]:
        return [CachedFile("node-image", f"image-{digest}", 7, self.built[digest])] if digest in self.built else []

    def remove_cached(self, item: CachedFile) -> None:
        self.removed.append(item.what)


def use(monkeypatch: pytest.MonkeyPatch, images: Images) -> Images:
    monkeypatch.setattr(base_images, "provider", lambda: images)
    return images


# --- content ---------------------------------------------------------------------------------------------------------


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    note = tmp_path / "note"
    note.write_text("one")
    first = build(tmp_path, "a", ["tree", "jq", "jq"], note=note)
    assert (first.packages, list(first.files)) == (["jq", "tree"], ["/opt/note"])
    assert build(tmp_path, "b", ["jq", "tree"], note=note).digest == first.digest
    others = {build(tmp_path, "c", ["jq"], note=note).digest, build(tmp_path, "c", ["jq", "tree"], other=note).digest}
    note.chmod(0o755)
    others.add(build(tmp_path, "c", ["jq", "tree"], note=note).digest)
    note.write_text("two")
    others.add(build(tmp_path, "c", ["jq", "tree"], note=note).digest)
    others.add(build(tmp_path, "c", rootfs=note).digest)
    assert len(others - {first.digest}) == 5
    # The recorded content is a copy.
    assert first.files["/opt/note"].read_text() == "one"
    assert base_images.names(tmp_path) == ["a", "b", "c"]


def test_a_failed_build_leaves_the_former_image(tmp_path: Path) -> None:
    former = build(tmp_path, "a", ["tree"])
    with pytest.raises(RuntimeError), base_images.staged(tmp_path, "a", ["jq"], {}, None):
        raise RuntimeError
    with base_images.staged(tmp_path, "a", ["jq"], {}, None, keep=False) as image:
        assert image.packages == ["jq"]
    assert base_images.read(tmp_path, "a") == former
    (base_images.folder_of(tmp_path) / ".building-left").mkdir()
    assert build(tmp_path, "a", ["jq"]).packages == ["jq"]
    assert [path.name for path in base_images.folder_of(tmp_path).iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("name", "packages", "files", "message"),
    [
        ("../a", ["tree"], {}, "the name may have"),
        (".a", ["tree"], {}, "the name may have"),
        ("a b", ["tree"], {}, "the name may have"),
        ("a", [], {}, "is the node image itself"),
        ("a", ["tree jq"], {}, "'tree jq' is not the name"),
        ("a", ["--include=x"], {}, "'--include=x' is not the name"),
        ("a", [], {"etc/motd": "here"}, "'etc/motd' is not an absolute path"),
        ("a", [], {"/etc/../run/x": "here"}, "'/etc/../run/x' is not an absolute path"),
        ("a", [], {"/etc//motd": "here"}, "'/etc//motd' is not an absolute path"),
        ("a", [], {"/": "here"}, "'/' is not an absolute path"),
        ("a", [], {"//etc/motd": "here"}, "'//etc/motd' is not an absolute path"),
        ("a", [], {"/opt/a": "here", "/opt/a/b": "here"}, "/opt/a/b: /opt/a is a file, too"),
        ("a", [], {"/opt/$HOME": "here"}, "is not an absolute path"),
        ("a", [], {"/opt/a b": "here"}, "is not an absolute path"),
        ("a", [], {"/opt/": "here"}, "is not an absolute path"),
        ("a", [], {"/var/run/x": "here"}, "nodes do not have /var/run from their image"),
        ("a", [], {"/run/x": "here"}, "nodes do not have /run from their image"),
        ("a", [], {"/etc/hosts": "here"}, "nodes do not have /etc/hosts from their image"),
        ("a", [], {"/opt/x": "gone"}, "gone is not a file"),
    ],
)
def test_what_an_image_cannot_have(
    tmp_path: Path, name: str, packages: list[str], files: dict[str, str], message: str
) -> None:
    (tmp_path / "here").write_text("")
    with pytest.raises(DevenvError, match=message) as caught:
        base_images.check(name, packages, {target: tmp_path / source for target, source in files.items()}, None)
    assert (caught.value.reason.id, caught.value.exit_code) == ("base_image_invalid", 2)
    assert base_images.names(tmp_path) == []


def test_a_rootfs_has_its_own_packages(tmp_path: Path) -> None:
    (tmp_path / "root.tar").write_text("")
    base_images.check("a", [], {}, tmp_path / "root.tar")
    with pytest.raises(DevenvError, match="has its packages already"):
        base_images.check("a", ["tree"], {}, tmp_path / "root.tar")
    with pytest.raises(DevenvError, match=r"gone\.tar is not a file"):
        base_images.check("a", [], {}, tmp_path / "gone.tar")


@pytest.mark.parametrize("package", ["tree", "libc6:amd64", "jq=1.6-2.1+deb12u1", "g++", "linux-perf/bookworm"])
def test_packages_as_apt_accepts_them(package: str) -> None:
    base_images.check("k8s_base-2.3", [package], {}, None)


# --- recipe ----------------------------------------------------------------------------------------------------------


def node(tmp_path: Path) -> node_recipe.Recipe:
    (tmp_path / "init").write_text("init")
    return node_recipe.Recipe("bookworm", "", ["systemd"], ["a.timer"], {"/sbin/init": tmp_path / "init"})


def test_an_image_is_what_every_node_has_and_more(tmp_path: Path) -> None:
    own = node(tmp_path)
    recipe = base_images.recipe_of(build(tmp_path, "a", ["tree"], init=own.files["/sbin/init"]), own)
    assert (recipe.packages, sorted(recipe.files), recipe.masked) == (
        ["systemd", "tree"], ["/opt/init", "/sbin/init"], ["a.timer"],
    )  # fmt: skip
    assert node_recipe.root_digest(recipe) != node_recipe.root_digest(own)
    assert node_image.image_reference(recipe, "1") != node_image.image_reference(recipe, "2")


def test_files_of_devenv_are_not_replaced(tmp_path: Path) -> None:
    own = node(tmp_path)
    with base_images.staged(tmp_path, "a", [], {"/sbin/init": own.files["/sbin/init"]}, None) as image:
        pass
    with pytest.raises(DevenvError, match="/sbin/init: every node has devenv's own"):
        base_images.recipe_of(image, own)


def test_packages_of_a_rootfs_are_those_that_dpkg_has_installed() -> None:
    status = (
        "Package: systemd\nStatus: install ok installed\nVersion: 1\n\n"
        "Package: tree\nStatus: deinstall ok config-files\n\n"
        "Package: runc\nPriority: optional\nStatus: install ok installed\n"
    )
    assert node_image.installed(status) == {"systemd", "runc"}


# --- use -------------------------------------------------------------------------------------------------------------


def environment(home: Path, name: str) -> None:
    state.write_profile(home / "environments" / name, resolve("aio", overrides=WITH_TOOLS))


def test_an_image_in_use_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = build(tmp_path, "tools", ["tree"])
    images = use(monkeypatch, Images(**{image.digest: ""}))
    environment(tmp_path, "one")
    (row,) = base_images.rows(tmp_path)
    assert (row["environments"], row["images"], row["bytes"]) == (["one"], [f"image-{image.digest}"], 7)
    with pytest.raises(DevenvError, match="base image tools is used by one") as caught:
        base_images.remove(tmp_path, "tools")
    assert (caught.value.reason.id, images.removed, base_images.names(tmp_path)) == ("base_image_used", [], ["tools"])


def test_the_images_are_removed_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = build(tmp_path, "tools", ["tree"])
    images = use(monkeypatch, Images(**{image.digest: ""}))
    assert base_images.remove(tmp_path, "tools") == images.removed == [f"image-{image.digest}"]
    assert base_images.rows(tmp_path) == []
    with pytest.raises(DevenvError, match="base image tools does not exist"):
        base_images.remove(tmp_path, "tools")


def test_images_that_something_else_needs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = build(tmp_path, "one", ["tree"]), build(tmp_path, "two", ["tree"])
    three = build(tmp_path, "three", ["jq"])
    images = use(monkeypatch, Images(**{one.digest: "", three.digest: "node-of-another-home"}))
    assert base_images.remove(tmp_path, "one") == base_images.remove(tmp_path, "three") == []
    assert base_images.remove(tmp_path, two.name) == images.removed == [f"image-{two.digest}"]


def test_one_provider_has_base_images() -> None:
    provider = base_images.provider()
    assert provider.name == "podman"
    assert [each.variants("0") for each in registry.every() if each.name != provider.name] == [[], []]


# --- profile and node ------------------------------------------------------------------------------------------------


def test_a_node_names_its_base_image(tmp_path: Path) -> None:
    profile = resolve("master-2pipe", overrides={"nodes.worker-0.base_image": "tools"})
    assert [node.get("base_image") for node in profile["nodes"]] == [None, "tools", None]
    built = inventory.build(profile, None, tmp_path)
    assert built["vars"]["devenv_base_images"] == ["tools"]
    assert built["hosts"]["worker-0"]["devenv_base_image"] == "tools"
    hostvars = {name: {**built["vars"], **variables} for name, variables in built["hosts"].items()}
    variables = {**built["vars"], "hostvars": hostvars, "groups": built["groups"]}
    assert inventory.profile_of(variables) == profile
    assert "devenv_base_images" not in inventory.build(resolve("aio"), None, tmp_path)["vars"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"provider": "libvirt"}, r"nodes\.master-0\.base_image: has no effect with the provider libvirt"),
        ({"nodes.master-0.image": "localhost/own"}, r"nodes\.master-0\.base_image: the node has the image"),
        ({"nodes.master-0.base_image": "a b"}, "must be the name of a base image"),
    ],
)
def test_keys_that_contradict_it(overrides: dict[str, str], message: str) -> None:
    with pytest.raises(DevenvError, match=message):
        resolve("aio", overrides={**WITH_TOOLS, **overrides})


def test_a_container_starts_from_the_image_of_its_node() -> None:
    request = Request("aio", resolve("aio"), options={"image": "node:1", "images": {"tools": "variant:1"}})
    spec = NodeSpec(name="master-0", group="control_plane", mac="52:54:0a:d5:00:0a")
    found = [
        podman_provider.run_arguments(request, dataclasses.replace(spec, base_image=name))[-2] for name in ("", "tools")
    ]
    assert found == ["node:1", "variant:1"]


def test_a_missing_image_is_found_before_anything_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVENV_HOME", str(tmp_path))
    build(tmp_path, "tools", ["tree"])
    assert podman_provider._base_image_probe("tools").ok
    probe = podman_provider._base_image_probe("tool")
    assert (probe.ok, probe.required, probe.reason) == (False, True, "base_image_unknown")
    assert (probe.seen, probe.fix) == ("unknown; known: tools", "devenv base-image build tool")
