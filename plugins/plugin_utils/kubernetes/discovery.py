"""The resources of an API: the plural of each kind in paths, and whether its objects have a namespace.

Source: the documents of API discovery (``APIResourceList``, ``APIGroupList``;
https://kubernetes.io/docs/concepts/overview/kubernetes-api/#unaggregated-discovery).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.client import Json

DEFINITION = ("apiextensions.k8s.io/v1", "CustomResourceDefinition")


class Resource(NamedTuple):
    """The plural of a kind in paths, and whether its objects have a namespace."""

    plural: str
    namespaced: bool


def base_path(api_version: str) -> str:
    """Return the path of a group version; the core group has no name."""
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


def defined(definition: Mapping[str, Any]) -> dict[tuple[str, str], Resource]:
    """Return the resource of each apiVersion and kind that a CustomResourceDefinition serves.

    Raises DevenvError ``objects_refused`` if a key is missing.
    """
    try:
        spec = definition["spec"]
        resource = Resource(str(spec["names"]["plural"]), spec["scope"] == "Namespaced")
        versions = [str(version["name"]) for version in spec["versions"] if version["served"]]
        return {(f"{spec['group']}/{version}", str(spec["names"]["kind"])): resource for version in versions}
    except (KeyError, TypeError) as error:
        name = definition["metadata"]["name"]
        raise DevenvError("objects_refused", f"CustomResourceDefinition {name} lacks {error}") from None


class Discovery:
    """The resources of one API. ``get`` returns the document at a path, None if there is none; it is called once per
    group version.
    """

    def __init__(self, get: Callable[[str], Json | None]) -> None:
        self._get = get
        self._kinds: dict[str, dict[str, Resource]] = {}

    def resource(self, api_version: str, kind: str) -> Resource:
        """Return the resource of a kind. Raises DevenvError ``objects_refused`` for one that the API does not have."""
        if api_version not in self._kinds:
            document = self._get(base_path(api_version))
            if document is None:
                raise _refusal(f"no {api_version}", self._versions(api_version.rpartition("/")[0]))
            self._kinds[api_version] = {
                str(row["kind"]): Resource(str(row["name"]), bool(row["namespaced"]))
                for row in document["resources"]
                # Without subresources, such as deployments/scale.
                if "/" not in row["name"]
            }
        kinds = self._kinds[api_version]
        if kind not in kinds:
            raise _refusal(f"no kind {kind} in {api_version}", difflib.get_close_matches(kind, kinds, n=1))
        return kinds[kind]

    def _versions(self, group: str) -> list[str]:
        groups = (self._get("/apis") or {}).get("groups", [])
        return [version["groupVersion"] for row in groups if row["name"] == group for version in row["versions"]]


def _refusal(problem: str, alternatives: list[str]) -> DevenvError:
    return DevenvError(
        "objects_refused",
        f"the API of the cluster has {problem}" + (f", but {', '.join(alternatives)}" if alternatives else ""),
        advice="kubectl api-resources lists the kinds; the set itself can include a CustomResourceDefinition.",
    )
