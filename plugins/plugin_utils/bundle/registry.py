"""Images out of a registry, by the OCI distribution API (github.com/opencontainers/distribution-spec, spec.md)."""

from __future__ import annotations

import hashlib
import json
import re
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import oci
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.download import Fetcher
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.oci import Blob
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

if TYPE_CHECKING:
    import requests

_ACCEPT = ", ".join((oci.INDEX, oci.DOCKER_INDEX, oci.MANIFEST, oci.DOCKER_MANIFEST))
_INDEXES = (oci.INDEX, oci.DOCKER_INDEX)


class _Bearer:
    """Sends a token, if there is one. Being there at all keeps .netrc out of requests to a registry."""

    def __init__(self, token: str = "") -> None:
        self.token = token

    def __call__(self, r: requests.PreparedRequest) -> requests.PreparedRequest:
        if self.token:
            r.headers["Authorization"] = f"Bearer {self.token}"
        return r


@dataclass(frozen=True)
class Resolved:
    """An image found: its manifest, and digest and size of the configuration and each layer."""

    name: str
    repository: str
    manifest: Blob
    media_type: str
    parts: tuple[tuple[str, int], ...]


class Registry:
    """A registry at ``base`` (``https://host[:port][/prefix]``), asked as anybody, with a token where it wants one."""

    def __init__(self, base: str, fetcher: Fetcher) -> None:
        parts = urllib.parse.urlsplit(base)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise DevenvError("bundle_url", "is no http or https URL", where=base)
        self.base = base
        self.secure = parts.scheme == "https"
        self.api = f"{parts.scheme}://{parts.netloc}/v2"
        self.prefix = parts.path.strip("/")
        self.fetcher = fetcher
        self.auth = _Bearer()

    def reach(self) -> None:
        """Raises DevenvError ``bundle_unreachable`` when nothing answers."""
        self.fetcher.get(f"{self.api}/", auth=self.auth)

    def resolve(self, name: str, arch: str) -> Resolved:
        """Find the image ``name`` (``host/repository:tag``; the host is a name only) for linux/``arch``.

        Raises DevenvError ``bundle_image_missing`` and what a download fails by.
        """
        repository, tag = _split(name)
        body, kind, digest = self._manifest(name, repository, tag)
        document = _document(body, name)
        if kind in _INDEXES or "manifests" in document:
            digest = _choose(document, arch, name)
            body, kind, digest = self._manifest(name, repository, digest)
            document = _document(body, name)
        try:
            rows = [document["config"], *document["layers"]]
            parts = tuple((str(row["digest"]), int(row["size"])) for row in rows)
        except (KeyError, TypeError, ValueError) as error:
            raise DevenvError("bundle_image_missing", f"{name}: not an image manifest ({error})") from None
        manifest = Blob(digest, len(body), body)
        return Resolved(name, repository, manifest, str(document.get("mediaType", kind)), parts)

    def fetch(self, image: Resolved, target: Path) -> str:
        """Write an image as an archive; returns the digest of its manifest. Raises DevenvError as `resolve` does."""
        blobs = [self._blob(image, digest, size) for digest, size in image.parts]
        return oci.write_archive(image.name, image.manifest, image.media_type, blobs[0], blobs[1:], target)

    def _manifest(self, name: str, repository: str, reference: str) -> tuple[bytes, str, str]:
        """Body, media type and digest of a manifest or index."""
        url = f"{self.api}/{self._path(repository)}/manifests/{reference}"
        answer = self._ask(url, repository)
        if answer.status_code != 200:
            what = f"{name}: the registry answers {answer.status_code} {answer.reason or ''}".rstrip()
            raise DevenvError("bundle_image_missing", what, where=url)
        digest = "sha256:" + hashlib.sha256(answer.content).hexdigest()
        # Asked by digest, the answer must be it; asked by tag, what the registry says it sent.
        said = reference if reference.startswith("sha256:") else answer.headers.get("Docker-Content-Digest", digest)
        if said != digest:
            raise DevenvError("bundle_wrong_digest", f"{name}: the manifest is {digest}, not {said}", where=url)
        return answer.content, answer.headers.get("Content-Type", "").split(";")[0], digest

    def _blob(self, image: Resolved, digest: str, size: int) -> Blob:
        name = image.name
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
            raise DevenvError("bundle_image_missing", f"{name}: a part has the digest {digest!r}, which is no sha256")
        url = f"{self.api}/{self._path(image.repository)}/blobs/{digest}"
        try:
            file = self.fetcher.file(url, digest.removeprefix("sha256:"), label=name, auth=self.auth)
        except DevenvError as error:
            if error.reason.id != "bundle_not_found":
                raise
            raise DevenvError("bundle_image_missing", f"{name}: a part is missing: {error}") from None
        return Blob(digest, size, file)

    def _ask(self, url: str, repository: str) -> requests.Response:
        headers = {"Accept": _ACCEPT}
        answer = self.fetcher.get(url, headers=headers, auth=self.auth)
        if answer.status_code == 401:
            self.auth = _Bearer(self._token(answer.headers.get("WWW-Authenticate", ""), repository))
            answer = self.fetcher.get(url, headers=headers, auth=self.auth)
        return answer

    def _token(self, challenge: str, repository: str) -> str:
        """A token for anybody, from where the challenge says (distribution's token authentication)."""
        fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        realm = fields.get("realm", "")
        allowed = ("https://",) if self.secure else ("https://", "http://")
        if not challenge.lower().startswith("bearer ") or not realm.startswith(allowed):
            return ""
        scope = fields.get("scope", f"repository:{self._path(repository)}:pull")
        query = urllib.parse.urlencode({"service": fields.get("service", ""), "scope": scope})
        answer = self.fetcher.get(f"{realm}?{query}")
        try:
            data = answer.json()
        except ValueError:
            return ""
        return str(data.get("token") or data.get("access_token") or "") if isinstance(data, dict) else ""

    def _path(self, repository: str) -> str:
        return f"{self.prefix}/{repository}" if self.prefix else repository


def _split(name: str) -> tuple[str, str]:
    """``registry.k8s.io/coredns/coredns:v1`` -> (``coredns/coredns``, ``v1``)."""
    path, _ignored, tag = name.rpartition(":")
    return path.split("/", 1)[1], tag


def _choose(index: dict[str, Any], arch: str, name: str) -> str:
    for one in index.get("manifests", []):
        platform = one.get("platform", {})
        if platform.get("os") == "linux" and platform.get("architecture") == arch:
            return str(one["digest"])
    raise DevenvError("bundle_image_missing", f"{name}: the registry has it not for linux/{arch}")


def _document(body: bytes, name: str) -> dict[str, Any]:
    try:
        data = json.loads(body)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise DevenvError("bundle_image_missing", f"{name}: the registry's answer is no manifest")
    return data
