"""Sets of objects: applied, told apart from those of others, pruned; and the add-ons' own objects."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import jinja2
import pytest
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import versions
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import objects as object_sets
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.objects import Ref

ROLE = Path(__file__).resolve().parents[2] / "roles" / "cluster_addons"
RECORD = "/api/v1/namespaces/kube-system/configmaps/devenv-x"
Row = dict[str, Any]


class Api:
    """A store of objects by path that applies as the API does; ``wrong`` are errors that the next writes meet."""

    def __init__(self) -> None:
        self.objects: dict[str, Row] = {}
        self.written: list[str] = []
        self.wrong: list[Exception] = []

    def get(self, path: str) -> Row:
        if path not in self.objects:
            raise client.ApiError(404, "NotFound", f"{path} not found")
        return copy.deepcopy(self.objects[path])

    def apply(self, path: str, body: Row, manager: str, *, dry_run: bool = False) -> Row:
        assert manager == "devenv"
        if self.wrong:
            raise self.wrong.pop(0)
        before = self.objects.get(path, {})
        after = copy.deepcopy(body)
        after["metadata"] |= {"uid": "1", "resourceVersion": str(len(self.written)), "managedFields": []}
        after["status"] = {"seen": len(self.written)}
        if not dry_run and object_sets.shown(before or None) != object_sets.shown(after):
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


def converge(api: Api, *wanted: Row, check: bool = False, timeout: float = 5) -> object_sets.Outcome:
    return object_sets.converge(cast(client.Api, api), "x", wanted, check=check, timeout=timeout)


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        (Ref("v1", "ConfigMap", "a", "b"), "/api/v1/namespaces/a/configmaps/b"),
        (Ref("v1", "Namespace", "", "b"), "/api/v1/namespaces/b"),
        (Ref("apps/v1", "Deployment", "a", "b"), "/apis/apps/v1/namespaces/a/deployments/b"),
        (Ref("storage.k8s.io/v1", "StorageClass", "", "b"), "/apis/storage.k8s.io/v1/storageclasses/b"),
    ],
)
def test_paths(ref: Ref, expected: str) -> None:
    assert ref.path == expected


def test_made_then_nothing_to_do_then_gone() -> None:
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


def test_only_what_left_the_set_is_removed() -> None:
    api = Api()
    converge(api, item("a"), item("b"))
    outcome = converge(api, item("b"), item("c"))
    assert (outcome.changed, outcome.removed) == (["ConfigMap kube-system/c"], ["ConfigMap kube-system/a"])
    rows = json.loads(api.objects[RECORD]["data"]["objects"])
    assert [row[3] for row in rows] == ["b", "c"]


def test_what_someone_else_made_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api()
    api.objects[path("a")] = item("a", data={"theirs": "1"})
    with pytest.raises(DevenvError, match="someone else: ConfigMap kube-system/a") as caught:
        converge(api, item("b"), item("a"))
    assert (caught.value.reason.id, caught.value.exit_code) == ("objects_refused", 6)
    assert api.written == [], "nothing is written at all"

    # Made anew by someone after it was ours.
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
def test_a_killed_run_is_finished_by_the_next(killed_after: int) -> None:
    class Killed(BaseException):
        pass

    class Dying(Api):
        left = killed_after

        def _count(self) -> None:
            if self.left == 0:
                raise Killed
            self.left -= 1

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
    assert api.objects == {}, "everything that was made is on the list"


@pytest.mark.parametrize(
    "error",
    [client.ApiUnreachable("cut"), client.ApiError(503, "", "starts"), client.ApiError(409, "Conflict", "again")],
)
def test_requests_are_repeated(error: Exception) -> None:
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
def test_refusals_and_ends_of_patience(error: Exception, reason: str) -> None:
    api = Api()
    api.wrong = [error]
    with pytest.raises(DevenvError) as caught:
        converge(api, item("a"), timeout=0)
    assert caught.value.reason.id == reason


@pytest.mark.parametrize(
    "wanted", [[{}], [{"kind": "X", "apiVersion": "v1", "metadata": {}}], [item("a", kind="Pod")], [item("a")] * 2]
)
def test_objects_that_are_none(wanted: list[Row]) -> None:
    with pytest.raises(DevenvError) as caught:
        converge(Api(), *wanted)
    assert caught.value.reason.id == "objects_refused"


def test_an_unreadable_record_is_written_anew() -> None:
    api = Api()
    converge(api, item("a"))
    api.objects[RECORD]["data"]["objects"] = "{"
    converge(api, item("a"))
    assert [row[3] for row in json.loads(api.objects[RECORD]["data"]["objects"])] == ["a"]


# --- the add-ons


@pytest.fixture
def rendered() -> Callable[[str], list[Row]]:
    """Objects of a template of the role, with its defaults."""

    def render(name: str) -> list[Row]:
        environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
        environment.filters["to_json"] = json.dumps
        constants = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())
        found = {"__cluster_addons_versions": yaml.safe_load(versions.FILE.read_text())}
        images = {
            key: environment.from_string(text).render(found)
            for key, text in constants["__cluster_addons_images"].items()
        }
        variables = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text()) | {"__cluster_addons_images": images}
        text = environment.from_string((ROLE / "templates" / name).read_text()).render(variables)
        return list(yaml.safe_load_all(text))

    return render


@pytest.mark.parametrize("template", ["storage.yml.j2", "metrics.yml.j2"])
def test_objects_of_the_add_ons(rendered: Callable[[str], list[Row]], template: str) -> None:
    objects = rendered(template)
    refs = [object_sets.ref_of(one) for one in objects]
    assert len(set(refs)) == len(refs)
    assert all(ref.path for ref in refs)
    accounts = {ref.name for ref in refs if ref.kind == "ServiceAccount"}
    (deployment,) = (one for one in objects if one["kind"] == "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] in accounts
    assert deployment["spec"]["selector"]["matchLabels"] == deployment["spec"]["template"]["metadata"]["labels"]


def test_images_of_the_add_ons_are_in_the_bundle(rendered: Callable[[str], list[Row]]) -> None:
    for version in versions.known()[1]:
        there = versions.wanted(version).images
        used = []
        for template in ("storage.yml.j2", "metrics.yml.j2"):
            for one in rendered(template):
                if one["kind"] == "Deployment":
                    used += [container["image"] for container in one["spec"]["template"]["spec"]["containers"]]
                if one["kind"] == "ConfigMap":
                    helper = yaml.safe_load(one["data"]["helperPod.yaml"])
                    used += [container["image"] for container in helper["spec"]["containers"]]
        assert sorted(used) == sorted(there[short] for short in ("local-path-provisioner", "metrics-server", "probe"))


def test_volumes_are_made_in_the_folder_that_was_asked_for(rendered: Callable[[str], list[Row]]) -> None:
    (config,) = (one for one in rendered("storage.yml.j2") if one["kind"] == "ConfigMap")
    assert json.loads(config["data"]["config.json"]) == {
        "nodePathMap": [{"node": "DEFAULT_PATH_FOR_NON_LISTED_NODES", "paths": ["/var/lib/devenv/volumes"]}]
    }


def test_a_fingerprint_changes_with_what_converge_would_write_back() -> None:
    api = Api()
    assert object_sets.fingerprint(cast(client.Api, api), "x") == {}
    converge(api, item("one", data={"a": "1"}), item("two"))
    before = object_sets.fingerprint(cast(client.Api, api), "x")
    assert set(before) == {"ConfigMap kube-system/one", "ConfigMap kube-system/two"}
    api.objects[path("one")]["status"] = {"seen": "later"}
    api.objects[path("one")]["metadata"]["resourceVersion"] = "99"
    assert object_sets.fingerprint(cast(client.Api, api), "x") == before
    api.objects[path("one")]["data"] = {"a": "2"}
    after = object_sets.fingerprint(cast(client.Api, api), "x")
    assert {ref for ref in before if before[ref] != after[ref]} == {"ConfigMap kube-system/one"}
    api.delete(path("two"))
    assert object_sets.fingerprint(cast(client.Api, api), "x")["ConfigMap kube-system/two"] == ""
