"""Sets of objects: apply, ownership, prune; API discovery; the objects of the add-ons."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import jinja2
import pytest
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import versions
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client, discovery, objects
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.objects import Ref

ROLE = Path(__file__).resolve().parents[2] / "roles" / "cluster_addons"
RECORD = "/api/v1/namespaces/kube-system/configmaps/devenv-x"
RECORD_REF = Ref("v1", "ConfigMap", "kube-system", "devenv-x")
Row = dict[str, Any]


def resources(group_version: str, *rows: tuple[str, str, bool]) -> Row:
    """Return a discovery document (name, kind, namespaced) in the form of the API, with subresources of each row."""
    listed: list[Row] = []
    for name, kind, namespaced in rows:
        listed.append(
            {
                "name": name,
                "singularName": kind.lower(),
                "namespaced": namespaced,
                "kind": kind,
                "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
                "storageVersionHash": "rEgLpWtSRcQ=",
            }
        )
        for part, of in (("status", kind), ("scale", "Scale")):
            row = {"name": f"{name}/{part}", "singularName": "", "namespaced": namespaced, "kind": of}
            listed.append(row | {"verbs": ["get", "patch", "update"]})
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": listed}


DOCUMENTS = {
    "/api/v1": resources(
        "v1",
        ("configmaps", "ConfigMap", True),
        ("namespaces", "Namespace", False),
        ("serviceaccounts", "ServiceAccount", True),
        ("services", "Service", True),
    ),
    "/apis/apps/v1": resources("apps/v1", ("deployments", "Deployment", True), ("daemonsets", "DaemonSet", True)),
    "/apis/rbac.authorization.k8s.io/v1": resources(
        "rbac.authorization.k8s.io/v1",
        ("clusterroles", "ClusterRole", False),
        ("clusterrolebindings", "ClusterRoleBinding", False),
        ("roles", "Role", True),
        ("rolebindings", "RoleBinding", True),
    ),
    "/apis/storage.k8s.io/v1": resources("storage.k8s.io/v1", ("storageclasses", "StorageClass", False)),
    "/apis/apiregistration.k8s.io/v1": resources("apiregistration.k8s.io/v1", ("apiservices", "APIService", False)),
    "/apis/apiextensions.k8s.io/v1": resources(
        "apiextensions.k8s.io/v1", ("customresourcedefinitions", "CustomResourceDefinition", False)
    ),
}


class Api:
    """A store of objects by path that discovers and applies as the API does.

    ``wrong`` are errors that the next writes meet. A CustomResourceDefinition is established once it was read
    ``slow`` times.
    """

    def __init__(self) -> None:
        self.objects: dict[str, Row] = {}
        self.written: list[str] = []
        self.wrong: list[Exception] = []
        self.discovered: list[str] = []
        self.slow = 2

    def get(self, path: str, query: dict[str, str] | None = None) -> Row:
        if path in ("/apis", *(self.documents())):
            self.discovered.append(path)
            return self.groups() if path == "/apis" else self.documents()[path]
        if path in self.served():
            assert query == {"limit": "1"}
            return {"kind": "List", "items": []}
        if path not in self.objects:
            raise client.ApiError(404, "NotFound", f"{path} not found")
        stored = self.objects[path]
        if stored["kind"] == "CustomResourceDefinition":
            stored["status"]["reads"] += 1
            ready = str(stored["status"]["reads"] > self.slow)
            stored["status"]["conditions"] = [{"type": "Established", "status": ready, "message": "is being checked"}]
        return copy.deepcopy(stored)

    def documents(self) -> dict[str, Row]:
        """Discovery documents, with those of the kinds that are established."""
        documents = dict(DOCUMENTS)
        for stored in self.objects.values():
            if client.condition(stored, "Established").get("status") == "True":
                names, group = stored["spec"]["names"], stored["spec"]["group"]
                row = (names["plural"], names["kind"], stored["spec"]["scope"] == "Namespaced")
                documents |= {
                    f"/apis/{group}/{v['name']}": resources(f"{group}/{v['name']}", row)
                    for v in stored["spec"]["versions"]
                }
        return documents

    def served(self) -> set[str]:
        """Paths of all collections."""
        return {f"{base}/{row['name']}" for base, document in self.documents().items() for row in document["resources"]}

    def groups(self) -> Row:
        """The document of all groups."""
        versions: dict[str, list[str]] = {}
        for path in self.documents():
            group, _slash, version = path.removeprefix("/apis/").partition("/")
            if path != "/api/v1":
                versions.setdefault(group, []).append(version)
        rows = [
            {
                "name": group,
                "versions": [{"groupVersion": f"{group}/{version}", "version": version} for version in names],
            }
            for group, names in versions.items()
        ]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": rows}

    def apply(self, path: str, body: Row, manager: str, *, dry_run: bool = False) -> Row:
        assert manager == "devenv"
        if self.wrong:
            raise self.wrong.pop(0)
        collection = re.sub(r"/namespaces/[^/]+(?=/.+/)", "", path).rpartition("/")[0]
        if collection not in self.served():
            raise client.ApiError(404, "NotFound", "the server could not find the requested resource")
        before = self.objects.get(path, {})
        after = copy.deepcopy(body)
        after["metadata"] |= {"uid": "1", "resourceVersion": str(len(self.written)), "managedFields": []}
        after["status"] = {"seen": len(self.written), "reads": 0}
        if not dry_run and objects.shown(before or None) != objects.shown(after):
            self.objects[path] = after
            self.written.append(f"apply {path}")
        return after

    def delete(self, path: str) -> None:
        self.objects.pop(path, None)
        self.written.append(f"delete {path}")


def item(name: str, kind: str = "ConfigMap", namespace: str = "kube-system", **more: Any) -> Row:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}, **more}


def path(name: str) -> str:
    return f"/api/v1/namespaces/kube-system/configmaps/{name}"


def fingerprint(api: Api) -> dict[str, str]:
    return objects.ApplySet(cast(client.Api, api), "x").fingerprint()


def converge(api: Api, *desired: Row, check: bool = False, timeout: float = 5) -> objects.ApplyOutcome:
    return objects.ApplySet(cast(client.Api, api), "x", timeout).converge(desired, check=check)


@pytest.mark.parametrize(
    ("ref", "plural", "expected"),
    [
        (Ref("v1", "ConfigMap", "a", "b"), "configmaps", "/api/v1/namespaces/a/configmaps/b"),
        (Ref("v1", "Namespace", "", "b"), "namespaces", "/api/v1/namespaces/b"),
        (Ref("apps/v1", "Deployment", "a", "b"), "deployments", "/apis/apps/v1/namespaces/a/deployments/b"),
    ],
)
def test_a_reference_gives_the_path_of_its_object(ref: Ref, plural: str, expected: str) -> None:
    assert ref.path(plural) == expected


def test_a_set_is_created_unchanged_and_removed() -> None:
    api = Api()
    first = converge(api, item("a", data={"k": "1"}), item("b"))
    assert first.changed == ["ConfigMap kube-system/a", "ConfigMap kube-system/b"]
    assert [row[1] for row in first.differences] == [None, None]
    assert api.written == [f"apply {RECORD}", f"apply {path('a')}", f"apply {path('b')}"], "the list comes first"
    assert api.objects[path("a")]["metadata"]["labels"] == {
        "devenv.lab/set": "x",
        "app.kubernetes.io/managed-by": "devenv",
    }

    api.written.clear()
    again = converge(api, item("a", data={"k": "1"}), item("b"))
    assert (again.changed, again.removed, again.differences, api.written) == ([], [], [], [])

    changed = converge(api, item("a", data={"k": "2"}), item("b"))
    assert changed.changed == ["ConfigMap kube-system/a"]
    ((name, before, after),) = changed.differences
    assert before is not None
    assert after is not None
    assert (name, before["data"], after["data"]) == ("ConfigMap kube-system/a", {"k": "1"}, {"k": "2"})
    assert before["metadata"].keys() == {"name", "namespace", "labels"}

    api.written.clear()
    gone = converge(api)
    assert gone.removed == ["ConfigMap kube-system/b", "ConfigMap kube-system/a"]
    assert api.objects == {}
    assert api.written == [f"delete {path('b')}", f"delete {path('a')}", f"delete {RECORD}"]
    assert converge(api).removed == []


def test_only_objects_that_left_the_set_are_removed() -> None:
    api = Api()
    converge(api, item("a"), item("b"))
    outcome = converge(api, item("b"), item("c"))
    assert (outcome.changed, outcome.removed) == (["ConfigMap kube-system/c"], ["ConfigMap kube-system/a"])
    rows = json.loads(api.objects[RECORD]["data"]["objects"])
    assert [row[3] for row in rows] == ["b", "c"]


def test_objects_outside_the_set_are_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api()
    api.objects[path("a")] = item("a", data={"theirs": "1"})
    with pytest.raises(DevenvError, match="already exist: ConfigMap kube-system/a") as caught:
        converge(api, item("b"), item("a"))
    assert (caught.value.reason.id, caught.value.exit_code) == ("objects_refused", 6)
    assert api.written == [], "nothing is written at all"

    # Recreated by another program.
    converge(api, item("b"))
    api.objects[path("b")] = item("b", data={"theirs": "1"})
    assert converge(api).removed == []
    assert path("b") in api.objects


def test_check_writes_nothing() -> None:
    api = Api()
    assert converge(api, item("a"), check=True).changed == ["ConfigMap kube-system/a"]
    assert api.written == []
    converge(api, item("a"))
    api.written.clear()
    assert converge(api, item("a"), check=True).changed == []
    assert converge(api, item("a", data={"k": "1"}), check=True).changed == ["ConfigMap kube-system/a"]
    assert converge(api, check=True).removed == ["ConfigMap kube-system/a"]
    assert api.written == []


@pytest.mark.parametrize("killed_after", range(4))
def test_the_next_run_completes_a_killed_one(killed_after: int) -> None:
    class Killed(BaseException):
        pass

    class Dying(Api):
        remaining = killed_after

        def _count(self) -> None:
            if self.remaining == 0:
                raise Killed
            self.remaining -= 1

        def apply(self, path: str, body: Row, manager: str, *, dry_run: bool = False) -> Row:
            self._count()
            return super().apply(path, body, manager, dry_run=dry_run)

        def delete(self, path: str) -> None:
            self._count()
            super().delete(path)

    api = Api()
    converge(api, item("a"))
    dying = Dying()
    dying.objects = api.objects
    with pytest.raises(Killed):
        converge(dying, item("b"), item("c"))
    converge(api)
    assert api.objects == {}, "everything that was created is on the list"


@pytest.mark.parametrize(
    "error",
    [client.ApiUnreachable("cut"), client.ApiError(503, "", "starts"), client.ApiError(409, "Conflict", "again")],
)
def test_temporary_failures_are_repeated(error: Exception) -> None:
    api = Api()
    api.wrong = [error]
    assert converge(api, item("a")).changed == ["ConfigMap kube-system/a"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (client.ApiUnreachable("cut"), "api_unreachable"),
        (client.ApiError(422, "Invalid", "no"), "objects_refused"),
        (client.ApiError(503, "", "starts"), "objects_refused"),
    ],
)
def test_permanent_failures_and_timeouts_have_a_reason(error: Exception, reason: str) -> None:
    api = Api()
    api.wrong = [error]
    with pytest.raises(DevenvError) as caught:
        converge(api, item("a"), timeout=0)
    assert caught.value.reason.id == reason


@pytest.mark.parametrize(
    "desired", [[{}], [{"kind": "X", "apiVersion": "v1", "metadata": {}}], [item("a", kind="Pod")], [item("a")] * 2]
)
def test_invalid_objects_are_refused(desired: list[Row]) -> None:
    with pytest.raises(DevenvError) as caught:
        converge(Api(), *desired)
    assert caught.value.reason.id == "objects_refused"


def test_an_unreadable_record_is_rewritten() -> None:
    api = Api()
    converge(api, item("a"))
    api.objects[RECORD]["data"]["objects"] = "{"
    converge(api, item("a"))
    assert [row[3] for row in json.loads(api.objects[RECORD]["data"]["objects"])] == ["a"]


# --- discovery and custom resources


WIDGETS = "/apis/example.org/v1/namespaces/kube-system/widgets"
DEFINITION = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.org"


def definition(scope: str = "Namespaced") -> Row:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.org"},
        "spec": {
            "group": "example.org",
            "scope": scope,
            "names": {"kind": "Widget", "plural": "widgets"},
            "versions": [
                {"name": "v1", "served": True, "storage": True},
                {"name": "v1alpha1", "served": False, "storage": False},
            ],
        },
    }


def widget(name: str = "one", version: str = "v1", **metadata: str) -> Row:
    return {"apiVersion": f"example.org/{version}", "kind": "Widget", "metadata": {"name": name, **metadata}}


def test_each_group_version_in_use_is_discovered_once() -> None:
    api = Api()
    role = item("r", "ClusterRole") | {"apiVersion": "rbac.authorization.k8s.io/v1"}
    converge(api, item("a"), item("b"), item("s", kind="Service"), role)
    assert api.discovered == ["/api/v1", "/apis/rbac.authorization.k8s.io/v1"]
    assert "/apis/rbac.authorization.k8s.io/v1/clusterroles/r" in api.objects, "it belongs to the whole cluster"
    api.discovered.clear()
    fingerprint(api)
    assert api.discovered == [], "the record knows where its members are"


def test_an_object_without_a_namespace_is_in_default() -> None:
    api = Api()
    row = item("a")
    del row["metadata"]["namespace"]
    assert converge(api, row).changed == ["ConfigMap default/a"]
    assert converge(api).removed == ["ConfigMap default/a"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (item("a", kind="ConfgMap"), "no kind ConfgMap in v1, but ConfigMap"),
        (item("a", kind="Scale") | {"apiVersion": "apps/v1"}, "no kind Scale in apps/v1"),
        (item("a") | {"apiVersion": "apps/v1beta1"}, "no apps/v1beta1, but apps/v1"),
        (widget(), "no example.org/v1"),
    ],
)
def test_a_kind_that_the_api_does_not_have_is_refused_before_anything_is_written(row: Row, words: str) -> None:
    api = Api()
    with pytest.raises(DevenvError, match=words) as caught:
        converge(api, item("b"), row)
    assert caught.value.reason.id == "objects_refused"
    assert "CustomResourceDefinition" in caught.value.advice
    assert api.written == []


@pytest.mark.parametrize(("scope", "namespace"), [("Namespaced", "/namespaces/kube-system"), ("Cluster", "")])
def test_a_definition_is_established_before_its_resources_are_applied(scope: str, namespace: str) -> None:
    api = Api()
    rows = [widget(namespace="kube-system"), item("a"), definition(scope)]
    path_of_widget = f"/apis/example.org/v1{namespace}/widgets/one"
    converge(api, *rows)
    assert api.written == [f"apply {RECORD}", f"apply {DEFINITION}", f"apply {path_of_widget}", f"apply {path('a')}"]
    reads = api.objects[DEFINITION]["status"]["reads"]
    again = converge(api, *rows)
    assert (again.changed, again.removed) == ([], [])
    assert api.objects[DEFINITION]["status"]["reads"] == reads + 1, "nothing is waited for again"
    assert set(fingerprint(api).values()) != {""}
    api.written.clear()
    converge(api, definition(scope))
    assert api.written[:2] == [f"delete {path('a')}", f"delete {path_of_widget}"]
    converge(api, *rows)
    api.written.clear()
    converge(api)
    assert api.written.index(f"delete {path_of_widget}") < api.written.index(f"delete {DEFINITION}")
    assert api.objects == {}


def test_resources_of_a_definition_outside_the_set_are_applied() -> None:
    api = Api()
    api.objects[DEFINITION] = definition() | {"status": {"reads": 9}}
    api.get(DEFINITION)
    assert converge(api, widget(namespace="kube-system")).changed == ["Widget kube-system/one"]
    del api.objects[DEFINITION], api.objects[f"{WIDGETS}/one"]
    assert converge(api).removed == [], "the kind is gone, and the widget with it"
    assert RECORD not in api.objects


def test_a_definition_that_is_not_established_in_time_is_named() -> None:
    api = Api()
    api.slow = 10**6
    with pytest.raises(DevenvError, match=r"widgets\.example\.org is not established: is being checked"):
        converge(api, definition(), widget(), timeout=0)
    assert not any("widgets/one" in text for text in api.written)


@pytest.mark.parametrize("broken", [{"spec": {}}, {"spec": definition()["spec"] | {"versions": [{"name": "v1"}]}}])
def test_a_definition_that_lacks_a_key_is_refused(broken: Row) -> None:
    with pytest.raises(DevenvError, match=r"widgets\.example\.org lacks") as caught:
        converge(Api(), definition() | broken)
    assert caught.value.reason.id == "objects_refused"
    assert discovery.defined(definition()).keys() == {("example.org/v1", "Widget")}, "only what is served"


def test_check_shows_objects_of_a_new_definition_and_a_new_namespace() -> None:
    api = Api()
    rows = [item("n", "Namespace"), definition(), widget(namespace="n")]
    assert converge(api, *rows, check=True).changed == [
        "CustomResourceDefinition widgets.example.org", "Namespace n", "Widget n/one"
    ]  # fmt: skip
    assert (api.written, api.objects) == ([], {})


def test_a_record_of_an_earlier_version_is_read() -> None:
    api = Api()
    converge(api, item("a"))
    rows = json.loads(api.objects[RECORD]["data"]["objects"])
    assert rows == [["v1", "ConfigMap", "kube-system", "a", "configmaps"]]
    api.objects[RECORD]["data"]["objects"] = json.dumps([row[:4] for row in rows])
    assert converge(api).removed == ["ConfigMap kube-system/a"]


# --- the add-ons


@pytest.fixture
def rendered() -> Callable[[str], list[Row]]:
    """Objects of a template of the role, with its defaults."""

    def render(name: str) -> list[Row]:
        environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
        environment.filters["to_json"] = json.dumps
        constants = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())
        variables = {"__cluster_addons_versions": yaml.safe_load(versions.FILE.read_text())}
        images = {
            key: environment.from_string(text).render(variables)
            for key, text in constants["__cluster_addons_images"].items()
        }
        variables = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text()) | {"__cluster_addons_images": images}
        text = environment.from_string((ROLE / "templates" / name).read_text()).render(variables)
        return list(yaml.safe_load_all(text))

    return render


@pytest.mark.parametrize("template", ["storage.yml.j2", "metrics.yml.j2"])
def test_objects_of_the_add_ons_are_valid(rendered: Callable[[str], list[Row]], template: str) -> None:
    items = rendered(template)
    refs = [objects.ref_of(entry) for entry in items]
    assert len(set(refs)) == len(refs)
    api = Api()
    converge(api, *items)
    assert sorted(map(objects.ref_of, api.objects.values())) == sorted([*refs, RECORD_REF])
    accounts = {ref.name for ref in refs if ref.kind == "ServiceAccount"}
    (deployment,) = (entry for entry in items if entry["kind"] == "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] in accounts
    assert deployment["spec"]["selector"]["matchLabels"] == deployment["spec"]["template"]["metadata"]["labels"]


def test_images_of_the_add_ons_are_in_the_bundle(rendered: Callable[[str], list[Row]]) -> None:
    for version in versions.known()[1]:
        available = versions.resolve(version).images
        used = []
        for template in ("storage.yml.j2", "metrics.yml.j2"):
            for entry in rendered(template):
                if entry["kind"] == "Deployment":
                    used += [container["image"] for container in entry["spec"]["template"]["spec"]["containers"]]
                if entry["kind"] == "ConfigMap":
                    helper = yaml.safe_load(entry["data"]["helperPod.yaml"])
                    used += [container["image"] for container in helper["spec"]["containers"]]
        assert sorted(used) == sorted(
            available[short] for short in ("local-path-provisioner", "metrics-server", "probe")
        )


def test_volumes_are_in_the_configured_folder(rendered: Callable[[str], list[Row]]) -> None:
    (config,) = (entry for entry in rendered("storage.yml.j2") if entry["kind"] == "ConfigMap")
    assert json.loads(config["data"]["config.json"]) == {
        "nodePathMap": [{"node": "DEFAULT_PATH_FOR_NON_LISTED_NODES", "paths": ["/var/lib/devenv/volumes"]}]
    }


def test_a_fingerprint_changes_with_what_converge_would_write_back() -> None:
    api = Api()
    assert fingerprint(api) == {}
    converge(api, item("one", data={"a": "1"}), item("two"))
    before = fingerprint(api)
    assert set(before) == {"ConfigMap kube-system/one", "ConfigMap kube-system/two"}
    api.objects[path("one")]["status"] = {"seen": "later"}
    api.objects[path("one")]["metadata"]["resourceVersion"] = "99"
    assert fingerprint(api) == before
    api.objects[path("one")]["data"] = {"a": "2"}
    after = fingerprint(api)
    assert {ref for ref in before if before[ref] != after[ref]} == {"ConfigMap kube-system/one"}
    api.delete(path("two"))
    assert fingerprint(api)["ConfigMap kube-system/two"] == ""
