"""What Gravity runs in its own container: a runtime with an image store of its own, `docker`, the cluster's registry.

A new store has the images that a tarball brings and no others. The node's own store and the socket of its containerd
are not used: whoever relies on them finds nothing there.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import tarfile
import tempfile
import uuid
from typing import Any
from urllib.parse import parse_qs, urlsplit

from doubles.gravity.base import REGISTRY, Error, emit, sh, write

NODE_STORE = "/var/lib/containerd"
# In the same file system, so that links work; on the node's root, overlay on overlay would not.
STORE = NODE_STORE + "/planet"
_COMPLETE = STORE + "/complete"
SOCKET = "/run/gravity/containerd.sock"
_PARTS = (
    "io.containerd.content.v1.content",
    "io.containerd.snapshotter.v1.overlayfs",
    "io.containerd.metadata.v1.bolt",
)
# containerd writes to these in place.
_DATABASES = ("io.containerd.metadata.v1.bolt/meta.db", "io.containerd.snapshotter.v1.overlayfs/metadata.db")

PORT = 5000
CONTENT = "/var/lib/gravity/planet/registry"
CERTIFICATES = "/etc/gravity/certs.d"
CA = "/etc/kubernetes/pki/ca.crt"
_OF_MASTER = ("/etc/kubernetes/pki/apiserver-kubelet-client.crt", "/etc/kubernetes/pki/apiserver-kubelet-client.key")
_OF_WORKER = "/var/lib/kubelet/pki/kubelet-client-current.pem"

CONTAINERD = """version = 3
root = '{store}'
state = '/run/gravity/containerd'
[grpc]
  address = '{socket}'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '{pause}'
[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = '{certificates}'
[plugins.'io.containerd.cri.v1.runtime']
  disable_apparmor = true
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['/usr/lib/cni']
  conf_dir = '/etc/cni/net.d'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  SystemdCgroup = {systemd}
"""

HOSTS = """server = "https://{leader}:{port}"
[host."https://{leader}:{port}"]
  capabilities = ["pull", "resolve", "push"]
  ca = "{ca}"
  client = [["{certificate}", "{key}"]]
"""

# --- the image store -------------------------------------------------------------------------------------------------


def ctr(*words: str) -> str:
    return sh("ctr", f"--address={SOCKET}", "--namespace=k8s.io", *words)


def configure(pause: str, systemd: bool) -> None:
    text = CONTAINERD.format(
        store=STORE, socket=SOCKET, pause=pause, certificates=CERTIFICATES, systemd=str(systemd).lower()
    )
    write("etc/gravity/containerd.toml", text)


def has_store() -> bool:
    """Return whether the image store is complete. The runtime of a machine from an image starts with an empty one."""
    return os.path.exists(_COMPLETE)


def create_store() -> None:
    """Create the image store; the runtime must be stopped."""
    new = STORE + ".new"
    for folder in (new, STORE):
        shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(new)
    for part in _PARTS:
        sh("cp", "--archive", "--link", f"{NODE_STORE}/{part}", new)
    for name in _DATABASES:
        os.unlink(f"{new}/{name}")
        shutil.copy2(f"{NODE_STORE}/{name}", f"{new}/{name}")
    os.rename(new, STORE)


def keep_only(names: list[str]) -> None:
    """Remove every image from the store that a tarball does not bring."""
    rows = [line.split() for line in ctr("images", "list").splitlines()[1:]]
    digests = {row[2] for row in rows if row[0] in names}
    ctr("images", "remove", "--sync", *(row[0] for row in rows if row[2] not in digests))
    write(_COMPLETE.lstrip("/"), "")


# --- docker ----------------------------------------------------------------------------------------------------------


def docker(words: list[str]) -> int:
    """Run one of the commands of `docker` that publish an image."""
    verb, arguments = (words or [""])[0], words[1:]
    if verb == "load":
        _load(arguments)
    elif verb == "tag" and len(arguments) == 2:
        _require(arguments[0])
        ctr("images", "tag", "--force", *arguments)
    elif verb == "push" and len(arguments) == 1:
        _push(arguments[0])
    else:
        raise Error(f"docker: '{verb}' is not a docker command.", 125)
    return 0


def _load(arguments: list[str]) -> None:
    """Load an archive from standard input or a file. Old versions of docker read only archives in docker's own form."""
    name = arguments[-1].removeprefix("--input=") if arguments else ""
    with open(name, "rb") if name else contextlib.nullcontext(sys.stdin.buffer) as source, _copy(source) as copy:
        try:
            with tarfile.open(copy) as archive:
                stream = archive.extractfile("manifest.json")
                tags = [tag for entry in json.load(stream) for tag in entry["RepoTags"]] if stream else []
        except (KeyError, tarfile.TarError, ValueError) as error:
            raise Error(f"open /var/lib/docker/tmp/docker-import/manifest.json: {error}", 1) from None
        ctr("images", "import", copy)
    for tag in tags:
        emit(f"Loaded image: {tag}")


@contextlib.contextmanager
def _copy(source: Any) -> Any:
    with tempfile.NamedTemporaryFile(suffix=".tar") as copy:
        shutil.copyfileobj(source, copy)
        copy.flush()
        yield copy.name


def _require(image: str) -> None:
    if image not in ctr("images", "list", "--quiet").split():
        raise Error(f"Error response from daemon: No such image: {image}", 1)


def _push(image: str) -> None:
    if not image.startswith(REGISTRY + "/"):
        raise Error(f"denied: requested access to the resource is denied: {image}", 1)
    _require(image)
    ctr("images", "push", f"--hosts-dir={CERTIFICATES}", image)
    emit(f"The push refers to repository [{image.rpartition(':')[0]}]")


# --- the registry ----------------------------------------------------------------------------------------------------


def trust(leader: str) -> None:
    """Direct this node's runtime to the registry of the active master, with a certificate of this node."""
    certificate, key = _OF_MASTER if os.path.exists(_OF_MASTER[0]) else (_OF_WORKER, _OF_WORKER)
    text = HOSTS.format(leader=leader, port=PORT, ca=CA, certificate=certificate, key=key)
    write(f"{CERTIFICATES.lstrip('/')}/{REGISTRY}/hosts.toml", text, 0o644)


def contents(leader: str) -> list[dict[str, Any]]:
    """Return the images in the registry, as `gravity registry list --format=json` prints them."""
    import urllib.request

    context = ssl.create_default_context(cafile=CA)
    certificate = _OF_MASTER if os.path.exists(_OF_MASTER[0]) else (_OF_WORKER, _OF_WORKER)
    context.load_cert_chain(*certificate)
    try:
        with urllib.request.urlopen(f"https://{leader}:{PORT}/v2/_contents", timeout=20, context=context) as answer:
            return list(json.load(answer))
    except OSError as error:
        raise Error(f"failed to reach the registry at {leader}:{PORT}: {error}") from None


def serve(certificate: str, key: str) -> http.server.ThreadingHTTPServer:
    """Return the registry of this master; only nodes of the cluster may use it."""
    server = http.server.ThreadingHTTPServer(("0.0.0.0", PORT), Registry)  # a node of a test network
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(CA)
    context.verify_mode = ssl.CERT_REQUIRED
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    return server


_TARGET = re.compile(r"/v2/(?P<name>.+)/(?P<kind>blobs|manifests)/(?P<what>uploads/[^/]*|[^/]+)")


class Registry(http.server.BaseHTTPRequestHandler):
    """What a runtime needs of https://distribution.github.io/distribution/spec/api/: push and pull of an image."""

    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        match = _TARGET.fullmatch(path)
        if path == "/v2/":
            self._answer(200, b"{}")
        elif path == "/v2/_contents":
            self._answer(200, json.dumps(self._contents()).encode())
        elif match is None or not os.path.isfile(self._file(match)):
            self._answer(404, b'{"errors":[{"code":"NAME_UNKNOWN"}]}')
        else:
            with open(self._file(match), "rb") as stream:
                data = stream.read()
            kind = "application/octet-stream"
            if match["kind"] == "manifests":
                kind = str(json.loads(data).get("mediaType") or "application/vnd.oci.image.manifest.v1+json")
            self._answer(200, data, {"Docker-Content-Digest": _digest(data)}, kind)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._body()
        self._answer(202, headers={"Location": f"{urlsplit(self.path).path.rstrip('/')}/{uuid.uuid4()}"})

    def do_PUT(self) -> None:
        url, data = urlsplit(self.path), self._body()
        match = _TARGET.fullmatch(url.path)
        digest = _digest(data)
        expected = (parse_qs(url.query).get("digest") or [digest])[0]
        if match is None or expected != digest:
            self._answer(400, b'{"errors":[{"code":"DIGEST_INVALID"}]}')
            return
        _store(digest, data)
        if match["kind"] == "manifests" and not match["what"].startswith("sha256:"):
            write(f"{CONTENT.lstrip('/')}/tags/{match['name']}/{match['what']}", digest)
        self._answer(201, headers={"Location": url.path, "Docker-Content-Digest": digest})

    def _file(self, match: re.Match[str]) -> str:
        what = match["what"]
        if not what.startswith("sha256:"):
            try:
                with open(f"{CONTENT}/tags/{match['name']}/{what}", encoding="ascii") as stream:
                    what = stream.read()
            except OSError:
                return ""
        return f"{CONTENT}/blobs/{what}"

    def _contents(self) -> list[dict[str, Any]]:
        top = f"{CONTENT}/tags"
        folders = [(folder, sorted(files)) for folder, _folders, files in os.walk(top) if files]
        return [{"repository": os.path.relpath(folder, top), "tags": tags} for folder, tags in folders]

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _answer(
        self, status: int, data: bytes = b"", headers: dict[str, str] | None = None, kind: str = "application/json"
    ) -> None:
        self.send_response(status)
        lengths = {"Content-Type": kind, "Content-Length": str(len(data))}
        for name, value in {**lengths, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:  # the library's name
        return


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _store(digest: str, data: bytes) -> None:
    os.makedirs(f"{CONTENT}/blobs", exist_ok=True)
    with open(f"{CONTENT}/blobs/{digest}.new", "wb") as stream:
        stream.write(data)
    os.replace(f"{CONTENT}/blobs/{digest}.new", f"{CONTENT}/blobs/{digest}")


def stop_tasks() -> None:
    for task in ctr("tasks", "list", "--quiet").split():
        words = (
            "ctr",
            f"--address={SOCKET}",
            "--namespace=k8s.io",
            "tasks",
            "kill",
            "--all",
            "--signal",
            "SIGKILL",
            task,
        )
        subprocess.run(words, capture_output=True, check=False)
