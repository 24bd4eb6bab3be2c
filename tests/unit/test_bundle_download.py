"""Downloads and registry images from a web server on loopback that fails on request."""

from __future__ import annotations

import hashlib
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import requests
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import (
    download,
    downloads,
    images,
    modules,
    oci,
    release,
)
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.download import Fetcher
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.registry import Registry
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.versions import BASE, resolve
from ansible_collections.devenv.lab.plugins.plugin_utils.core import data, paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from doubles.mirror import Mirror, serving

DATA = bytes(range(256)) * 2000
DIGEST = hashlib.sha256(DATA).hexdigest()
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    root = tmp_path / "mirror"
    root.mkdir()
    (root / "file").write_bytes(DATA)
    with serving(root) as mirror:
        yield mirror


@pytest.fixture
def messages() -> list[str]:
    return []


@pytest.fixture
def fetcher(tmp_path: Path, messages: list[str]) -> Fetcher:
    return Fetcher(tmp_path / "keep", messages.append, attempts=3, timeout=(2, 5), pause=lambda _seconds: None)


def get(fetcher: Fetcher, mirror: Mirror, path: str = "/file", digest: str = DIGEST) -> Path:
    return fetcher.file(mirror.url + path, digest, label="the file")


def reason(caught: pytest.ExceptionInfo[DevenvError]) -> str:
    return caught.value.reason.id


# --- files


def test_a_file_is_fetched_once(fetcher: Fetcher, mirror: Mirror) -> None:
    assert get(fetcher, mirror).read_bytes() == DATA
    assert get(fetcher, mirror).read_bytes() == DATA
    assert mirror.ranges_of("/file") == [""]


def test_cut_connections_are_resumed(fetcher: Fetcher, mirror: Mirror, messages: list[str]) -> None:
    chunk = download._CHUNK
    # More cuts than attempts: each transferred something, so none of them is the last attempt.
    mirror.cuts["/file"] = [chunk, 2 * chunk + 7, chunk, chunk]
    assert get(fetcher, mirror).read_bytes() == DATA
    assert mirror.ranges_of("/file") == ["", *(f"bytes={chunk * at}-" for at in (1, 3, 4, 5))]
    assert len([text for text in messages if "interrupted" in text]) == 4


def test_a_later_run_resumes(tmp_path: Path, mirror: Mirror) -> None:
    mirror.cuts["/file"] = [4 * download._CHUNK, 0, 0, 0]
    first = Fetcher(tmp_path / "keep", attempts=2, pause=lambda _seconds: None)
    with pytest.raises(DevenvError) as caught:
        get(first, mirror)
    assert reason(caught) == "bundle_download"
    mirror.cuts.clear()
    assert get(Fetcher(tmp_path / "keep"), mirror).read_bytes() == DATA
    assert mirror.ranges_of("/file")[-1] == f"bytes={4 * download._CHUNK}-"


def test_a_server_without_ranges_starts_again(fetcher: Fetcher, mirror: Mirror) -> None:
    mirror.ranges = False
    mirror.cuts["/file"] = [100_000]
    assert get(fetcher, mirror).read_bytes() == DATA


def test_a_part_of_another_file_is_discarded(fetcher: Fetcher, mirror: Mirror) -> None:
    fetcher.keep.mkdir()
    (fetcher.keep / f"{DIGEST}.part").write_bytes(b"of another file")
    assert get(fetcher, mirror).read_bytes() == DATA
    assert mirror.ranges_of("/file") == ["bytes=15-", ""]


def test_a_complete_part_is_used(fetcher: Fetcher, mirror: Mirror) -> None:
    fetcher.keep.mkdir()
    (fetcher.keep / f"{DIGEST}.part").write_bytes(DATA)
    assert get(fetcher, mirror).read_bytes() == DATA
    assert mirror.ranges_of("/file") == [f"bytes={len(DATA)}-"]


def test_a_wrong_digest_is_refused(fetcher: Fetcher, mirror: Mirror) -> None:
    with pytest.raises(DevenvError, match=DIGEST) as caught:
        get(fetcher, mirror, digest="0" * 64)
    assert (reason(caught), caught.value.exit_code) == ("bundle_wrong_digest", 12)
    assert list(fetcher.keep.iterdir()) == [], "the next run must not resume a wrong file"


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_missing_files_are_not_requested_again(fetcher: Fetcher, mirror: Mirror, status: int) -> None:
    mirror.answers["/file"] = [(status, {})]
    with pytest.raises(DevenvError, match=f"{status}") as caught:
        get(fetcher, mirror)
    assert reason(caught) == "bundle_not_found"
    assert len(mirror.requests) == 1


def test_requests_to_a_busy_server_are_repeated(fetcher: Fetcher, mirror: Mirror) -> None:
    mirror.answers["/file"] = [(503, {}), (429, {})]
    assert get(fetcher, mirror).read_bytes() == DATA
    mirror.answers["/small"] = [(502, {})]
    (mirror.root / "small").write_text("text")
    assert fetcher.text(f"{mirror.url}/small") == "text"


def test_a_server_that_stays_busy_is_given_up(fetcher: Fetcher, mirror: Mirror) -> None:
    mirror.answers["/file"] = [(503, {})] * 9
    with pytest.raises(DevenvError) as caught:
        get(fetcher, mirror)
    assert (reason(caught), len(mirror.requests)) == ("bundle_download", 3)
    with pytest.raises(DevenvError, match="503") as caught:
        fetcher.text(f"{mirror.url}/file")
    assert (reason(caught), len(mirror.requests)) == ("bundle_download", 6)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_refused_connection_is_reported(fetcher: Fetcher) -> None:
    url = f"http://127.0.0.1:{closed_port()}/file"
    for call in (lambda: fetcher.text(url), lambda: fetcher.file(url, DIGEST, label="x")):
        with pytest.raises(DevenvError, match="Connection refused") as caught:
            call()
        assert reason(caught) == "bundle_unreachable"


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "no-url", "http://"])
def test_invalid_urls_are_refused(fetcher: Fetcher, url: str) -> None:
    with pytest.raises(DevenvError) as caught:
        fetcher.text(url)
    assert (reason(caught), caught.value.exit_code) == ("bundle_url", 2)
    with pytest.raises(DevenvError) as caught:
        Registry(url, fetcher)
    assert reason(caught) == "bundle_url"


def test_redirects_are_followed_but_never_out_of_https(mirror: Mirror, fetcher: Fetcher) -> None:
    mirror.answers["/moved"] = [(302, {"Location": "/file"})]
    assert get(fetcher, mirror, "/moved").read_bytes() == DATA
    answer = requests.Response()
    answer.status_code, answer.url = 302, "https://mirror.example/file"
    answer.headers["Location"] = "http://mirror.example/file"
    with pytest.raises(requests.exceptions.InvalidSchema, match="not encrypted"):
        download.require_encryption(answer)
    assert download.require_encryption in fetcher.session.hooks["response"]
    answer.headers["Location"] = "//other.example/file"
    download.require_encryption(answer)


def test_proxies_are_honoured(mirror: Mirror, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", mirror.url)
    with pytest.raises(DevenvError) as caught:
        fetcher.text("http://mirror.example/absent")
    assert reason(caught) == "bundle_not_found"
    assert mirror.requests == [("http://mirror.example/absent", "")], "the request must reach the proxy"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert get(fetcher, mirror).read_bytes() == DATA


# --- checksum files


@pytest.mark.parametrize(
    "text",
    [
        "a" * 64,
        "A" * 64 + "\n",
        "a" * 64 + "  kubeadm\n",
        "a" * 64 + " *kubeadm\n",
        "b" * 64 + "  other\n" + "a" * 64 + "  kubeadm\n",
    ],
)
def test_a_checksum_is_read(text: str) -> None:
    assert download.checksum(text, "kubeadm", "x") == "a" * 64


@pytest.mark.parametrize("text", ["", "<html>", "b" * 64 + "  other\n", "a" * 63, "a" * 128])
def test_other_texts_than_checksums_are_refused(text: str) -> None:
    with pytest.raises(DevenvError) as caught:
        download.checksum(text, "kubeadm", "x")
    assert reason(caught) == "bundle_not_found"


# --- registry


def put_image(root: Path, repository: str, tag: str, *, arch: str = "amd64", index: bool = True) -> str:
    """Lay an image out as a registry serves it; return the digest of its manifest."""
    base = root / "v2" / repository

    def put(kind: str, content: bytes, name: str = "") -> dict[str, object]:
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        for file in {digest, name or digest}:
            (base / kind).mkdir(parents=True, exist_ok=True)
            (base / kind / file).write_bytes(content)
        return {"digest": digest, "size": len(content)}

    manifest = {
        "schemaVersion": 2,
        "mediaType": oci.MANIFEST,
        "config": {"mediaType": oci.CONFIG, **put("blobs", b"{}")},
        "layers": [{"mediaType": oci.LAYER, **put("blobs", f"layer of {repository} {arch}".encode())}],
    }
    row = put("manifests", json.dumps(manifest).encode(), "" if index else tag)
    if index:
        rows = [
            {
                "mediaType": oci.MANIFEST,
                "digest": "sha256:" + "1" * 64,
                "platform": {"os": "linux", "architecture": "ppc"},
            },
            {"mediaType": oci.MANIFEST, **row, "platform": {"os": "linux", "architecture": arch}},
        ]
        put("manifests", json.dumps({"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": rows}).encode(), tag)
    return str(row["digest"])


def fetch_image(fetcher: Fetcher, base: str, name: str, target: Path) -> str:
    registry = Registry(base, fetcher)
    return registry.fetch(registry.resolve(name, "amd64"), target)


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("prefix", ["", "/mirrors/k8s"])
def test_an_image_is_fetched(tmp_path: Path, mirror: Mirror, fetcher: Fetcher, index: bool, prefix: str) -> None:
    digest = put_image(mirror.root, f"{prefix}/coredns/coredns".strip("/"), "v1", index=index)
    target = tmp_path / "image.tar"
    name = "registry.k8s.io/coredns/coredns:v1"
    assert fetch_image(fetcher, mirror.url + prefix, name, target) == digest
    (image,) = oci.read(target)
    assert (image.name, image.digest) == (name, digest)


def test_an_image_is_fetched_with_a_token(tmp_path: Path, mirror: Mirror, fetcher: Fetcher) -> None:
    put_image(mirror.root, "etcd", "v1")
    challenge = f'Bearer realm="{mirror.url}/token",service="here",scope="repository:etcd:pull"'
    mirror.answers["/v2/etcd/manifests/v1"] = [(401, {"WWW-Authenticate": challenge})]
    (mirror.root / "token").write_text('{"token": "opensesame"}')
    fetch_image(fetcher, mirror.url, "registry.k8s.io/etcd:v1", tmp_path / "x.tar")
    assert mirror.tokens["/v2/etcd/manifests/v1"] == ["", "Bearer opensesame"]
    blobs = {token for path, tokens in mirror.tokens.items() if "/blobs/" in path for token in tokens}
    assert blobs == {"Bearer opensesame"}
    assert mirror.tokens["/token"] == [""]


def test_a_token_is_not_requested_without_encryption(fetcher: Fetcher) -> None:
    registry = Registry("https://127.0.0.1:9", fetcher)
    assert registry._token('Bearer realm="http://127.0.0.1:9/token"', f"{registry.api}/etcd/manifests/v1") == ""


@pytest.mark.parametrize("damage", ["no tag", "no platform", "no blob", "no manifest", "page", "md5"])
def test_an_incomplete_image_is_missing(tmp_path: Path, mirror: Mirror, fetcher: Fetcher, damage: str) -> None:
    digest = put_image(mirror.root, "etcd", "v1")
    base = mirror.root / "v2" / "etcd"
    if damage == "no tag":
        (base / "manifests" / "v1").unlink()
    elif damage == "no platform":
        put_image(mirror.root, "etcd", "v1", arch="riscv64")
    elif damage == "no manifest":
        (base / "manifests" / digest).unlink()
    elif damage == "page":
        (base / "manifests" / "v1").write_text("<html>log in first</html>")
    elif damage == "md5":
        (base / "manifests" / "v1").write_text(json.dumps({"config": {"digest": "md5:1", "size": 1}, "layers": []}))
    else:
        for blob in (base / "blobs").iterdir():
            blob.unlink()
    with pytest.raises(DevenvError, match=r"registry\.k8s\.io/etcd:v1") as caught:
        fetch_image(fetcher, mirror.url, "registry.k8s.io/etcd:v1", tmp_path / "x.tar")
    assert (reason(caught), caught.value.exit_code) == ("bundle_image_missing", 12)
    assert not (tmp_path / "x.tar").exists()


def test_every_missing_image_is_named(mirror: Mirror, fetcher: Fetcher) -> None:
    put_image(mirror.root, "etcd", "v1")
    registries = {"registry.k8s.io": Registry(mirror.url, fetcher)}
    names = [f"registry.k8s.io/{part}" for part in ("pause:v1", "etcd:v1", "coredns/coredns:v1")]
    with pytest.raises(DevenvError, match=r"pause:v1.*coredns:v1") as caught:
        release._resolve(names, registries, "amd64")
    assert reason(caught) == "bundle_image_missing"
    assert "etcd" not in str(caught.value)
    assert [image.name for _registry, image in release._resolve(names[1:2], registries, "amd64")] == names[1:2]


def test_the_host_in_an_image_name_selects_the_registry(mirror: Mirror, fetcher: Fetcher) -> None:
    put_image(mirror.root, "etcd", "v1")
    put_image(mirror.root, "mirrors/rancher/thing", "v2")
    registries = release._registries({"registry": mirror.url, "docker": f"{mirror.url}/mirrors"}, fetcher)
    resolved = release._resolve(["registry.k8s.io/etcd:v1", "docker.io/rancher/thing:v2"], registries, "amd64")
    assert [registry.base for registry, _image in resolved] == [mirror.url, f"{mirror.url}/mirrors"]


@pytest.mark.parametrize("part", ["manifests", "blobs"])
def test_an_image_with_a_wrong_digest_is_refused(tmp_path: Path, mirror: Mirror, fetcher: Fetcher, part: str) -> None:
    put_image(mirror.root, "etcd", "v1")
    for file in (mirror.root / "v2" / "etcd" / part).glob("sha256:*"):
        file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(DevenvError) as caught:
        fetch_image(fetcher, mirror.url, "registry.k8s.io/etcd:v1", tmp_path / "x.tar")
    assert reason(caught) == "bundle_wrong_digest"


def test_the_digest_in_the_header_is_compared(tmp_path: Path, mirror: Mirror, fetcher: Fetcher) -> None:
    mirror.answers["/v2/etcd/manifests/v1"] = [(200, {"Docker-Content-Digest": "sha256:" + "2" * 64})]
    with pytest.raises(DevenvError) as caught:
        fetch_image(fetcher, mirror.url, "registry.k8s.io/etcd:v1", tmp_path / "x.tar")
    assert reason(caught) == "bundle_wrong_digest"


# --- places


def test_official_places_have_this_layout() -> None:
    versions = resolve("1.36.3")
    urls = {
        (item.url, item.sums.removeprefix(item.url))
        for item in downloads.items(versions, downloads.official(), "amd64")
    }
    github = "https://github.com"
    assert urls == {
        ("https://dl.k8s.io/release/v1.36.3/bin/linux/amd64/kubeadm", ".sha256"),
        ("https://dl.k8s.io/release/v1.36.3/bin/linux/amd64/kubelet", ".sha256"),
        ("https://dl.k8s.io/release/v1.36.3/bin/linux/amd64/kubectl", ".sha256"),
        ("https://get.helm.sh/helm-v4.3.1-linux-amd64.tar.gz", ".sha256sum"),
        (
            f"{github}/containerd/containerd/releases/download/v2.4.2/containerd-2.4.2-linux-amd64.tar.gz",
            ".sha256sum",
        ),
        (
            f"{github}/containernetworking/plugins/releases/download/v1.9.1/cni-plugins-linux-amd64-v1.9.1.tgz",
            ".sha256",
        ),
        (
            f"{github}/kubernetes-sigs/cri-tools/releases/download/v1.37.0/crictl-v1.37.0-linux-amd64.tar.gz",
            ".sha256",
        ),
    }


@pytest.mark.parametrize("name", ["downloads", "images", "modules"])
def test_data_matches_its_schema(name: str) -> None:
    schema = json.loads((paths.CONFIGS / "schema" / f"{name}.json").read_text())
    jsonschema.validate(data.read(paths.CONFIGS / f"{name}.yml"), schema)


def test_both_sources_have_the_same_programs() -> None:
    items = downloads.items(resolve(), downloads.official(), "arm64")
    assert items[0].target == "bin/kubeadm"
    assert {item.place for item in items} <= downloads.official().keys()
    published = {target for item in items for target in (item.target, *item.members.values()) if target}
    in_images = {f"bin/{program}" for short in resolve().images for program in images.programs_in(short)}
    built = {f"{group.folder}/{name}" for group in modules.groups(resolve()) for name in group.programs}
    assert (published & in_images, published | in_images) == (set(), built)
    assert ("linux-arm64/helm", "bin/helm") in [member for item in items for member in item.members.items()]


def test_role_and_module_default_to_the_official_places() -> None:
    official = downloads.official()
    defaults = data.read(paths.COLLECTION / "roles" / "bundle" / "defaults" / "main.yml")
    assert {f"bundle_release_{name}_url": url for name, url in official.items()}.items() <= defaults.items()
    source = (paths.COLLECTION / "plugins" / "modules" / "bundle.py").read_text()
    (text,) = re.findall(r'^DOCUMENTATION = r?"""(.*?)^"""', source, re.DOTALL | re.MULTILINE)
    options = yaml.safe_load(text)["options"]
    assert {name: options[f"{name}_url"]["default"] for name in official} == official


def test_a_place_that_does_not_answer_is_reported(mirror: Mirror) -> None:
    nowhere = f"http://127.0.0.1:{closed_port()}"
    with pytest.raises(DevenvError) as caught:
        release.check_places(resolve(), dict.fromkeys(downloads.official(), nowhere), "amd64", [BASE])
    assert reason(caught) == "bundle_unreachable"
    with pytest.raises(DevenvError) as caught:
        release.check_places(resolve(), dict.fromkeys(downloads.official(), mirror.url), "amd64", [BASE])
    assert reason(caught) == "bundle_not_found"
