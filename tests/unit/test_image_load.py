"""Image archives, references, output of ctr, ssh commands; loading with a fake ssh."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import image_load, remote
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh.image_load import Loaded
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh.remote import Target


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:1.27", "docker.io/library/nginx:1.27"),
        ("me/app:1", "docker.io/me/app:1"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app:2", "localhost:5000/app:2"),
        ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
        ("devenv.lab/probe@sha256:ab", "devenv.lab/probe@sha256:ab"),
    ],
)
def test_a_short_reference_gets_registry_and_tag(given: str, full: str) -> None:
    assert image_load.canonical(given) == full


def archive(path: Path, mode: str = "w", **files: Any) -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            entry = tarfile.TarInfo(f"{name}.json")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


DOCKER = [{"Config": "c.json", "RepoTags": ["localhost/a:1", "b"], "Layers": []}]
OCI = {"manifests": [{"annotations": {"org.opencontainers.image.ref.name": "localhost/c:1"}}, {"digest": "x"}]}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_docker_archive_lists_its_image_names(tmp_path: Path, mode: str) -> None:
    names = image_load.names_in(archive(tmp_path / "a", mode, manifest=DOCKER))
    assert names == ["localhost/a:1", "docker.io/library/b:latest"]


def test_an_oci_archive_lists_its_image_names(tmp_path: Path) -> None:
    assert image_load.names_in(archive(tmp_path / "a", index=OCI)) == ["localhost/c:1"]
    containerd = {
        "manifests": [
            {
                "annotations": {"io.containerd.image.name": "x.io/d:2", "org.opencontainers.image.ref.name": "2"},
                "digest": "sha256:d",
            }
        ]
    }
    assert image_load.names_in(archive(tmp_path / "b", index=containerd)) == ["x.io/d:2"]
    assert image_load.digests_in(tmp_path / "b") == {"x.io/d:2": "sha256:d"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"other": {}}, "contains no image with a name"),
        ({"manifest": [{"RepoTags": None}]}, "contains no image with a name"),
        ({"manifest": {"a": 1}, "index": []}, "contains no image with a name"),
        ({"manifest": b"{"}, "cannot be read"),
        ({"manifest": b"\xff\xfe"}, "cannot be read"),
    ],
)
def test_archives_without_named_images_are_rejected(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    with pytest.raises(DevenvError, match=message) as caught:
        image_load.names_in(archive(tmp_path / "a", **files))
    assert caught.value.reason.id == "image_archive_invalid"


@pytest.mark.parametrize("content", [None, b"", b"hello", b"\0" * 100])
def test_a_file_that_is_not_an_archive_is_rejected(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "a"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DevenvError) as caught:
        image_load.names_in(file)
    assert "\n" not in str(caught.value)


DIGEST = "sha256:" + "ab" * 32
OCI_TYPE = "application/vnd.oci.image.manifest.v1+json"


def row(name: str, digest: str = DIGEST, status: str = "complete (2/2)", unpacked: str = "true") -> str:
    """Return a line of ``ctr images check`` as containerd 2.4 prints it."""
    return f"{name:<22} {OCI_TYPE} {digest} {status:<14} 21.2 MiB/21.2 MiB   {unpacked} \n"


CHECK = (
    "REF                    TYPE       DIGEST       STATUS         SIZE                UNPACKED \n"
    + row("devenv.lab/probe:1.0.0")
    + row("half.io/a:1", status="incomplete (1/2)", unpacked="false")
    + row("packed.io/a:1", unpacked="false")
)


def test_only_complete_unpacked_images_count() -> None:
    assert image_load.parse_check(CHECK) == {"devenv.lab/probe:1.0.0": DIGEST}
    assert image_load.parse_check("") == {}


def node(name: str, before: str, after: str, code: int = 0) -> Target:
    """Return a target whose fake ssh reads the whole archive and then prints what a node would."""
    script = f"echo '{remote.BEGIN}'; "
    script += (
        f"printf '%s%s\\n' \"$1\" '{image_load.CUT}'; cat >/dev/null; printf '%s\\n%s' '{image_load.CUT}' \"$2\"; "
    )
    script += f"[ {code} -eq 0 ] || {{ echo no space left >&2; exit {code}; }}"
    return Target(name, ("sh", "-c", script, "sh", before, after))


A = [{"RepoTags": ["localhost/a:1"]}]


@pytest.mark.parametrize(
    ("names", "given", "expected"),
    [
        (["localhost/shop/app:1"], "shop/app:1", {"docker.io/shop/app:1": "localhost/shop/app:1"}),
        (["localhost/app:1", "x.io/b:1"], "", {"docker.io/library/app:1": "localhost/app:1"}),
        (["localhost/app:1", "docker.io/library/app:1"], "", {}),
        (["x.io/fedora:1"], "fedora:1", {"docker.io/library/fedora:1": "x.io/fedora:1"}),
        (["docker.io/library/nginx:latest"], "nginx", {}),
        (["x.io/a:1"], "0123456789ab", {}),
        (["x.io/a:1"], f"x.io/a@{DIGEST}", {}),
    ],
)
def test_pods_find_images_under_the_name_that_was_loaded(
    names: list[str], given: str, expected: dict[str, str]
) -> None:
    assert image_load.aliases(names, given) == expected


def test_further_names_are_set_and_checked_on_each_node(tmp_path: Path) -> None:
    file, further = archive(tmp_path / "a", manifest=A), {"docker.io/library/a:1": "localhost/a:1"}
    assert f"{image_load.CTR} tag --force localhost/a:1 docker.io/library/a:1" in image_load.script(further)
    both = row("localhost/a:1") + row("docker.io/library/a:1")
    (loaded,) = image_load.load(file, [node("n0", "", both)], further=further)
    assert loaded.images == {"localhost/a:1": DIGEST, "docker.io/library/a:1": DIGEST}
    with pytest.raises(DevenvError, match=r"n0 lacks docker\.io/library/a:1"):
        image_load.load(file, [node("n0", "", row("localhost/a:1"))], further=further)


def test_load_reports_images_and_change_per_node(tmp_path: Path) -> None:
    file = archive(tmp_path / "a", manifest=A)
    loaded_row = row("localhost/a:1")
    loaded = image_load.load(file, [node("n0", "", loaded_row), node("n1", loaded_row, loaded_row)])
    images = {"localhost/a:1": DIGEST}
    assert loaded == [Loaded("n0", images, True), Loaded("n1", images, False)]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (node("n1", "", row("other/a:1")), "n1 lacks localhost/a:1"),
        (node("n1", "", row("localhost/a:1", status="incomplete (1/2)")), "n1 lacks localhost/a:1"),
        (node("n1", "", row("localhost/a:1", unpacked="false")), "n1 lacks localhost/a:1"),
        (node("n1", "", row("localhost/a:1", digest="sha256:" + "cd" * 32)), "localhost/a:1 differs: n0 has"),
        (node("n1", "", row("localhost/a:1"), code=5), "n1: no space left"),
        (Target("n1", ("false",)), "n1: ssh ended with code 1"),
        (Target("n1", ("/there/is/no/ssh",)), "n1: .*No such file"),
        (Target("n1", ("sh", "-c", "sleep 30")), "n1: sh did not end in time"),
    ],
)
def test_an_error_on_one_node_fails_the_load(tmp_path: Path, bad: Target, message: str) -> None:
    file = archive(tmp_path / "a", manifest=A)
    with pytest.raises(DevenvError, match=message) as caught:
        image_load.load(file, [node("n0", "", row("localhost/a:1")), bad], timeout=1 if "in time" in message else 30)
    assert caught.value.reason.id == "image_load_failed"
