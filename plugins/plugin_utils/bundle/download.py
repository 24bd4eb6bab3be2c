"""Files over HTTP: resumed after interruptions, verified against a known sha256, kept until the bundle is complete."""

from __future__ import annotations

import os
import re
import time
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.manifest import sha256
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.store import Progress, silent
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

try:
    import requests
except ModuleNotFoundError:
    # Every file must be importable without it; only the source release needs it, and `Fetcher` checks for it.
    requests = None  # type: ignore[assignment]

# Changes a request before it is sent.
Auth = Callable[["requests.PreparedRequest"], "requests.PreparedRequest"]

# A broken connection loses the current chunk: small chunks keep the loss small.
_CHUNK = 1 << 16
_REPORT_EVERY = 3.0
_SYSTEM_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_RETRY = frozenset({408, 429, 500, 502, 503, 504})


class Fetcher:
    """Downloads into ``keep``: ``<sha256>.part`` while unfinished, ``<sha256>`` when complete and verified.

    Proxies, .netrc and certificates follow the usual environment variables (HTTPS_PROXY, NO_PROXY, REQUESTS_CA_BUNDLE,
    SSL_CERT_FILE); without them, the system's certificates apply. A download fails after ``attempts`` without a new
    byte. Raises DevenvError ``bundle_library_missing``.
    """

    def __init__(
        self,
        keep: Path,
        progress: Progress = silent,
        *,
        attempts: int = 5,
        timeout: tuple[float, float] = (10, 60),
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        if requests is None:
            raise DevenvError("bundle_library_missing", "the source release needs the Python library requests")
        self.keep = keep
        self.progress = progress
        self.attempts = attempts
        self.timeout = timeout
        self.pause = pause
        self.session = requests.Session()
        self.session.headers.update({"User-Agent": "devenv", "Accept-Encoding": "identity"})
        self.session.verify = certificates(os.environ)
        self.session.hooks["response"].append(require_encryption)

    def get(self, url: str, *, headers: Mapping[str, str] | None = None, auth: Auth | None = None) -> requests.Response:
        """Return a small document of any final status.

        Raises DevenvError ``bundle_unreachable``, ``bundle_download`` or ``bundle_url``.
        """
        for attempt in range(1, self.attempts + 1):
            try:
                answer = self.session.get(url, headers=dict(headers or {}), auth=auth, timeout=self.timeout)
                if answer.status_code not in _RETRY:
                    return answer
                problem = _rejection(url, answer)
            except requests.RequestException as error:
                problem = _failure(url, error, "bundle_unreachable")
                if not _is_transient(error):
                    break
            if attempt < self.attempts:
                self.pause(_delay(attempt))
        raise problem

    def text(self, url: str) -> str:
        """Return a small text file. Raises DevenvError as `get`, and ``bundle_not_found``."""
        answer = self.get(url)
        if answer.status_code != 200:
            raise _rejection(url, answer)
        return answer.text

    def file(self, url: str, digest: str, *, label: str, auth: Auth | None = None) -> Path:
        """Return the file at ``url`` with the sha256 ``digest`` (hex), fetched or kept from an earlier run.

        Raises DevenvError ``bundle_wrong_digest``, ``bundle_not_found``, ``bundle_unreachable`` or ``bundle_download``.
        """
        self.keep.mkdir(parents=True, exist_ok=True)
        whole, part = self.keep / digest, self.keep / f"{digest}.part"
        if whole.is_file():
            return whole
        resumed = _size(part) > 0
        self._transfer(url, part, label, auth)
        if resumed and sha256(part) != digest:
            # The beginning may be from a file that has been replaced since.
            part.unlink()
            self._transfer(url, part, label, auth)
        if (actual := sha256(part)) != digest:
            part.unlink()
            raise DevenvError("bundle_wrong_digest", f"sha256 is {actual}, published is {digest}", where=url)
        part.rename(whole)
        return whole

    def _transfer(self, url: str, part: Path, label: str, auth: Auth | None) -> None:
        """Fetch until the server has sent everything."""
        idle = 0
        while True:
            before = _size(part)
            try:
                if self._request(url, part, label, auth):
                    return
                problem = DevenvError("bundle_download", "the server is busy", where=url)
            except requests.RequestException as error:
                problem = _failure(url, error, "bundle_download" if _size(part) else "bundle_unreachable")
                if not _is_transient(error):
                    raise problem from None
            after = _size(part)
            idle = 0 if after > before else idle + 1
            if idle >= self.attempts:
                raise problem
            self.progress(f"{label}: interrupted at {_megabytes(after)} MB, trying again")
            self.pause(_delay(idle))

    def _request(self, url: str, part: Path, label: str, auth: Auth | None) -> bool:
        """Send one request; return False if it has to be repeated."""
        offset = _size(part)
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        with self.session.get(url, headers=headers, auth=auth, stream=True, timeout=self.timeout) as answer:
            if answer.status_code in _RETRY:
                return False
            if answer.status_code == 416:
                # Nothing after the offset: complete, or from another file; the digest decides.
                return True
            if answer.status_code not in (200, 206):
                raise _rejection(url, answer)
            if answer.status_code == 200:
                offset = 0
            elif not answer.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
                part.unlink()
                return False
            self._write(answer, part, offset, label)
            return True

    def _write(self, answer: requests.Response, part: Path, offset: int, label: str) -> None:
        length = answer.headers.get("Content-Length", "")
        total = f" of {_megabytes(offset + int(length))}" if length.isdigit() else ""
        reported = time.monotonic()
        with part.open("ab" if offset else "wb") as stream:
            for chunk in answer.iter_content(_CHUNK):
                offset += stream.write(chunk)
                if time.monotonic() - reported >= _REPORT_EVERY:
                    reported = time.monotonic()
                    self.progress(f"{label}: {_megabytes(offset)}{total} MB")


def checksum(text: str, name: str, where: str) -> str:
    """Return the sha256 of ``name`` in a published checksum file: the bare digest, or lines of ``digest  name``.

    Raises DevenvError ``bundle_not_found`` for any other text, such as a page of a proxy.
    """
    for line in text.splitlines():
        parts = line.split()
        if parts and re.fullmatch(r"[0-9a-fA-F]{64}", parts[0]) and (len(parts) == 1 or parts[-1].lstrip("*") == name):
            return parts[0].lower()
    raise DevenvError("bundle_not_found", f"contains no sha256 of {name}", where=where)


def certificates(env: Mapping[str, str]) -> str | bool:
    """Return the option ``verify`` of requests, from the usual variables."""
    # With True, requests reads its own variables; without those it would use the certificates of a package.
    if env.get("REQUESTS_CA_BUNDLE") or env.get("CURL_CA_BUNDLE"):
        return True
    if env.get("SSL_CERT_FILE"):
        return env["SSL_CERT_FILE"]
    return str(_SYSTEM_CERTIFICATES) if _SYSTEM_CERTIFICATES.is_file() else True


def require_encryption(answer: requests.Response, **_options: Any) -> None:
    """Reject a redirect from https to another scheme, as a hook of requests. Raises InvalidSchema."""
    if answer.is_redirect and answer.url.startswith("https://"):
        target = urllib.parse.urljoin(answer.url, answer.headers["Location"])
        if not target.startswith("https://"):
            raise requests.exceptions.InvalidSchema(f"redirects to {target}, which is not encrypted")


def _is_transient(error: requests.RequestException) -> bool:
    if isinstance(error, requests.exceptions.SSLError):
        return False
    kinds = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    return isinstance(error, kinds) and "Name or service not known" not in str(error)


def _failure(url: str, error: requests.RequestException, reason: str) -> DevenvError:
    # InvalidURL, MissingSchema and InvalidSchema, which are all about the URL, are also ValueErrors.
    if isinstance(error, ValueError):
        return DevenvError("bundle_url", str(error), where=url)
    return DevenvError(reason, _innermost(error), where=url)


def _rejection(url: str, answer: requests.Response) -> DevenvError:
    reason = "bundle_not_found" if answer.status_code in (401, 403, 404, 410) else "bundle_download"
    return DevenvError(reason, f"the server answers {answer.status_code} {answer.reason or ''}".strip(), where=url)


def _innermost(error: requests.RequestException) -> str:
    """Return the innermost message of requests' nested errors."""
    cause: BaseException = error
    while cause.__context__ is not None and cause.__context__ is not cause:
        cause = cause.__context__
    return (cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause))[:300]


def _delay(attempt: int) -> float:
    """Return the seconds to wait after a failed attempt, doubled each time."""
    return float(min(0.5 * 2 ** (attempt - 1), 8))


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f}"
