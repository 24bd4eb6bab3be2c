"""Image archives, read with plain tarfile, json and hashlib as the OCI specification describes them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import oci
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.oci import Blob, Entry, Spec
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

NAME = "registry.example/group/thing:v1.2.3"


def spec(tmp_path: Path) -> Spec:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF" + bytes(range(256)) * 50)
    return Spec(
        NAME,
        (
            Entry("usr/local/bin/thing", source=program),
            Entry("etc/passwd", 0o644, data=b"root:x:0:0::/:\n"),
            Entry("bin/sh", link="/bin/busybox"),
            Entry("tmp", 0o1777),
        ),
        {"Entrypoint": ["/usr/local/bin/thing"], "User": "65532"},
    )


def blobs(archive: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    with tarfile.open(archive) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar if member.isreg()}  # type: ignore[union-attr]
    return json.loads(files["index.json"]), files


def test_archive_follows_the_specification(tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    digest = oci.build(spec(tmp_path), archive, "arm64")
    index, files = blobs(archive)

    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    for path, content in files.items():
        if path.startswith("blobs/sha256/"):
            assert hashlib.sha256(content).hexdigest() == path.rpartition("/")[2]
    (entry,) = index["manifests"]
    assert entry["digest"] == digest
    assert entry["annotations"]["io.containerd.image.name"] == NAME
    assert entry["annotations"]["org.opencontainers.image.ref.name"] == "v1.2.3"

    def blob(descriptor: dict[str, Any]) -> bytes:
        content = files["blobs/" + descriptor["digest"].replace(":", "/")]
        assert len(content) == descriptor["size"]
        return content

    manifest = json.loads(blob(entry))
    assert manifest["mediaType"] == entry["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    config = json.loads(blob(manifest["config"]))
    assert (config["architecture"], config["os"]) == ("arm64", "linux")
    assert config["config"] == {"Entrypoint": ["/usr/local/bin/thing"], "User": "65532"}
    (layer,) = manifest["layers"]
    assert layer["mediaType"] == "application/vnd.oci.image.layer.v1.tar"
    assert config["rootfs"] == {"type": "layers", "diff_ids": [layer["digest"]]}

    (legacy,) = json.loads(files["manifest.json"])
    assert legacy["RepoTags"] == [NAME]
    assert {legacy["Config"], *legacy["Layers"]} < files.keys()


def test_a_layer_is_sorted_and_owned_by_root(tmp_path: Path) -> None:
    oci.write_layer(spec(tmp_path).entries, tmp_path / "layer.tar")
    with tarfile.open(tmp_path / "layer.tar") as tar:
        members = {member.name: member for member in tar}
        assert list(members) == sorted(members), "a folder must come before its content"
        assert {"usr", "usr/local", "usr/local/bin", "etc", "bin"} < members.keys()
        program = tar.extractfile("usr/local/bin/thing")
        assert program is not None
        assert program.read() == (tmp_path / "program").read_bytes()
    assert {(info.mtime, info.uid, info.gid, info.uname) for info in members.values()} == {(0, 0, 0, "")}
    assert members["usr/local/bin/thing"].mode == 0o755
    assert members["etc/passwd"].mode == 0o644
    assert members["tmp"].mode == 0o1777
    assert (members["bin/sh"].issym(), members["bin/sh"].linkname) == (True, "/bin/busybox")


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    first = spec(tmp_path)
    oci.build(first, tmp_path / "a.tar", "amd64")
    os.utime(tmp_path / "program", (1, 1))
    (tmp_path / "program").chmod(0o600)
    oci.build(Spec(NAME, tuple(reversed(first.entries)), first.config), tmp_path / "b.tar", "amd64")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    oci.build(Spec(NAME, first.entries[1:], first.config), tmp_path / "c.tar", "amd64")
    assert (tmp_path / "a.tar").read_bytes() != (tmp_path / "c.tar").read_bytes()


def test_no_temporary_files_remain(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    oci.build(spec(tmp_path), out / "image.tar", "amd64")
    assert [file.name for file in out.iterdir()] == ["image.tar"]


def layered(tmp_path: Path, *layers: bytes) -> Path:
    parts = [Blob.of(layer) for layer in layers]
    config = Blob.of(b"{}")
    manifest = {
        "config": {"digest": config.digest, "size": config.size},
        "layers": [{"digest": part.digest, "size": part.size} for part in parts],
    }
    body = Blob.of(json.dumps(manifest).encode())
    oci.write_archive(NAME, body, oci.MANIFEST, config, parts, tmp_path / "layered.tar")
    return tmp_path / "layered.tar"


def layer_of(**files: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(f"./opt/{name}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return stream.getvalue()


def test_extract_uses_the_uppermost_layer_compressed_or_not(tmp_path: Path) -> None:
    archive = layered(tmp_path, layer_of(a="low", b="only low"), gzip.compress(layer_of(a="high")))
    oci.extract(archive, "opt/a", tmp_path / "a")
    oci.extract(archive, "opt/b", tmp_path / "b")
    assert ((tmp_path / "a").read_text(), (tmp_path / "b").read_text()) == ("high", "only low")


def test_extract_reports_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DevenvError, match="has no file /opt/c") as caught:
        oci.extract(layered(tmp_path, layer_of(a="x")), "opt/c", tmp_path / "c")
    assert caught.value.reason.id == "bundle_image_content"


def test_extract_refuses_a_layer_that_is_not_a_tar(tmp_path: Path) -> None:
    with pytest.raises(DevenvError, match="cannot be read") as caught:
        oci.extract(layered(tmp_path, b"\x28\xb5\x2f\xfd" + b"zstandard" * 99), "opt/c", tmp_path / "c")
    assert caught.value.reason.id == "bundle_image_content"


def test_read_returns_the_image(tmp_path: Path) -> None:
    digest = oci.build(spec(tmp_path), tmp_path / "image.tar", "amd64")
    (image,) = oci.read(tmp_path / "image.tar")
    assert (image.name, image.digest, len(image.layers)) == (NAME, digest, 1)


def test_read_refuses_other_files(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not an archive")
    with pytest.raises(DevenvError) as caught:
        oci.read(tmp_path / "text")
    assert caught.value.reason.id == "bundle_broken"
