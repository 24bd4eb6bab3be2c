"""Sets of Kubernetes objects: applied together, pruned when they leave the set, told apart from those of others.

Objects go through the API's server-side apply, so the API itself says what changed. A set's members carry two labels;
a ConfigMap of kube-system, ``devenv-<set>``, lists them, since no request finds objects of every kind by a label.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.client import Json

SET = "devenv.lab/set"
MANAGED = "app.kubernetes.io/managed-by"
MANAGER = "devenv"
SYSTEM = "kube-system"
POLL = 0.2

# Kind -> the word in its path; whether it has a namespace shows in the object.
PLURALS = {
    "APIService": "apiservices",
    "ClusterRole": "clusterroles",
    "ClusterRoleBinding": "clusterrolebindings",
    "ConfigMap": "configmaps",
    "DaemonSet": "daemonsets",
    "Deployment": "deployments",
    "Namespace": "namespaces",
    "Role": "roles",
    "RoleBinding": "rolebindings",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
    "StorageClass": "storageclasses",
}

# What the API server and controllers write by themselves.
_OF_OTHERS = ("creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid")
_REVISION = "deployment.kubernetes.io/revision"

Answer = TypeVar("Answer")


class Ref(NamedTuple):
    """Which object: ``namespace`` is empty for one of the whole cluster."""

    api_version: str
    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"

    @property
    def path(self) -> str:
        """Its path in the API. Raises DevenvError ``objects_refused`` for a kind that is not known here."""
        if self.kind not in PLURALS:
            raise DevenvError("objects_refused", f"{self}: known kinds are {', '.join(PLURALS)}")
        base = f"/api/{self.api_version}" if "/" not in self.api_version else f"/apis/{self.api_version}"
        where = f"/namespaces/{self.namespace}" if self.namespace else ""
        return f"{base}{where}/{PLURALS[self.kind]}/{self.name}"


@dataclass
class Outcome:
    """What was written and removed, or would be; ``differences`` are (object, before, after), None for none."""

    changed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    differences: list[tuple[str, Json | None, Json | None]] = field(default_factory=list)


def ref_of(item: Mapping[str, Any]) -> Ref:
    """The Ref of an object. Raises DevenvError ``objects_refused`` when it has no kind or name."""
    try:
        metadata = item["metadata"]
        return Ref(
            str(item["apiVersion"]), str(item["kind"]), str(metadata.get("namespace", "")), str(metadata["name"])
        )
    except (KeyError, TypeError, AttributeError):
        raise DevenvError("objects_refused", "an object lacks apiVersion, kind or metadata.name") from None


def labelled(item: Mapping[str, Any], name: str) -> Json:
    """A copy of ``item`` with the labels of the set ``name``."""
    marked: Json = copy.deepcopy(dict(item))
    labels = marked["metadata"].setdefault("labels", {})
    labels.update({SET: name, MANAGED: MANAGER})
    return marked


def shown(item: Json | None) -> Json | None:
    """What of an object is to be compared: all but status and what the API writes by itself."""
    if item is None:
        return None
    metadata = {key: value for key, value in item["metadata"].items() if key not in _OF_OTHERS}
    annotations = {key: text for key, text in (metadata.pop("annotations", None) or {}).items() if key != _REVISION}
    if annotations:
        metadata["annotations"] = annotations
    return {key: value for key, value in item.items() if key not in ("status", "metadata")} | {"metadata": metadata}


def converge(
    api: client.Api, name: str, wanted: Sequence[Mapping[str, Any]], *, timeout: float = 60, check: bool = False
) -> Outcome:
    """Make the set ``name`` what ``wanted`` says: objects applied in their order, those that left removed in reverse.

    Nothing is written when one of them is there and not of this set. A request that gets no answer, or is to come
    again, is repeated for up to ``timeout`` seconds in all. With ``check`` the API is asked what it would do. Raises
    DevenvError ``objects_refused`` or ``api_unreachable``.
    """
    ask = _Patient(api, time.monotonic() + (0 if check else timeout))
    members = {ref_of(item): labelled(item, name) for item in wanted}
    if len(members) < len(wanted):
        raise DevenvError("objects_refused", f"the set {name} names an object twice")
    record = _Record(ask, name)
    live = {ref: ask.get(ref) for ref in members}
    _refuse_strangers(live, name)
    outcome = Outcome()
    if not check:
        # A run that is killed from here on leaves a list that has everything.
        record.write([*record.members, *(ref for ref in members if ref not in record.members)])
    for ref, item in members.items():
        _apply(ask, ref, item, live[ref], outcome, check=check)
    for ref in reversed([ref for ref in record.before if ref not in members]):
        _remove(ask, ref, name, outcome, check=check)
    if not check:
        record.write(list(members))
    return outcome


def fingerprint(api: client.Api, name: str) -> dict[str, str]:
    """A digest of each object on record of the set ``name`` as it is now, empty for one that is not there; equal as
    long as nobody writes what `converge` would write back. Raises DevenvError as `converge`.
    """
    ask = _Patient(api, 0)
    record = _Record(ask, name)
    found = {str(ref): shown(ask.get(ref)) for ref in record.members}
    return {ref: _digest(item) if item else "" for ref, item in found.items()}


def _digest(item: Json) -> str:
    return hashlib.sha256(json.dumps(item, sort_keys=True).encode()).hexdigest()


def _refuse_strangers(live: Mapping[Ref, Json | None], name: str) -> None:
    others = [
        str(ref)
        for ref, item in live.items()
        if item is not None and (item["metadata"].get("labels") or {}).get(SET) != name
    ]
    if others:
        raise DevenvError("objects_refused", f"there already, made by someone else: {', '.join(others)}")


def _apply(ask: _Patient, ref: Ref, item: Json, before: Json | None, outcome: Outcome, *, check: bool) -> None:
    after = ask.apply(ref, item, dry_run=check)
    if shown(before) != shown(after):
        outcome.changed.append(str(ref))
        outcome.differences.append((str(ref), shown(before), shown(after)))


def _remove(ask: _Patient, ref: Ref, name: str, outcome: Outcome, *, check: bool) -> None:
    there = ask.get(ref)
    if there is None or (there["metadata"].get("labels") or {}).get(SET) != name:
        return
    if not check:
        ask.delete(ref)
    outcome.removed.append(str(ref))
    outcome.differences.append((str(ref), shown(there), None))


class _Record:
    """The ConfigMap that lists a set's members; gone with the last of them."""

    def __init__(self, ask: _Patient, name: str) -> None:
        self._ask, self._name = ask, name
        self._ref = Ref("v1", "ConfigMap", SYSTEM, f"devenv-{name}")
        found = ask.get(self._ref)
        self._there = found is not None
        self.before = _parse(found)
        self.members = list(self.before)

    def write(self, members: list[Ref]) -> None:
        if members == self.members and self._there == bool(members):
            return
        if members:
            text = json.dumps(members, separators=(",", ":"))
            item = {
                "apiVersion": self._ref.api_version,
                "kind": self._ref.kind,
                "metadata": {"name": self._ref.name, "namespace": self._ref.namespace},
                "data": {"objects": text},
            }
            self._ask.apply(self._ref, labelled(item, self._name), dry_run=False)
        else:
            self._ask.delete(self._ref)
        self.members, self._there = members, bool(members)


def _parse(found: Json | None) -> list[Ref]:
    """Members that a record lists; none when it is not there or unreadable."""
    try:
        rows = json.loads((found or {}).get("data", {}).get("objects", "[]"))
        return [Ref(*(str(part) for part in row)) for row in rows]
    except (ValueError, TypeError, AttributeError):
        return []


class _Patient:
    """Requests that are repeated while the API does not answer or asks to come again, until ``deadline``."""

    def __init__(self, api: client.Api, deadline: float) -> None:
        self._api, self._deadline = api, deadline

    def get(self, ref: Ref) -> Json | None:
        try:
            return self._try(ref, lambda: self._api.get(ref.path))
        except client.ApiError as error:
            if error.status == 404:
                return None
            raise DevenvError("objects_refused", f"{ref}: {error}") from error

    def apply(self, ref: Ref, item: Json, *, dry_run: bool) -> Json:
        try:
            return self._try(ref, lambda: self._api.apply(ref.path, item, MANAGER, dry_run=dry_run))
        except client.ApiError as error:
            raise DevenvError("objects_refused", f"{ref}: {error}") from error

    def delete(self, ref: Ref) -> None:
        try:
            self._try(ref, lambda: self._api.delete(ref.path))
        except client.ApiError as error:
            raise DevenvError("objects_refused", f"{ref}: {error}") from error

    def _try(self, ref: Ref, request: Callable[[], Answer]) -> Answer:
        while True:
            try:
                return request()
            except client.ApiUnreachable as error:
                if time.monotonic() >= self._deadline:
                    raise DevenvError("api_unreachable", str(error), where=str(ref)) from error
            except client.ApiError as error:
                # Too many requests, a leader that changes, a webhook or an API behind it that starts.
                if (error.status not in (409, 429) and error.status < 500) or time.monotonic() >= self._deadline:
                    raise
            time.sleep(POLL)
