"""Sets of Kubernetes objects: apply them together, and prune objects that leave the set.

Objects are applied on the server, so the API reports what changed. Members of a set carry two labels; the ConfigMap
``devenv-<set>`` in kube-system lists them, since no single request finds objects of all kinds by label.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from ansible_collections.devenv.lab.plugins.plugin_utils.core import wait
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client, discovery
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.client import Json
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.discovery import Discovery, Resource

SET = "devenv.lab/set"
MANAGED = "app.kubernetes.io/managed-by"
MANAGER = "devenv"
SYSTEM = "kube-system"
POLL = 0.2

# Fields that the API server and controllers write.
_SERVER_FIELDS = ("creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid")
_REVISION = "deployment.kubernetes.io/revision"

T = TypeVar("T")


class Ref(NamedTuple):
    """A reference to an object; ``namespace`` is empty for a cluster-scoped one."""

    api_version: str
    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"

    def path(self, plural: str) -> str:
        """Return its path in the API; ``plural`` is that of its kind."""
        namespace = f"/namespaces/{self.namespace}" if self.namespace else ""
        return f"{discovery.base_path(self.api_version)}{namespace}/{plural}/{self.name}"


# Objects and the plurals of their kinds. The record has both, so that finding the objects needs no discovery.
Members = dict[Ref, str]


@dataclass
class ApplyOutcome:
    """Objects that were (or would be) changed or removed; ``differences`` are (object, before, after)."""

    changed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    differences: list[tuple[str, Json | None, Json | None]] = field(default_factory=list)


def ref_of(item: Mapping[str, Any]) -> Ref:
    """Return the Ref of an object. Raises DevenvError ``objects_refused`` if it has no kind or name."""
    try:
        metadata = item["metadata"]
        return Ref(
            str(item["apiVersion"]), str(item["kind"]), str(metadata.get("namespace", "")), str(metadata["name"])
        )
    except (KeyError, TypeError, AttributeError):
        raise DevenvError("objects_refused", "an object lacks apiVersion, kind or metadata.name") from None


def labelled(item: Mapping[str, Any], name: str) -> Json:
    """Return a copy of ``item`` with the labels of the set ``name``."""
    marked: Json = copy.deepcopy(dict(item))
    labels = marked["metadata"].setdefault("labels", {})
    labels.update({SET: name, MANAGED: MANAGER})
    return marked


def shown(item: Json | None) -> Json | None:
    """Return the part of an object that is compared: without its status and the fields that the API writes."""
    if item is None:
        return None
    metadata = {key: value for key, value in item["metadata"].items() if key not in _SERVER_FIELDS}
    annotations = {key: text for key, text in (metadata.pop("annotations", None) or {}).items() if key != _REVISION}
    if annotations:
        metadata["annotations"] = annotations
    return {key: value for key, value in item.items() if key not in ("status", "metadata")} | {"metadata": metadata}


class ApplySet:
    """The set ``name`` of a cluster. Requests that fail temporarily are repeated for ``timeout`` seconds in all."""

    def __init__(self, api: client.Api, name: str, timeout: float = 0) -> None:
        self._name = name
        self._requests = _Requests(api, time.monotonic() + timeout)
        self._discovery = Discovery(self._requests.get)
        self._record = _Record(self._requests, self._discovery, name)

    def converge(self, desired: Sequence[Mapping[str, Any]], *, check: bool = False) -> ApplyOutcome:
        """Apply the objects in order, CustomResourceDefinitions first; remove those that left the set, in reverse.

        Nothing is written if one of them exists and does not belong to this set. With ``check``, nothing is written at
        all: the API reports what it would do. Raises DevenvError ``objects_refused`` or ``api_unreachable``.
        """
        items, members = self._located(desired)
        live = {ref: self._requests.get(ref.path(plural), str(ref)) for ref, plural in members.items()}
        foreign = [str(ref) for ref, item in live.items() if item is not None and not self._owns(item)]
        if foreign:
            raise DevenvError("objects_refused", f"not created by this set but already exist: {', '.join(foreign)}")
        before, outcome = self._record.members, ApplyOutcome()
        if not check:
            # If the run is killed from here on, the record is complete.
            self._record.write(before | members)
        definitions = [ref for ref in items if _is_definition(ref)]
        for refs in (definitions, [ref for ref in items if ref not in definitions]):
            for ref in refs:
                if check and _needs_absent(ref, items, live):
                    after = items[ref]
                else:
                    after = self._requests.apply(ref.path(members[ref]), str(ref), items[ref], dry_run=check)
                if shown(live[ref]) != shown(after):
                    outcome.changed.append(str(ref))
                    outcome.differences.append((str(ref), shown(live[ref]), shown(after)))
            for ref in definitions if refs is definitions and not check else ():
                if str(ref) in outcome.changed or not _is_established(live[ref]):
                    self._wait_established(ref, ref.path(members[ref]), items[ref])
        for ref in reversed([ref for ref in before if ref not in members]):
            self._remove(ref, before[ref], outcome, check=check)
        if not check:
            self._record.write(members)
        return outcome

    def fingerprint(self) -> dict[str, str]:
        """Return a digest of each recorded object, empty if it is absent. It changes when anything changes that
        `converge` would restore. Raises DevenvError as `converge`.
        """
        paths = {ref: ref.path(plural) for ref, plural in self._record.members.items()}
        items = {str(ref): shown(self._requests.get(path, str(ref))) for ref, path in paths.items()}
        return {ref: _digest(item) if item else "" for ref, item in items.items()}

    def _located(self, desired: Sequence[Mapping[str, Any]]) -> tuple[dict[Ref, Json], Members]:
        """Return the labelled objects in the order in which they are applied, and their plurals."""
        defined: dict[tuple[str, str], Resource] = {}
        for item in desired:
            if _is_definition(ref_of(item)):
                defined |= discovery.defined(item)
        items: dict[Ref, Json] = {}
        members: Members = {}
        for original in sorted(desired, key=lambda item: not _is_definition(ref_of(item))):
            ref, item = ref_of(original), labelled(original, self._name)
            resource = defined.get((ref.api_version, ref.kind)) or self._discovery.resource(ref.api_version, ref.kind)
            # As in kubectl: the default namespace is "default"; a cluster-scoped object has none.
            ref = ref._replace(namespace=(ref.namespace or "default") if resource.namespaced else "")
            if not resource.namespaced:
                item["metadata"].pop("namespace", None)
            items[ref], members[ref] = item, resource.plural
        if len(members) < len(desired):
            raise DevenvError("objects_refused", f"the set {self._name} has an object twice")
        return items, members

    def _owns(self, item: Json) -> bool:
        return (item["metadata"].get("labels") or {}).get(SET) == self._name

    def _wait_established(self, ref: Ref, path: str, definition: Json) -> None:
        """Wait until this API server serves the resources of a CustomResourceDefinition."""
        collections = {
            f"{discovery.base_path(version)}/{resource.plural}"
            for (version, _kind), resource in discovery.defined(definition).items()
        }
        live: Json = {}

        def is_served() -> bool:
            nonlocal live
            live = self._requests.get(path, str(ref)) or {}
            return _is_established(live) and all(
                self._requests.get(collection, str(ref), {"limit": "1"}) for collection in collections
            )

        def failure() -> DevenvError:
            why = "; ".join(str(row.get("message", "")) for row in live.get("status", {}).get("conditions") or [])
            return DevenvError("objects_refused", f"{ref} is not established: {why or 'no status yet'}")

        wait.until(is_served, self._requests.deadline, failure, pause=POLL)

    def _remove(self, ref: Ref, plural: str, outcome: ApplyOutcome, *, check: bool) -> None:
        item = self._requests.get(ref.path(plural), str(ref))
        if item is None or not self._owns(item):
            return
        if not check:
            self._requests.delete(ref.path(plural), str(ref))
        outcome.removed.append(str(ref))
        outcome.differences.append((str(ref), shown(item), None))


def _is_definition(ref: Ref) -> bool:
    return (ref.api_version, ref.kind) == discovery.DEFINITION


def _is_established(definition: Json | None) -> bool:
    return client.condition(definition or {}, "Established").get("status") == "True"


def _needs_absent(ref: Ref, items: Mapping[Ref, Json], live: Mapping[Ref, Json | None]) -> bool:
    """Return whether the namespace or the kind of an object is part of the set and does not exist yet."""
    return any(
        live[other] is None
        and (
            (other.kind == "Namespace" and other.name == ref.namespace)
            or (_is_definition(other) and (ref.api_version, ref.kind) in discovery.defined(items[other]))
        )
        for other in items
    )


def _digest(item: Json) -> str:
    return hashlib.sha256(json.dumps(item, sort_keys=True).encode()).hexdigest()


class _Record:
    """The ConfigMap that lists a set's members; it is removed with the last one."""

    def __init__(self, requests: _Requests, kinds: Discovery, name: str) -> None:
        self._requests, self._name = requests, name
        self._ref = Ref("v1", "ConfigMap", SYSTEM, f"devenv-{name}")
        self._path = self._ref.path("configmaps")
        item = requests.get(self._path, str(self._ref))
        self._exists = item is not None
        self.members = _parse(item, kinds)

    def write(self, members: Members) -> None:
        if members == self.members and self._exists == bool(members):
            return
        if members:
            rows = json.dumps([[*ref, plural] for ref, plural in members.items()], separators=(",", ":"))
            api_version, kind, namespace, name = self._ref
            item = {"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": namespace}}
            item = labelled(item | {"data": {"objects": rows}}, self._name)
            self._requests.apply(self._path, str(self._ref), item, dry_run=False)
        else:
            self._requests.delete(self._path, str(self._ref))
        self.members, self._exists = members, bool(members)


def _parse(item: Json | None, kinds: Discovery) -> Members:
    """Return the members in a record; none if it is absent or unreadable."""
    try:
        rows = [[str(part) for part in row] for row in json.loads((item or {}).get("data", {}).get("objects", "[]"))]
        # Records of version 0.1 have no plurals.
        return {Ref(*row[:4]): row[4] if row[4:] else kinds.resource(row[0], row[1]).plural for row in rows}
    except (ValueError, TypeError, AttributeError, IndexError):
        return {}


class _Requests:
    """Requests that are repeated until ``deadline`` while they fail temporarily. ``where`` is the object, or the path,
    that an error names.
    """

    def __init__(self, api: client.Api, deadline: float) -> None:
        self._api, self.deadline = api, deadline

    def get(self, path: str, where: str = "", query: Mapping[str, str] | None = None) -> Json | None:
        """Return the object at ``path``, None if it is absent."""

        def find() -> Json | None:
            try:
                return self._api.get(path, query)
            except client.ApiError as error:
                if error.status == 404:
                    return None
                raise

        return self._try(where or path, find)

    def apply(self, path: str, where: str, item: Json, *, dry_run: bool) -> Json:
        return self._try(where, lambda: self._api.apply(path, item, MANAGER, dry_run=dry_run))

    def delete(self, path: str, where: str) -> None:
        self._try(where, lambda: self._api.delete(path))

    def _try(self, where: str, request: Callable[[], T]) -> T:
        results: list[T] = []
        failures: list[DevenvError] = []

        def is_answered() -> bool:
            try:
                results.append(request())
            except client.ApiUnreachable as error:
                failures.append(DevenvError("api_unreachable", str(error), where=where))
            except client.ApiError as error:
                failures.append(DevenvError("objects_refused", f"{where}: {error}"))
                # Too many requests, a change of leader, or a webhook or aggregated API that starts.
                if error.status not in (409, 429) and error.status < 500:
                    raise failures[-1] from error
            return bool(results)

        wait.until(is_answered, self.deadline, lambda: failures[-1], pause=POLL)
        return results[0]
