"""Files over HTTP: resumed where they broke off, checked against a known sha256, kept until the bundle is complete."""

from __future__ import annotations

import os
import re
import time
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.manifest import sha256
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.store import Progress, silent
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

try:
    import requests
except ModuleNotFoundError:
    # Every file must be importable without it: only the source release needs it, and `Fetcher` says so.
    requests = None  # type: ignore[assignment]

# Changes a request before it is sent.
Auth = Callable[["requests.PreparedRequest"], "requests.PreparedRequest"]

# A broken connection loses the chunk that was under way: small ones keep the loss small.
_CHUNK = 1 << 16
_SPEAK_EVERY = 3.0
_SYSTEM_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_AGAIN = frozenset({408, 429, 500, 502, 503, 504})


class Insecure(Exception):
    """A redirect from https to plain http."""


def _session() -> requests.Session:
    """Follows redirects, but none that leaves https."""

    class Session(requests.Session):
        def get_redirect_target(self, resp: requests.Response) -> str | None:
            target = super().get_redirect_target(resp)
            if target and resp.url.startswith("https://"):
                absolute = urllib.parse.urljoin(resp.url, target)
                if not absolute.startswith("https://"):
                    raise Insecure(f"redirects to {absolute}, which is not encrypted")
            return target

    return Session()


class Fetcher:
    """Downloads into ``keep``: ``<sha256>.part`` while unfinished, ``<sha256>`` when complete and checked.

    Proxies, .netrc and certificates follow the usual environment variables (HTTPS_PROXY, NO_PROXY, REQUESTS_CA_BUNDLE,
    SSL_CERT_FILE); without them the system's certificates count. ``attempts`` without a new byte end a download.
    Raises DevenvError ``bundle_library_missing``.
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
        self.session = _session()
        self.session.headers.update({"User-Agent": "devenv", "Accept-Encoding": "identity"})
        self.session.verify = certificates(os.environ)

    def get(self, url: str, *, headers: Mapping[str, str] | None = None, auth: Auth | None = None) -> requests.Response:
        """A small document of any lasting status. Raises DevenvError ``bundle_unreachable``, ``bundle_download``."""
        for attempt in range(1, self.attempts + 1):
            try:
                answer = self.session.get(url, headers=dict(headers or {}), auth=auth, timeout=self.timeout)
            except (requests.RequestException, Insecure) as error:
                if attempt == self.attempts or not _passing(error):
                    raise _unreachable(url, error) from None
            else:
                if answer.status_code not in _AGAIN:
                    return answer
                if attempt == self.attempts:
                    raise DevenvError("bundle_download", f"answers {_status(answer)}", where=url)
            self.pause(_delay(attempt))
        raise AssertionError("no attempt was made")

    def text(self, url: str) -> str:
        """A small text file. Raises DevenvError ``bundle_not_found`` too."""
        answer = self.get(url)
        if answer.status_code != 200:
            raise _refused(url, answer)
        return answer.text

    def file(self, url: str, digest: str, *, label: str, auth: Auth | None = None) -> Path:
        """The file at ``url`` with the sha256 ``digest`` (hex), fetched or kept from before.

        Raises DevenvError ``bundle_wrong_digest``, ``bundle_not_found``, ``bundle_unreachable`` or ``bundle_download``.
        """
        self.keep.mkdir(parents=True, exist_ok=True)
        whole, part = self.keep / digest, self.keep / f"{digest}.part"
        if whole.is_file():
            return whole
        resumed = part.is_file() and part.stat().st_size > 0
        self._transfer(url, part, label, auth)
        got = sha256(part)
        if got != digest and resumed:
            # The beginning may be of a file that was replaced since.
            part.unlink()
            self._transfer(url, part, label, auth)
            got = sha256(part)
        if got != digest:
            part.unlink()
            raise DevenvError("bundle_wrong_digest", f"sha256 is {got}, published is {digest}", where=url)
        part.rename(whole)
        return whole

    def _transfer(self, url: str, part: Path, label: str, auth: Auth | None) -> None:
        """Fetch until the server says that this was all."""
        idle = 0
        while True:
            before = part.stat().st_size if part.is_file() else 0
            try:
                if self._once(url, part, label, auth):
                    return
                problem: DevenvError = DevenvError("bundle_download", "the server is busy", where=url)
            except (requests.RequestException, Insecure) as error:
                problem = _unreachable(url, error) if before == 0 else _broken(url, error)
                if not _passing(error):
                    raise problem from None
            after = part.stat().st_size if part.is_file() else 0
            if after > 0 and problem.reason.id == "bundle_unreachable":
                problem = DevenvError("bundle_download", problem.message, where=url)
            idle = 0 if after > before else idle + 1
            if idle >= self.attempts:
                raise problem
            self.progress(f"{label}: broke off at {_megabytes(after)} MB, trying again")
            self.pause(_delay(idle))

    def _once(self, url: str, part: Path, label: str, auth: Auth | None) -> bool:
        """One request; False when the server asks to come again."""
        have = part.stat().st_size if part.is_file() else 0
        headers = {"Range": f"bytes={have}-"} if have else {}
        with self.session.get(url, headers=headers, auth=auth, stream=True, timeout=self.timeout) as answer:
            if answer.status_code in _AGAIN:
                return False
            if answer.status_code == 416:
                # Nothing after what is there: complete, or of another file; the digest tells.
                return True
            if answer.status_code not in (200, 206):
                raise _refused(url, answer)
            append = answer.status_code == 206 and _starts_at(answer) == have
            if answer.status_code == 206 and not append:
                part.unlink()
                return False
            self._write(answer, part, have if append else 0, label)
            return True

    def _write(self, answer: requests.Response, part: Path, have: int, label: str) -> None:
        length = answer.headers.get("Content-Length", "")
        total = f" of {_megabytes(have + int(length))}" if length.isdigit() else ""
        said = time.monotonic()
        with part.open("ab" if have else "wb") as stream:
            for chunk in answer.iter_content(_CHUNK):
                stream.write(chunk)
                have += len(chunk)
                if time.monotonic() - said >= _SPEAK_EVERY:
                    said = time.monotonic()
                    self.progress(f"{label}: {_megabytes(have)}{total} MB")


def checksum(text: str, name: str, where: str) -> str:
    """The sha256 for the file ``name`` in a published checksum file: the bare digest, or lines of ``digest  name``.

    Raises DevenvError ``bundle_not_found`` when there is none, so a page of a proxy is not taken for a checksum.
    """
    for line in text.splitlines():
        parts = line.split()
        if parts and re.fullmatch(r"[0-9a-fA-F]{64}", parts[0]) and (len(parts) == 1 or parts[-1].lstrip("*") == name):
            return parts[0].lower()
    raise DevenvError("bundle_not_found", f"holds no sha256 of {name}", where=where)


def certificates(env: Mapping[str, str]) -> str | bool:
    """Return what requests verifies servers by (its option ``verify``), from the usual variables."""
    # requests reads its own variables itself when this is True, and would else take the certificates of a package.
    if env.get("REQUESTS_CA_BUNDLE") or env.get("CURL_CA_BUNDLE"):
        return True
    if env.get("SSL_CERT_FILE"):
        return env["SSL_CERT_FILE"]
    return str(_SYSTEM_CERTIFICATES) if _SYSTEM_CERTIFICATES.is_file() else True


def _starts_at(answer: requests.Response) -> int | None:
    match = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(match.group(1)) if match else None


def _passing(error: requests.RequestException | Insecure) -> bool:
    """Whether the same request may work a moment later."""
    if isinstance(error, requests.exceptions.SSLError):
        return False
    kinds = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    return isinstance(error, kinds) and "Name or service not known" not in str(error)


def _unreachable(url: str, error: requests.RequestException | Insecure) -> DevenvError:
    if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema,
                          requests.exceptions.InvalidSchema)):  # fmt: skip
        return DevenvError("bundle_url", f"is no http or https URL: {error}", where=url)
    if isinstance(error, Insecure):
        return DevenvError("bundle_url", str(error), where=url)
    return DevenvError("bundle_unreachable", _short(error), where=url)


def _broken(url: str, error: requests.RequestException | Insecure) -> DevenvError:
    return DevenvError("bundle_download", _short(error), where=url)


def _refused(url: str, answer: requests.Response) -> DevenvError:
    if answer.status_code in (401, 403, 404, 410):
        return DevenvError("bundle_not_found", f"answers {_status(answer)}", where=url)
    return DevenvError("bundle_download", f"answers {_status(answer)}", where=url)


def _status(answer: requests.Response) -> str:
    return f"{answer.status_code} {answer.reason or ''}".strip()


def _short(error: requests.RequestException | Insecure) -> str:
    """The innermost reason of requests' nested messages."""
    cause: BaseException = error
    seen = str(error)
    match = re.search(r"\[Errno -?\d+\] ([^')\]]+)", seen)
    if match:
        return match.group(1)
    if "timed out" in seen:
        return "no answer in time"
    while cause.__context__ is not None and cause.__context__ is not cause:
        cause = cause.__context__
    return (str(cause) or seen)[:300]


def _delay(attempt: int) -> float:
    """Seconds to wait after a failed attempt, doubled each time."""
    return float(min(0.5 * 2 ** (attempt - 1), 8))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f}"
