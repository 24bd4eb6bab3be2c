"""Go toolchains and builds, programs from Debian packages, recipes of images."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import (
    debian,
    golang,
    images,
    manifest,
    modules,
    programs,
    store,
    versions,
)
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.core.program import ProgramFailed


def script(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return file


def create_go(folder: Path, text: str, version: str = "go1.26.0") -> Path:
    """Create a `go` that prints its version and otherwise runs ``text``."""
    return script(folder / "go", f'if [ "$1" = env ]; then echo "{version}"; exit 0; fi\n{text}')


# --- toolchains


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("go1.26.6", (1, 26, 6)), ("1.26", (1, 26)), ("go1.27rc1", (1, 27)), ("devel +abc", (0,)), ("", (0,))],
)
def test_versions_compare_as_numbers(text: str, numbers: tuple[int, ...]) -> None:
    assert golang.number(text) == numbers


def test_go_on_path_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = create_go(tmp_path / "bin", "exit 1", "go1.26.0")
    monkeypatch.setenv("PATH", f"{go.parent}:/usr/bin:/bin")
    assert golang.toolchain("1.26.0", "9.9.9", tmp_path, print) == golang.Toolchain(go, "1.26.0")


@pytest.mark.parametrize("version", ["go1.25.9", "", None])
def test_a_cached_toolchain_replaces_an_unusable_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str | None
) -> None:
    if version is not None:
        create_go(tmp_path / "bin", "exit 1", version)
    cached = create_go(tmp_path / "go" / "1.26.6" / "go" / "bin", "exit 1", "go1.26.6")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert golang.toolchain("1.26.0", "1.26.6", tmp_path, print) == golang.Toolchain(cached, "1.26.6")


def test_environment_keeps_the_users_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOFLAGS", "-p=1")
    monkeypatch.setenv("GOPROXY", "https://mirror.example")
    monkeypatch.setenv("GOBIN", "/somewhere/else")
    monkeypatch.setenv("GOOS", "plan9")
    monkeypatch.setenv("CGO_ENABLED", "1")
    env = golang.environment(golang.Toolchain(Path("/opt/go/bin/go"), "1.26.0"), tmp_path)
    assert (env["GOFLAGS"], env["GOPROXY"]) == ("-p=1", "https://mirror.example")
    assert (env["GOBIN"], env["CGO_ENABLED"], env["GOTOOLCHAIN"]) == (str(tmp_path), "0", "local")
    assert env["GOOS"] == ""
    assert env["PATH"].startswith("/opt/go/bin:")


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("open /x: no space left on device", "bundle_disk_full"),
        ("verifying k8s.io/api@v1: checksum mismatch", "bundle_wrong_digest"),
        ("Get https://x: dial tcp: lookup x: no such host", "bundle_unreachable"),
        ("dial tcp 127.0.0.1:1: connect: connection refused", "bundle_unreachable"),
        ("dial udp 10.0.0.1:53: connect: network is unreachable", "bundle_unreachable"),
        ("reading https://x/y.zip: 404 Not Found", "bundle_not_found"),
        ("undefined: foo", "bundle_build"),
    ],
)
def test_the_output_of_go_determines_the_reason(tmp_path: Path, output: str, reason: str) -> None:
    go = create_go(tmp_path / "bin", f"echo 'go: downloading x v1' >&2; echo '{output}' >&2; exit 1")
    with pytest.raises(DevenvError, match="coredns: go install") as caught:
        golang.install(golang.Toolchain(go, "1.26.0"), ["x@v1"], tmp_path / "bin", label="coredns", progress=print)
    assert (caught.value.reason.id, caught.value.exit_code) == (reason, 12)
    assert output in str(caught.value)


def test_go_gets_its_flags_and_an_empty_folder(tmp_path: Path) -> None:
    go = create_go(tmp_path / "bin", f'echo "$@" > {tmp_path}/args; (pwd; ls -A | wc -l) > {tmp_path}/pwd')
    golang.install(
        golang.Toolchain(go, "1.26.0"), ["a@v1", "b@v1"], tmp_path / "out", label="x", progress=print, ldflags="-X a=b"
    )
    flags = "-trimpath -gcflags=all=-dwarf=false -ldflags -s -w -X a=b"
    assert (tmp_path / "args").read_text() == f"install -v {flags} a@v1 b@v1\n"
    where, files = (tmp_path / "pwd").read_text().split()
    assert files == "0", "a go.mod in the caller's folder must not apply"
    assert not Path(where).exists()


def test_progress_counts_modules_and_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golang, "_REPORT_EVERY", 0)
    messages: list[str] = []
    go = create_go(tmp_path / "bin", "echo 'go: downloading x v1'; echo a/b; echo a/c; echo '# a note'")
    golang.install(golang.Toolchain(go, "1.26.0"), ["x@v1"], tmp_path / "out", label="x", progress=messages.append)
    assert messages[0] == "x: building"
    assert messages[-1] == "x: 0 s, 1 modules fetched, 2 packages compiled"


def builder(folder: Path, module: Path, cache: Path, chain: golang.Toolchain) -> modules.Builder:
    folder.mkdir(exist_ok=True)
    return modules.Builder(folder, module, cache, "amd64", lambda: chain, print)


def test_a_missing_result_of_go_is_reported(tmp_path: Path) -> None:
    chain = golang.Toolchain(create_go(tmp_path / "go", "exit 0"), "1.26.0")
    group = modules.Group("x", {"x": "example.org/x"}, {"x": "1"})
    with pytest.raises(DevenvError, match="built no x"):
        builder(tmp_path / "build", tmp_path, tmp_path, chain).install(chain, group, threading.Event())


def test_programs_get_their_own_names(tmp_path: Path) -> None:
    """Go names a program after its package, without a last part that is a major version."""
    go = create_go(tmp_path / "go", 'for name in server etcdctl etcdutl; do echo x > "$GOBIN/$name"; done')
    group = next(group for group in modules.groups(versions.resolve()) if "etcd" in group.programs)
    small = modules.Group(
        "x", {name: package for name, package in group.programs.items() if "etcd" in name}, group.version, local=True
    )
    chain = golang.Toolchain(go, "1.26.0")
    build = builder(tmp_path / "build", versions.MODULES / "kubernetes", tmp_path, chain)
    rows = build.install(chain, small, threading.Event())
    built = ["etcd", "etcdctl", "etcdutl"]
    assert sorted(path.name for path in (tmp_path / "build" / "bin").iterdir()) == built
    assert {row.path: row.version for row in rows} == {f"bin/{name}": "3.6.8" for name in built}
    assert sorted(path.name for path in (tmp_path / "build").iterdir()) == ["bin"]


GO = """for package; do :; done
echo "$package" >> "$LOG"
name=${package%@*}; name=${name##*/}
echo "$package" > "$GOBIN/$name" """
TOOL = modules.Group("tool", {"tool": "example.org/tool"}, {"tool": "1.0"})


def bundle_with(cache: Path, group: modules.Group, build: str) -> list[manifest.File]:
    """Publish a new bundle with ``group`` in the cache."""
    chain = golang.Toolchain(cache / "bin" / "go", "1.26.0")
    base = store.root(cache)
    with store.locked(base), store.building(base) as temp:
        rows = builder(temp, temp, cache, chain).provide([group])
        fields = {"kubernetes": "1.0.0", "arch": "amd64", "source": "modules", "created": build}
        inputs = build.rjust(12, "0")
        store.publish(temp, base, manifest.Manifest(**fields, inputs=inputs, files=tuple(rows), images=()))
    return rows


def test_programs_of_other_bundles_are_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_go(tmp_path / "bin", GO)
    log = tmp_path / "log"
    monkeypatch.setenv("LOG", str(log))
    first = bundle_with(tmp_path, TOOL, "1")
    second = bundle_with(tmp_path, TOOL, "2")
    assert log.read_text().split() == ["example.org/tool@v1.0"]
    assert first == second
    assert first[0].inputs
    original, link = (store.root(tmp_path) / f"1.0.0-{build:0>12}/bin/tool" for build in "12")
    assert link.samefile(original)

    bundle_with(tmp_path, dataclasses.replace(TOOL, version={"tool": "1.1"}), "3")
    bundle_with(tmp_path, dataclasses.replace(TOOL, ldflags="-X a=b"), "4")
    assert len(log.read_text().split()) == 3, "another version or other flags must be built"


def test_two_groups_are_built_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waits until the other has started."""
    meet = 'touch "$LOG.$name"; until [ -e "$LOG.one" ] && [ -e "$LOG.two" ]; do sleep 0.02; done'
    chain = golang.Toolchain(create_go(tmp_path / "bin", f"{GO}\n{meet}"), "1.26.0")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    pair = [modules.Group(name, {name: f"example.org/{name}"}, {name: "1"}, part=name[:1]) for name in ("one", "two")]
    rows = builder(tmp_path / "build", tmp_path, tmp_path, chain).provide(pair)
    assert [(row.path, row.part) for row in rows] == [("bin/one", "o"), ("bin/two", "t")]


def test_a_failed_build_stops_the_parallel_one(tmp_path: Path) -> None:
    chain = golang.Toolchain(create_go(tmp_path / "bin", 'case "$*" in *bad*) exit 3;; esac; exec sleep 60'), "1.26.0")
    pair = [modules.Group(name, {name: f"example.org/{name}"}, {name: "1"}) for name in ("long", "bad", "never")]
    start = time.monotonic()
    with pytest.raises(DevenvError, match="bad: go install ended with code 3"):
        builder(tmp_path / "build", tmp_path, tmp_path, chain).provide(pair)
    assert time.monotonic() - start < 30


def test_a_modified_program_is_not_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_go(tmp_path / "bin", GO)
    log = tmp_path / "log"
    monkeypatch.setenv("LOG", str(log))
    bundle_with(tmp_path, TOOL, "1")
    file = store.root(tmp_path) / "1.0.0-000000000001/bin/tool"
    file.write_bytes(file.read_bytes().upper())
    bundle_with(tmp_path, TOOL, "2")
    assert len(log.read_text().split()) == 2


def test_inputs_of_local_programs_include_their_module(tmp_path: Path) -> None:
    group = dataclasses.replace(TOOL, local=True)
    for name in ("go.mod", "go.sum"):
        (tmp_path / name).write_text(name)
    first = modules.inputs(group, tmp_path, "amd64")
    assert first != modules.inputs(group, tmp_path, "arm64")
    (tmp_path / "go.sum").write_text("another")
    assert first != modules.inputs(group, tmp_path, "amd64")


# --- long programs


def test_stream_returns_lines_of_both_streams(tmp_path: Path) -> None:
    lines: list[str] = []
    assert programs.stream(["sh", "-c", "echo a; echo b >&2"], on_line=lines.append) == ["a", "b"]
    assert lines == ["a", "b"]
    with pytest.raises(ProgramFailed, match="last words") as caught:
        programs.stream(["sh", "-c", "echo last words; exit 3"])
    assert caught.value.code == 3


def test_stream_stops_a_program_after_its_timeout() -> None:
    waited: list[int] = []
    with pytest.raises(ProgramFailed) as caught:
        programs.stream(["sleep", "60"], on_wait=lambda: waited.append(1), timeout=1.5)
    assert caught.value.code is None
    assert waited


CALLER = """
import sys
sys.path.insert(0, sys.argv[1])
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import programs
programs.stream(["sh", "-c", "echo $$; exec sleep 60"], on_line=lambda line: print(line, flush=True))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_program_ends_with_its_caller(number: signal.Signals) -> None:
    collections = Path(__file__).resolve().parents[2] / "collections"
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER, str(collections)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert caller.stdout is not None
    program = Path("/proc") / caller.stdout.readline().strip()
    assert (program / "comm").read_text() in ("sh\n", "sleep\n")
    caller.send_signal(number)
    caller.wait(30)
    deadline = time.monotonic() + 10
    while _alive(program):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _alive(process: Path) -> bool:
    try:
        return "State:\tZ" not in (process / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_missing_program_is_reported() -> None:
    with pytest.raises(FileNotFoundError):
        programs.stream(["no-such-program"])


# --- Debian


def test_versions_are_read_from_names_of_archives() -> None:
    names = ["busybox-static_1%3a1.35.0-4+b1_amd64.deb", "netbase_6.4_all.deb", "partial", "lock"]
    assert debian.versions(names) == {"busybox-static": "1:1.35.0-4+b1", "netbase": "6.4"}


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("E: Failed to fetch http://x  Could not resolve 'x'", "bundle_unreachable"),
        ("tar: write error: No space left on device", "bundle_disk_full"),
        ("E: something else", "bundle_debian"),
    ],
)
def test_the_output_of_mmdebstrap_determines_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, reason: str
) -> None:
    script(tmp_path / "bin" / "mmdebstrap", f'echo "{output}" >&2; exit 1')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    with pytest.raises(DevenvError) as caught:
        debian.unpack("bookworm", tmp_path, print)
    assert caught.value.reason.id == reason


def test_mmdebstrap_is_required(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DevenvError) as caught:
        debian.unpack("bookworm", tmp_path, print)
    assert caught.value.reason.id == "bundle_program_missing"


def root_of(tmp_path: Path, *names: str) -> debian.Root:
    """Create a root with this machine's loader and libraries, enough for some of its programs."""
    root = tmp_path / "root"
    for name in names:
        target = root / "usr/bin" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(shutil.which(name) or name, target)
    triplet = next(Path("/usr/lib").glob("*-linux-gnu"))
    (root / "lib" / triplet.name).mkdir(parents=True)
    for pattern in (
        "ld-linux-*.so.*",
        "libc.so.6",
        "libselinux.so.1",
        "libpcre2-8.so.0",
        "libacl.so.1",
        "libattr.so.1",
    ):
        for file in triplet.glob(pattern):
            shutil.copy(file, root / "lib" / triplet.name / file.name)
    loader = next((root / "lib" / triplet.name).glob("ld-linux-*"))
    (root / "lib64").mkdir()
    (root / "lib64" / loader.name).symlink_to(f"/lib/{triplet.name}/{loader.name}")
    return debian.Root(root, {})


def test_a_program_comes_with_its_libraries(tmp_path: Path) -> None:
    root = root_of(tmp_path, "ls")
    entries = {entry.path: entry for entry in debian.files(root, ["usr/bin/ls"])}
    kinds = {path.rpartition("/")[2].split(".so")[0] for path in entries}
    assert {"ls", "libc", "libselinux", "libpcre2-8"} <= kinds
    assert any(path.startswith("lib64/ld-linux") for path in entries), "the program's interpreter has this path"
    for entry in entries.values():
        assert entry.source
        assert entry.source.is_relative_to(root.path)
        assert not entry.source.is_symlink()


def test_a_missing_library_is_reported(tmp_path: Path) -> None:
    root = root_of(tmp_path, "ls")
    for file in root.path.glob("lib/*/libselinux*"):
        file.unlink()
    with pytest.raises(DevenvError, match="libselinux") as caught:
        debian.files(root, ["usr/bin/ls"])
    assert caught.value.reason.id == "bundle_debian"


def test_other_files_have_no_libraries(tmp_path: Path) -> None:
    root = debian.Root(tmp_path, {})
    for name, content in (("text", b"text"), ("short", b"\x7fELF"), ("empty", b"")):
        (tmp_path / name).write_bytes(content)
        assert debian.libraries(root, name) == []


def test_links_are_followed_inside_the_root_only(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "passwd").write_text("in the root")
    (root / "link").symlink_to("/etc/passwd")
    assert debian._real(root, "link").read_text() == "in the root"
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    with pytest.raises(DevenvError, match="loop"):
        debian._real(root, "a")


def test_certificates_become_one_file(tmp_path: Path) -> None:
    folder = tmp_path / "usr/share/ca-certificates/mozilla"
    folder.mkdir(parents=True)
    (folder / "b.crt").write_bytes(b"B")
    (folder / "a.crt").write_bytes(b"A\n")
    assert debian.certificates(debian.Root(tmp_path, {})) == b"A\nB\n"


# --- recipes


def test_programs_of_images_have_the_official_paths() -> None:
    assert images.programs_in("coredns") == {"coredns": "coredns"}
    assert images.programs_in("etcd")["etcdctl"] == "usr/local/bin/etcdctl"
    assert {short for short in versions.resolve().images if not images.programs_in(short)} == {"pause", "probe"}


def test_kubeadm_lists_the_required_images(tmp_path: Path) -> None:
    with pytest.raises(DevenvError) as caught:
        images.required_by(script(tmp_path / "kubeadm", "exit 1"), "1.36.3")
    assert caught.value.reason.id == "bundle_build"
    ok = script(tmp_path / "kubeadm", 'echo "$@" > ' + str(tmp_path / "args") + "; echo a:1; echo b:2")
    assert images.required_by(ok, "1.36.3") == ["a:1", "b:2"]
    assert (tmp_path / "args").read_text() == "config images list --kubernetes-version v1.36.3\n"
