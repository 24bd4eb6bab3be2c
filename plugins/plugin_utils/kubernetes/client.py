"""A small client of the Kubernetes API: JSON requests over one kept-alive TLS connection.

A kubectl process costs 60-120 ms per call, a request on an open connection 2-5 ms, and waiting for a cluster sends many
requests. So this module uses the standard library only, with credentials that are inline in the kubeconfig.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit

import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

Json = dict[str, Any]


@dataclass(frozen=True)
class Access:
    """Address and credentials of an API: ``server`` is a URL; certificates and key are PEM text and may be empty."""

    server: str
    authority: str
    certificate: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    token: str = field(default="", repr=False)


class ApiFailure(Exception):
    """A request failed: the API rejected it or did not answer."""


class ApiError(ApiFailure):
    """The API rejected a request. ``status`` is the HTTP status, ``reason`` that of Kubernetes (``NotFound``, ...)."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(message or f"HTTP status {status}")


class ApiUnreachable(ApiFailure):
    """No answer: connection refused or cut, timeout, or a certificate that does not verify."""


def read_access(path: Path) -> Access:
    """Return the Access of a kubeconfig's current context. Raises DevenvError ``kubeconfig_invalid``."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise DevenvError("kubeconfig_invalid", f"cannot be read: {error}", where=str(path)) from error
    return parse_access(text, str(path))


def usable_access(path: Path) -> Access | DevenvError:
    """Return the Access of a kubeconfig, or why it cannot be used."""
    try:
        access = read_access(path)
        _tls(access)
    except DevenvError as error:
        return error
    return access


def parse_access(text: str, where: str) -> Access:
    """Return the Access in a kubeconfig's text (format: Kubernetes' client-go, ``clientcmd/api/v1``).

    Only inline credentials (``*-data``, ``token``) are used, as kubeadm writes them: a file or a program that it names
    would be one of another machine. Raises DevenvError ``kubeconfig_invalid``.
    """
    try:
        document = yaml.safe_load(text)
        context = _named(document["contexts"], "context", document["current-context"])
        cluster = _named(document["clusters"], "cluster", context["cluster"])
        user = _named(document["users"], "user", context["user"])
        access = Access(
            server=str(cluster["server"]),
            authority=_decoded(cluster["certificate-authority-data"]),
            certificate=_decoded(user.get("client-certificate-data", "")),
            key=_decoded(user.get("client-key-data", "")),
            token=str(user.get("token", "")),
        )
    except yaml.YAMLError:
        # The parser's message quotes the faulty line, which may contain the key.
        raise DevenvError("kubeconfig_invalid", "is not YAML", where=where) from None
    except (KeyError, TypeError, AttributeError, binascii.Error, UnicodeDecodeError, LookupError) as error:
        missing = f"lacks {error}" if isinstance(error, KeyError) else "does not have the form of a kubeconfig"
        raise DevenvError("kubeconfig_invalid", missing, where=where) from None
    if not access.authority:
        # Without a CA, any certificate that the controller's certificate store trusts would be accepted.
        raise DevenvError("kubeconfig_invalid", "has no certificate authority", where=where)
    if not (access.token or (access.certificate and access.key)):
        raise DevenvError("kubeconfig_invalid", "has neither a client certificate with key nor a token", where=where)
    if urlsplit(access.server).scheme != "https":
        raise DevenvError("kubeconfig_invalid", f"server {access.server} is not an https address", where=where)
    return access


def _named(entries: list[Json], kind: str, name: str) -> Json:
    for entry in entries:
        if entry["name"] == name:
            return dict(entry[kind])
    raise KeyError(f"{kind} {name}")


def _decoded(data: str) -> str:
    return base64.b64decode(data, validate=True).decode()


def _tls(access: Access) -> ssl.SSLContext:
    """Return the TLS settings. Raises DevenvError ``kubeconfig_invalid``."""
    try:
        context = ssl.create_default_context(cadata=access.authority)
        if access.certificate:
            # load_cert_chain takes files only; a file in memory keeps the key off the disk.
            with open(os.memfd_create("client", os.MFD_CLOEXEC), "w") as stream:
                stream.write(f"{access.certificate}\n{access.key}")
                stream.flush()
                context.load_cert_chain(f"/proc/self/fd/{stream.fileno()}")
    except ssl.SSLError as error:
        raise DevenvError("kubeconfig_invalid", f"its certificates cannot be used: {error.reason}") from None
    return context


# Errors of a kept-alive connection that the server has closed.
_CLOSED = (
    http.client.RemoteDisconnected,
    ConnectionResetError,
    BrokenPipeError,
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
)


class Api:
    """One connection to one API server; not thread-safe. ``timeout`` is that of each request, in seconds."""

    def __init__(self, access: Access, timeout: float = 10) -> None:
        url = urlsplit(access.server)
        self._connection = http.client.HTTPSConnection(
            url.hostname or "", url.port or 443, timeout=timeout, context=_tls(access)
        )
        self._headers = {"Accept": "application/json", "User-Agent": "devenv"}
        if access.token:
            self._headers["Authorization"] = f"Bearer {access.token}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Json:
        """Return the object or list at ``path``. Raises ApiError, ApiUnreachable."""
        return _object(self._request("GET", path, query))

    def text(self, path: str, query: Mapping[str, str] | None = None) -> str:
        """Return the text at ``path`` (health endpoints, logs)."""
        return self._request("GET", path, query).decode(errors="replace")

    def create(self, path: str, body: Json) -> Json:
        """POST ``body`` to the collection ``path`` and return the object as stored."""
        return _object(self._request("POST", path, None, json.dumps(body), "application/json"))

    def merge(self, path: str, patch: Json) -> Json:
        """PATCH the object at ``path`` (JSON merge patch: null removes a key, a list is replaced whole)."""
        return _object(self._request("PATCH", path, None, json.dumps(patch), "application/merge-patch+json"))

    def apply(self, path: str, body: Json, manager: str, *, dry_run: bool = False) -> Json:
        """Apply ``body`` on the server as the field manager ``manager``, overriding other managers; return the object.

        With ``dry_run``, return the object that the API would store.
        """
        query = {"fieldManager": manager, "force": "true"} | ({"dryRun": "All"} if dry_run else {})
        # JSON is YAML too.
        return _object(self._request("PATCH", path, query, json.dumps(body), "application/apply-patch+yaml"))

    def delete(self, path: str, grace: int | None = None) -> None:
        """Delete the object at ``path``, a pod within ``grace`` seconds; ignore an absent object."""
        try:
            self._request("DELETE", path, None if grace is None else {"gracePeriodSeconds": str(grace)})
        except ApiError as error:
            # 409: it is already being removed.
            if error.status not in (404, 409):
                raise

    def _request(
        self, method: str, path: str, query: Mapping[str, str] | None, body: str | None = None, kind: str = ""
    ) -> bytes:
        target = quote(path) + (f"?{urlencode(query)}" if query else "")
        headers = self._headers | ({"Content-Type": kind} if kind else {})
        while True:
            is_new = self._connection.sock is None
            try:
                self._connection.request(method, target, body, headers)
                response = self._connection.getresponse()
                data = response.read()
            except (http.client.HTTPException, OSError) as error:
                self._connection.close()
                # The server may have closed an idle connection; it did not read the request, which can be sent again.
                if is_new or not isinstance(error, _CLOSED):
                    raise ApiUnreachable(_cause(error)) from error
                continue
            if response.status >= 300:
                raise _rejection(response.status, data)
            return data


class NoApi(Api):
    """An API without usable access: every request fails with ``why``."""

    def __init__(self, why: str) -> None:
        super().__init__(Access(server="https://[::1]:1", authority=""))
        self._why = why

    def _request(
        self, method: str, path: str, query: Mapping[str, str] | None, body: str | None = None, kind: str = ""
    ) -> bytes:
        raise ApiUnreachable(self._why)


def condition(item: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """Return the condition ``kind`` of an object's status; empty if it has none."""
    conditions: list[Json] = item.get("status", {}).get("conditions") or []
    return next((entry for entry in conditions if entry.get("type") == kind), {})


def _cause(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not verify: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()


def _object(data: bytes) -> Json:
    try:
        document = json.loads(data)
    except ValueError:
        raise ApiUnreachable("the answer is not JSON") from None
    if not isinstance(document, dict):
        raise ApiUnreachable("the answer is not an object")
    return document


def _rejection(status: int, data: bytes) -> ApiError:
    """Return the ApiError for a Status object, or for plain text as health endpoints return it."""
    try:
        document = json.loads(data)
    except ValueError:
        document = None
    if isinstance(document, dict):
        return ApiError(status, str(document.get("reason", "")), str(document.get("message", "")))
    return ApiError(status, "", data.decode(errors="replace").strip()[:800])
