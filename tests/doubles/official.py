"""A mirror of the official download places, from the files of a bundle: static files with checksums, a registry."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import requests
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import oci
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.downloads import items, official
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.store import Bundle
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.versions import Versions

CONFIG = """
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: "{address}"}}
"""


def lay_out(bundle: Bundle, versions: Versions, root: Path) -> None:
    """Put the bundle's files below ``root`` as on dl.k8s.io, get.helm.sh and the two release pages."""
    places = {**{name: f"/{name}" for name in official()}, "kubernetes": "/k8s"}
    for item in items(versions, places, bundle.manifest.arch):
        if bundle.lacks({item.part} - {""}):
            continue
        file = root / item.url.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        if item.target:
            os.link(bundle.path / item.target, file)
        else:
            with tarfile.open(file, "w:gz", compresslevel=1) as tar:
                for inside, path in item.members.items():
                    tar.add(bundle.path / path, inside)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        named = item.sums.endswith("sha256sum")
        (root / item.sums.lstrip("/")).write_text(f"{digest}  {file.name}\n" if named else digest)


@contextlib.contextmanager
def registry(folder: Path) -> Iterator[str]:
    """Run Debian's docker-registry on a free port of loopback; yield its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    (folder / "config.yml").write_text(CONFIG.format(folder=folder / "data", address=address))
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen(
            ["docker-registry", "serve", str(folder / "config.yml")], stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
    try:
        _wait(f"http://{address}/v2/", child, folder / "log")
        yield f"http://{address}"
    finally:
        child.terminate()
        child.wait(10)


def push(archive: Path, base: str, *, repository: str = "") -> str:
    """Push an image archive to the registry at ``base``; return the digest (upload API of distribution-spec)."""
    (image,) = oci.read(archive)
    path, _, tag = image.name.rpartition(":")
    target = f"{base}/v2/{repository}{path.split('/', 1)[1]}"
    with tarfile.open(archive) as tar:
        for digest in (image.config, *image.layers):
            start = requests.post(f"{target}/blobs/uploads/", timeout=60)
            start.raise_for_status()
            blob = tar.extractfile(f"blobs/{digest.replace(':', '/')}")
            done = requests.put(start.headers["Location"], params={"digest": digest}, data=blob, timeout=120)
            done.raise_for_status()
        content = tar.extractfile(f"blobs/{image.digest.replace(':', '/')}")
        assert content is not None
        body = content.read()
    kind = json.loads(body)["mediaType"]
    requests.put(f"{target}/manifests/{tag}", data=body, headers={"Content-Type": kind}, timeout=60).raise_for_status()
    return image.digest


def copy(base: str, names: Sequence[str], prefix: str) -> None:
    """Make images of the registry available below ``prefix`` too, without sending their layers again."""
    for name in names:
        path, _, tag = name.rpartition(":")
        repository = path.split("/", 1)[1]
        answer = requests.get(f"{base}/v2/{repository}/manifests/{tag}", headers={"Accept": oci.MANIFEST}, timeout=60)
        answer.raise_for_status()
        manifest = answer.json()
        target = f"{base}/v2/{prefix}/{repository}"
        for blob in (manifest["config"], *manifest["layers"]):
            query = {"mount": blob["digest"], "from": repository}
            requests.post(f"{target}/blobs/uploads/", params=query, timeout=60).raise_for_status()
        headers = {"Content-Type": oci.MANIFEST}
        requests.put(f"{target}/manifests/{tag}", data=answer.content, headers=headers, timeout=60).raise_for_status()


def _wait(url: str, child: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if child.poll() is not None:
            break
        with contextlib.suppress(requests.ConnectionError):
            if requests.get(url, timeout=15).status_code == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"docker-registry did not start: {log.read_text()[-500:]}")
