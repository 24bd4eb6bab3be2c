"""Bundles on disk: finding, verifying, atomic builds, export and import."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import (
    archive,
    downloads,
    manifest,
    modules,
    sources,
    store,
    versions,
)
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.manifest import Image, Manifest
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.store import Bundle
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from support.bundles import FILES, create

COLLECTIONS = Path(__file__).resolve().parents[2] / "collections"


def names(cache: Path) -> list[str]:
    return sorted(path.name for path in store.root(cache).iterdir() if path.name != ".lock")


def fail(cache: Path, **kwargs: object) -> DevenvError:
    with pytest.raises(DevenvError) as caught:
        sources.ensure(cache_dir=cache, **kwargs)  # type: ignore[arg-type]
    return caught.value


# --- find and verify


def test_find_returns_a_complete_bundle(tmp_path: Path) -> None:
    assert store.find(cache_dir=tmp_path) is None
    bundle = create(tmp_path)
    assert store.find("1.36.3", tmp_path) == bundle
    assert bundle.bin("kubectl").read_bytes() == FILES["bin/kubectl"]
    assert bundle.images() == [bundle.path / "images/pause.tar"]
    assert bundle.size == sum(len(data) for data in FILES.values())
    assert store.list_bundles(tmp_path) == [bundle]
    assert store.leftovers(tmp_path) == []


def test_a_missing_program_is_reported() -> None:
    bundle = Bundle(Path("/x"), Manifest("1", "amd64", "modules", "0" * 12, "", (), ()))
    with pytest.raises(DevenvError, match="has no bin/nothing"):
        bundle.bin("nothing")


@pytest.mark.parametrize("damage", ["missing", "short", "no manifest", "bad manifest", "renamed"])
def test_a_broken_bundle_is_not_found(tmp_path: Path, damage: str) -> None:
    bundle = create(tmp_path)
    if damage == "missing":
        bundle.bin("helm").unlink()
    elif damage == "short":
        bundle.bin("helm").write_bytes(b"hel")
    elif damage == "no manifest":
        (bundle.path / "manifest.json").unlink()
    elif damage == "bad manifest":
        (bundle.path / "manifest.json").write_text('{"format": 1}')
    else:
        bundle.path.rename(bundle.path.with_name("1.36.3-000000000000"))
    assert store.find(cache_dir=tmp_path) is None
    assert store.list_bundles(tmp_path) == []
    assert len(store.leftovers(tmp_path)) == 1
    # A new build replaces the broken one.
    assert store.find(cache_dir=tmp_path) is None
    assert create(tmp_path) == store.find(cache_dir=tmp_path)


def test_verify_reports_every_difference(tmp_path: Path) -> None:
    bundle = create(tmp_path)
    assert store.verify(bundle) == []
    bundle.bin("helm").write_bytes(b"HELM")
    assert store.find(cache_dir=tmp_path), "same size: only verify detects it"
    (bundle.path / "bin/extra").write_text("x")
    (bundle.path / "cni/ptp").unlink()
    bundle.bin("kubectl").write_bytes(b"")
    assert store.verify(bundle) == [
        "bin/helm: sha256 differs",
        f"bin/kubectl: 0 bytes instead of {len(FILES['bin/kubectl'])}",
        "cni/ptp: missing",
        "bin/extra: not in the manifest",
    ]


def test_a_link_does_not_count_as_a_file(tmp_path: Path) -> None:
    bundle = create(tmp_path)
    (tmp_path / "helm").write_bytes(FILES["bin/helm"])
    bundle.bin("helm").unlink()
    bundle.bin("helm").symlink_to(tmp_path / "helm")
    assert store.verify(bundle) == ["bin/helm: missing"]


def test_digest_depends_on_the_content_only(tmp_path: Path) -> None:
    bundle = create(tmp_path)
    later = dataclasses.replace(bundle.manifest, created="2030-01-01T00:00:00Z", source="release")
    assert later.digest == bundle.digest
    assert len(bundle.digest) == 64
    other = dataclasses.replace(bundle.manifest, images=())
    assert other.digest != bundle.digest


def test_a_manifest_survives_dump_and_parse(tmp_path: Path) -> None:
    bundle = create(tmp_path)
    assert manifest.parse(bundle.manifest.dump(), "x") == bundle.manifest
    row = json.loads((bundle.path / "manifest.json").read_text())["files"][0]
    assert row.keys() == {"path", "sha256", "size", "version", "origin", "inputs", "part"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 2),
        ("files", None),
        ("files", [{"path": "../../etc/x", "sha256": "0" * 64, "size": 1, "version": "", "origin": ""}]),
        ("files", [{"path": "/etc/x", "sha256": "0" * 64, "size": 1, "version": "", "origin": ""}]),
        ("files", [{"path": "x", "sha256": "0", "size": 1, "version": "", "origin": ""}]),
        ("images", [{"name": "x", "digest": "y", "path": "a/../../b"}]),
        ("inputs", "../../../../x"),
        ("kubernetes", ".."),
        ("packages", []),
    ],
)
def test_bad_manifests_are_refused(tmp_path: Path, key: str, value: object) -> None:
    data = json.loads(create(tmp_path).manifest.dump())
    manifest.parse(json.dumps(data), "x")
    data[key] = value
    with pytest.raises(DevenvError) as caught:
        manifest.parse(json.dumps(data), "x")
    assert caught.value.reason.id == "bundle_broken"


def test_remove_returns_the_freed_bytes(tmp_path: Path) -> None:
    bundle = create(tmp_path)
    size = store.size_of(bundle.path)
    assert size > bundle.size
    assert store.size_of(store.root(tmp_path)) - (store.root(tmp_path) / ".lock").stat().st_size == size
    assert store.remove(bundle) == size
    assert store.find(cache_dir=tmp_path) is None
    assert names(tmp_path) == []


def test_holes_have_no_size(tmp_path: Path) -> None:
    with (tmp_path / "disk").open("wb") as stream:
        stream.write(b"x" * 8192)
        stream.truncate(1 << 30)
    assert 8192 <= store.size_of(tmp_path) < 1 << 20


# --- atomic builds

HOLDER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import store
with store.locked(Path(sys.argv[2])), store.building(Path(sys.argv[2])) as temp:
    (temp / "half").write_text("half a bundle")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_killed_build_leaves_no_half_bundle(tmp_path: Path) -> None:
    base = store.root(tmp_path)
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(COLLECTIONS), str(base)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.kill()
    child.wait()
    assert store.find(cache_dir=tmp_path) is None
    (leftover,) = store.leftovers(tmp_path)
    assert (leftover / "half").is_file()
    create(tmp_path)
    assert store.leftovers(tmp_path) == []


def test_two_builds_wait_for_each_other(tmp_path: Path) -> None:
    base = store.root(tmp_path)
    messages: list[str] = []
    acquired: list[float] = []

    def second() -> None:
        with store.locked(base, messages.append):
            acquired.append(time.monotonic())

    with store.locked(base):
        thread = threading.Thread(target=second)
        thread.start()
        deadline = time.monotonic() + 10
        while not messages and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not acquired
        released = time.monotonic()
    thread.join(10)
    assert acquired
    assert acquired[0] >= released
    assert messages == [f"waiting for process {os.getpid()}, which builds a bundle in {base}"]


def test_the_lock_of_a_killed_process_is_released(tmp_path: Path) -> None:
    base = store.root(tmp_path)
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(COLLECTIONS), str(base)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    child.stdout.readline()
    timer = threading.Timer(0.5, child.send_signal, [signal.SIGKILL])
    timer.start()
    before = time.monotonic()
    with store.locked(base):
        assert time.monotonic() - before > 0.3
    child.wait()


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    base = store.root(tmp_path)

    def build() -> None:
        with store.locked(base), store.building(base) as temp:
            (temp / "half").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        build()
    assert names(tmp_path) == []


def test_a_full_disk_is_reported(tmp_path: Path) -> None:
    base = store.root(tmp_path)

    def build() -> None:
        with store.locked(base), store.building(base):
            Path("/dev/full").write_text("x")

    with pytest.raises(DevenvError) as caught:
        build()
    assert (caught.value.reason.id, caught.value.exit_code) == ("bundle_disk_full", 12)
    assert names(tmp_path) == []


def test_an_unwritable_cache_is_reported(tmp_path: Path) -> None:
    (tmp_path / "bundle").write_text("a file where a folder should be")
    with pytest.raises(DevenvError) as caught, store.locked(store.root(tmp_path) / "x"):
        pass
    assert caught.value.reason.id == "bundle_unwritable"


# --- optional parts


def grown(cache: Path, *parts: str) -> Bundle:
    """Return the small bundle with a program and an image for each of ``parts``."""
    bundle, base = create(cache), store.root(cache)
    for part in parts:
        with store.locked(base), store.building(base) as temp:
            rows = []
            for path in (f"bin/{part}-tool", f"images/{part}.tar"):
                (temp / path).parent.mkdir(exist_ok=True)
                (temp / path).write_bytes(part.encode())
                rows.append(dataclasses.replace(manifest.describe(temp, path, "1", "a test"), part=part))
            image = Image(f"example.org/{part}:1", "sha256:" + "1" * 64, f"images/{part}.tar")
            added = dataclasses.replace(bundle.manifest, files=tuple(rows), images=(image,), packages={part: "1"})
            bundle = store.grow(bundle, temp, added)
    return bundle


def test_added_parts_do_not_change_the_base(tmp_path: Path) -> None:
    before = create(tmp_path)
    after = grown(tmp_path, "metrics", "storage")
    assert store.find(cache_dir=tmp_path) == after
    assert store.verify(after) == []
    assert (after.path, after.digest) == (before.path, before.digest)
    assert after.manifest.parts == {"crictl", "metrics", "storage"}
    assert after.lacks(["storage", "helm"]) == ["helm"]
    assert after.images() == before.images()
    assert after.images("metrics") == [after.path / "images/metrics.tar"]
    assert after.bin("storage-tool").read_text() == "storage"
    assert after.manifest.packages == {"curl": "7.88", "metrics": "1", "storage": "1"}
    assert names(tmp_path) == [after.name]


def test_a_kill_before_the_manifest_leaves_the_bundle_complete(tmp_path: Path) -> None:
    bundle = create(tmp_path)
    (bundle.path / "bin" / "metrics-tool").write_bytes(b"half")
    assert store.find(cache_dir=tmp_path) == bundle
    assert store.verify(grown(tmp_path, "metrics")) == []


def test_missing_parts_are_built_from_the_same_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requested: list[tuple[str, ...]] = []

    def build(*arguments: object) -> manifest.Content:
        requested.append(tuple(arguments[-1]))  # type: ignore[arg-type]
        folder = Path(str(arguments[1]))
        rows = []
        for part in requested[-1]:
            (folder / "bin").mkdir(exist_ok=True)
            (folder / "bin" / f"{part or 'base'}-tool").write_text(part)
            described = manifest.describe(folder, f"bin/{part or 'base'}-tool", "1", "a test")
            rows.append(dataclasses.replace(described, part=part))
        return manifest.Content(rows)

    monkeypatch.setattr(modules, "build", build)
    sources.ensure(source="modules", cache_dir=tmp_path, parts=["storage"])
    assert sources.ensure(cache_dir=tmp_path, parts=["storage"])[1] is False
    assert sources.ensure(cache_dir=tmp_path, parts=["helm", "storage"], check=True)[1] is True
    bundle, changed, _notes = sources.ensure(cache_dir=tmp_path, parts=["helm", "storage"])
    assert changed
    assert bundle
    assert bundle.manifest.parts == {"crictl", "helm", "storage"}
    assert requested == [("", "crictl", "storage"), ("helm",)]
    error = fail(tmp_path, source="cache", parts=["metrics"])
    assert (error.reason.id, "lacks metrics" in str(error)) == ("bundle_not_in_cache", True)
    assert fail(tmp_path, parts=["nosuch"]).reason.id == "bundle_part_unknown"


def test_a_bundle_of_an_earlier_version_gets_crictl_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = create(tmp_path)
    older = dataclasses.replace(made.manifest, files=tuple(file for file in made.manifest.files if not file.part))
    (made.path / "manifest.json").write_text(older.dump())
    before = store.Bundle(made.path, older)

    def build(*arguments: object) -> manifest.Content:
        assert arguments[-1] == ("crictl",)
        folder = Path(str(arguments[1]))
        (folder / "bin").mkdir()
        (folder / "bin" / "crictl").write_text("new")
        described = manifest.describe(folder, "bin/crictl", "1", "a test")
        return manifest.Content([dataclasses.replace(described, part="crictl")])

    monkeypatch.setattr(modules, "build", build)
    bundle, changed, _notes = sources.ensure(source=before.manifest.source, cache_dir=tmp_path)
    assert bundle
    assert (changed, bundle.path, bundle.digest) == (True, before.path, before.digest)
    assert bundle.bin("crictl").read_text() == "new"


@pytest.mark.parametrize("form", ["archive", "folder"])
def test_parts_of_an_archive_are_added_to_the_bundle(tmp_path: Path, form: str) -> None:
    source = grown(tmp_path / "a", "metrics")
    carried = archive.export(source, tmp_path / "b.tar") if form == "archive" else source.path
    here = grown(tmp_path / "cache", "storage")
    options = sources.Options(directory=carried)
    bundle, changed, _notes = sources.ensure(cache_dir=tmp_path / "cache", options=options, parts=["metrics"])
    assert changed
    assert bundle
    assert bundle.path == here.path
    assert bundle.manifest.parts == {"crictl", "metrics", "storage"}
    assert store.verify(bundle) == []
    error = fail(tmp_path / "empty", source="directory", options=options, parts=["helm"])
    assert "without helm" in str(error)


# --- export and import


def test_an_exported_bundle_can_be_imported(tmp_path: Path) -> None:
    bundle = create(tmp_path / "a")
    file = archive.export(bundle, tmp_path / "b.tar.gz")
    again = archive.export(bundle, tmp_path / "c.tar.gz")
    assert gzip.decompress(file.read_bytes()) == gzip.decompress(again.read_bytes())
    imported, changed = archive.import_archive(file, tmp_path / "cache")
    assert changed
    assert imported.manifest == bundle.manifest
    assert store.verify(imported) == []
    assert os.access(imported.bin("kubectl"), os.X_OK)
    assert store.find(cache_dir=tmp_path / "cache") == imported
    assert archive.import_archive(file, tmp_path / "cache") == (imported, False)
    assert archive.is_export_of(file, bundle)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["b.tar.gz", "c.tar.gz"]


def test_export_to_a_folder_generates_a_name(tmp_path: Path) -> None:
    bundle = create(tmp_path)
    file = archive.export(bundle, tmp_path)
    assert file.name == f"devenv-bundle-{bundle.name}-{bundle.manifest.arch}.tar.gz"


def test_export_refuses_a_bundle_that_changed(tmp_path: Path) -> None:
    bundle = create(tmp_path / "cache")
    bundle.bin("helm").write_bytes(b"HELM")
    with pytest.raises(DevenvError, match="bin/helm") as caught:
        archive.export(bundle, tmp_path / "out" / "x.tar")
    assert caught.value.reason.id == "bundle_wrong_digest"
    assert list((tmp_path / "out").iterdir()) == []


def test_export_refuses_unknown_suffixes(tmp_path: Path) -> None:
    with pytest.raises(DevenvError, match=r"x\.zip") as caught:
        archive.export(create(tmp_path), tmp_path / "x.zip")
    assert caught.value.exit_code == 2


def repacked(tmp_path: Path, change: str) -> Path:
    """Return an archive with one change."""
    source = archive.export(create(tmp_path / "origin"), tmp_path / "good.tar")
    target = tmp_path / "bad.tar"
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old:
            stream = old.extractfile(member)
            assert stream is not None
            data = stream.read()
            if member.name == "bin/helm" and change == "content":
                data = b"HELM"
            if member.name == "bin/helm" and change == "lacking":
                continue
            if member.name == "bin/helm" and change == "link":
                member.type, member.linkname, member.size = tarfile.SYMTYPE, "/etc/passwd", 0
                new.addfile(member)
                continue
            if member.name == "manifest.json" and change in ("outside", "other version", "other machine", "inputs"):
                text = data.decode()
                texts = {
                    "outside": text.replace('"bin/helm"', '"../../bin/helm"'),
                    "other version": text.replace('"1.36.3"', '"1.2.3"'),
                    "other machine": text.replace('"amd64"', '"sparc"').replace('"arm64"', '"sparc"'),
                    "inputs": text.replace(f'"{json.loads(text)["inputs"]}"', '"0123456789ab"'),
                }
                data = texts[change].encode()
            member.size = len(data)
            new.addfile(member, io.BytesIO(data))
        if change == "more":
            info = tarfile.TarInfo("../../escaped")
            info.size = 1
            new.addfile(info, io.BytesIO(b"x"))
    return target


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("content", "bundle_wrong_digest"),
        ("lacking", "bundle_archive_broken"),
        ("link", "bundle_archive_broken"),
        ("more", "bundle_archive_broken"),
        ("outside", "bundle_broken"),
        ("other version", "bundle_version_unknown"),
        ("other machine", "bundle_of_others"),
        ("inputs", "bundle_of_others"),
    ],
)
def test_changed_archives_are_refused(tmp_path: Path, change: str, reason: str) -> None:
    bad = repacked(tmp_path, change)
    with pytest.raises(DevenvError) as caught:
        archive.import_archive(bad, tmp_path / "cache")
    assert caught.value.reason.id == reason
    assert not store.root(tmp_path / "cache").exists() or names(tmp_path / "cache") == []
    assert not (tmp_path / "escaped").exists()


def test_an_unchanged_repacked_archive_is_imported(tmp_path: Path) -> None:
    assert archive.import_archive(repacked(tmp_path, "none"), tmp_path / "cache")[1]


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_a_truncated_archive_is_refused(tmp_path: Path, ending: str) -> None:
    # Random content does not shrink, so the archive ends inside a file.
    whole = archive.export(create(tmp_path / "a", bin_kubelet=os.urandom(400_000)), tmp_path / f"whole.{ending}")
    cut = tmp_path / f"cut.{ending}"
    cut.write_bytes(whole.read_bytes()[:200_000])
    with pytest.raises(DevenvError) as caught:
        archive.import_archive(cut, tmp_path / "cache")
    assert caught.value.reason.id == "bundle_archive_broken"
    assert not store.root(tmp_path / "cache").exists() or names(tmp_path / "cache") == []


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_other_files_than_archives_are_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "x.tar.gz"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DevenvError) as caught:
        archive.import_archive(file, tmp_path / "cache")
    assert caught.value.reason.id == "bundle_archive_broken"


# --- sources


def test_ensure_returns_the_cached_bundle(tmp_path: Path) -> None:
    bundle = create(tmp_path)
    assert sources.ensure(cache_dir=tmp_path) == (bundle, False, [f"cache: {bundle.path}"])
    assert sources.ensure(cache_dir=tmp_path, source="cache")[0] == bundle
    assert sources.ensure(cache_dir=tmp_path, source="modules")[0] == bundle
    assert sources.in_cache(cache_dir=tmp_path) == bundle


def test_a_named_source_ignores_bundles_of_other_sources(tmp_path: Path) -> None:
    built = create(tmp_path, "modules")
    places = dict.fromkeys(downloads.official(), "http://127.0.0.1:9")
    assert sources.ensure(cache_dir=tmp_path, source="release", check=True)[:2] == (None, True)
    assert sources.ensure(cache_dir=tmp_path, options=sources.Options(places=places))[0] == built
    other = create(tmp_path, "release")
    assert sources.ensure(cache_dir=tmp_path, source="release")[:2] == (other, False)
    assert sources.ensure(cache_dir=tmp_path, source="modules")[:2] == (built, False)


@pytest.mark.parametrize("newer", ["release", "modules"])
def test_find_prefers_the_newest(tmp_path: Path, newer: str) -> None:
    for source in ("modules", "release"):
        file = create(tmp_path, source).path / "manifest.json"
        if source == newer:
            file.write_text(file.read_text().replace("2026-01-01T", "2026-02-01T"))
    bundle = store.find(cache_dir=tmp_path)
    assert bundle
    assert bundle.manifest.source == newer


def test_check_builds_nothing(tmp_path: Path) -> None:
    bundle, changed, _ = sources.ensure(cache_dir=tmp_path, check=True)
    assert (bundle, changed) == (None, True)
    assert list(tmp_path.iterdir()) == []


def test_cache_lists_its_other_bundles(tmp_path: Path) -> None:
    bundle = create(tmp_path)
    old = bundle.path.with_name("1.36.3-000000000000")
    bundle.path.rename(old)
    data = json.loads((old / "manifest.json").read_text())
    (old / "manifest.json").write_text(json.dumps({**data, "inputs": "000000000000"}))
    error = fail(tmp_path, source="cache")
    assert error.reason.id == "bundle_not_in_cache"
    assert "it has 1.36.3-000000000000" in str(error)


def test_release_requires_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = versions.__name__.rpartition(".")[0]
    affected = [f"{package}.{part}" for part in ("release", "registry", "download")]
    for name in affected:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "requests", None)
    error = fail(tmp_path, source="release")
    # Other tests must not get the modules that were imported without the library.
    for name in affected:
        sys.modules.pop(name, None)
    assert (error.reason.id, error.exit_code) == ("bundle_library_missing", 12)
    assert "requests" in str(error)


def test_an_unknown_source_is_refused(tmp_path: Path) -> None:
    assert fail(tmp_path, source="cloud").reason.id == "bundle_source_unknown"


@pytest.mark.parametrize("kind", ["archive", "folder of archives", "bundle", "folder of bundles"])
def test_a_directory_source_imports_archives_and_bundles(tmp_path: Path, kind: str) -> None:
    original = create(tmp_path / "a")
    file = archive.export(original, tmp_path / "mirror" / "x.tar")
    (tmp_path / "mirror" / "README").write_text("not a bundle")
    place = {
        "archive": file,
        "folder of archives": file.parent,
        "bundle": original.path,
        "folder of bundles": original.path.parent,
    }[kind]
    options = sources.Options(directory=place)
    bundle, changed, notes = sources.ensure(options=options, cache_dir=tmp_path / "cache")
    assert bundle
    assert (changed, bundle.manifest) == (True, original.manifest)
    assert store.verify(bundle) == []
    assert notes[0].startswith("cache: no bundle of 1.36.3")
    assert notes[1] == f"directory: {bundle.path}"
    assert sources.ensure(options=options, cache_dir=tmp_path / "cache", source="directory")[1] is False


def test_a_directory_without_a_bundle_is_refused(tmp_path: Path) -> None:
    for place in (None, tmp_path / "absent", tmp_path):
        error = fail(tmp_path / "cache", source="directory", options=sources.Options(directory=place))
        assert error.reason.id == "bundle_not_in_directory"


def test_directory_with_a_damaged_bundle(tmp_path: Path) -> None:
    original = create(tmp_path / "a")
    original.bin("helm").write_bytes(b"HELM")
    error = fail(tmp_path / "cache", source="auto", options=sources.Options(directory=original.path))
    assert error.reason.id == "bundle_wrong_digest", "auto must not continue with the next source after a wrong digest"
    assert names(tmp_path / "cache") == []


def test_auto_reports_the_error_of_every_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> None:
        raise DevenvError("bundle_unreachable", "no network")

    monkeypatch.setattr(modules, "build", refuse)
    places = dict.fromkeys(downloads.official(), "http://127.0.0.1:9")
    error = fail(tmp_path, options=sources.Options(places=places))
    assert error.reason.id == "bundle_no_source"
    for part in ("cache: no bundle", "directory: no directory", "release: http://127.0.0.1:9", "modules: no network"):
        assert part in str(error)
    assert names(tmp_path) == []
