"""Fetch images from a registry by the OCI distribution API (github.com/opencontainers/distribution-spec, spec.md)."""

from __future__ import annotations

import hashlib
import json
import re
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import oci
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.download import Auth, Fetcher
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.oci import Blob
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

if TYPE_CHECKING:
    import requests

_INDEXES = (oci.INDEX, oci.DOCKER_INDEX)
_ACCEPT = ", ".join((*_INDEXES, oci.MANIFEST, oci.DOCKER_MANIFEST))


def _bearer(token: str) -> Auth:
    """Return what sends ``token``, if there is one. Any auth object keeps .netrc out of requests to a registry."""

    def add(request: requests.PreparedRequest) -> requests.PreparedRequest:
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        return request

    return add


@dataclass(frozen=True)
class Resolved:
    """An image of a registry: ``url`` of its repository, manifest, digest and size of configuration and each layer."""

    name: str
    url: str
    manifest: Blob
    media_type: str
    parts: tuple[tuple[str, int], ...]


class Registry:
    """A registry at ``base`` (``https://host[:port][/prefix]``), used anonymously, with a token if it requires one."""

    def __init__(self, base: str, fetcher: Fetcher) -> None:
        parts = urllib.parse.urlsplit(base)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise DevenvError("bundle_url", "is not an http or https URL", where=base)
        self.base = base
        self.api = f"{parts.scheme}://{parts.netloc}/v2"
        self.prefix = parts.path.strip("/")
        self.fetcher = fetcher
        self.auth = _bearer("")

    def reach(self) -> None:
        """Raise DevenvError ``bundle_unreachable`` if the registry does not answer."""
        self.fetcher.get(f"{self.api}/", auth=self.auth)

    def resolve(self, name: str, arch: str) -> Resolved:
        """Look up the image ``name`` (``host/repository:tag``; the host is ignored) for linux/``arch``.

        Raises DevenvError ``bundle_image_missing`` and those of a download.
        """
        path, _colon, tag = name.rpartition(":")
        url = "/".join(part for part in (self.api, self.prefix, path.split("/", 1)[1]) if part)
        manifest, kind, document = self._manifest(name, url, tag)
        if kind in _INDEXES or "manifests" in document:
            manifest, kind, document = self._manifest(name, url, _choose(document, arch, name))
        try:
            rows = [document["config"], *document["layers"]]
            parts = tuple((str(row["digest"]), int(row["size"])) for row in rows)
        except (KeyError, TypeError, ValueError) as error:
            raise DevenvError("bundle_image_missing", f"{name}: not an image manifest ({error})") from None
        return Resolved(name, url, manifest, str(document.get("mediaType", kind)), parts)

    def fetch(self, image: Resolved, target: Path) -> str:
        """Write an image as an archive; return the digest of its manifest. Raises DevenvError as `resolve` does."""
        blobs = [self._blob(image, digest, size) for digest, size in image.parts]
        return oci.write_archive(image.name, image.manifest, image.media_type, blobs[0], blobs[1:], target)

    def _manifest(self, name: str, repository: str, reference: str) -> tuple[Blob, str, dict[str, Any]]:
        """Return a manifest or index, its media type and its document."""
        url = f"{repository}/manifests/{reference}"
        answer = self._get(url)
        if answer.status_code != 200:
            what = f"{name}: the registry answers {answer.status_code} {answer.reason or ''}".rstrip()
            raise DevenvError("bundle_image_missing", what, where=url)
        blob = Blob("sha256:" + hashlib.sha256(answer.content).hexdigest(), len(answer.content), answer.content)
        expected = answer.headers.get("Docker-Content-Digest", blob.digest)
        if reference.startswith("sha256:"):
            expected = reference
        if expected != blob.digest:
            raise DevenvError(
                "bundle_wrong_digest", f"{name}: the manifest is {blob.digest}, not {expected}", where=url
            )
        try:
            document = json.loads(answer.content)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise DevenvError("bundle_image_missing", f"{name}: the registry's response is not a manifest")
        return blob, answer.headers.get("Content-Type", "").split(";")[0], document

    def _blob(self, image: Resolved, digest: str, size: int) -> Blob:
        name = image.name
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
            raise DevenvError("bundle_image_missing", f"{name}: the digest {digest!r} of a part is not a sha256")
        url = f"{image.url}/blobs/{digest}"
        try:
            file = self.fetcher.file(url, digest.removeprefix("sha256:"), label=name, auth=self.auth)
        except DevenvError as error:
            if error.reason.id != "bundle_not_found":
                raise
            raise DevenvError("bundle_image_missing", f"{name}: a part is missing: {error}") from None
        return Blob(digest, size, file)

    def _get(self, url: str) -> requests.Response:
        headers = {"Accept": _ACCEPT}
        answer = self.fetcher.get(url, headers=headers, auth=self.auth)
        if answer.status_code == 401:
            self.auth = _bearer(self._token(answer.headers.get("WWW-Authenticate", ""), url))
            answer = self.fetcher.get(url, headers=headers, auth=self.auth)
        return answer

    def _token(self, challenge: str, url: str) -> str:
        """Fetch an anonymous token from the address in the challenge (distribution's token authentication)."""
        fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        realm = fields.get("realm", "")
        schemes = ("https://",) if url.startswith("https://") else ("https://", "http://")
        if not challenge.lower().startswith("bearer ") or not realm.startswith(schemes):
            return ""
        repository = url.removeprefix(f"{self.api}/").rpartition("/manifests/")[0]
        scope = fields.get("scope", f"repository:{repository}:pull")
        query = urllib.parse.urlencode({"service": fields.get("service", ""), "scope": scope})
        answer = self.fetcher.get(f"{realm}?{query}")
        try:
            data = answer.json()
        except ValueError:
            return ""
        return str(data.get("token") or data.get("access_token") or "") if isinstance(data, dict) else ""


def _choose(index: dict[str, Any], arch: str, name: str) -> str:
    for entry in index.get("manifests", []):
        platform = entry.get("platform", {})
        if platform.get("os") == "linux" and platform.get("architecture") == arch:
            return str(entry["digest"])
    raise DevenvError("bundle_image_missing", f"{name}: the registry does not have it for linux/{arch}")
