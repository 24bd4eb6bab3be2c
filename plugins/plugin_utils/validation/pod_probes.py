"""Check with real pods what applications need: DNS, other pods, Services, the API. One pod per node, in parallel.

The pods run ``roles/validate/files/probe.sh``, which prints one line per result; this module creates them, reads their
logs and removes them.
"""

from __future__ import annotations

import secrets

from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client, services
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.client import Json
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.clusters import Cluster, by_node
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.readiness import warnings
from ansible_collections.devenv.lab.plugins.plugin_utils.validation import probe_pods, probe_results
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.levels import Finding, Level, problems
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.probe_pods import (
    LABEL,
    NAMESPACE,
    SERVICE,
    Plan,
    ProbeImage,
)
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.probe_results import ProbeState


class Probes(Level):
    """The checks of probe pods. ``look`` takes the next possible step and returns the current findings."""

    def __init__(self, cluster: Cluster, image: ProbeImage, limit: float, domain: str) -> None:
        self._cluster = cluster
        self._name = f"{NAMESPACE}{secrets.token_hex(3)}"
        self._image = image
        self._limit = int(limit)
        self._domain = domain
        self._script = probe_pods.SCRIPT.read_text()
        self._plan: Plan | None = None
        self._cordoned: list[str] = []
        self._addresses: dict[str, list[str]] = {}
        self._prepared = 0
        self._states: dict[str, ProbeState] = {}
        self._created: set[str] = set()
        self._has_namespace = False

    def look(self, api: client.Api) -> dict[str, Finding]:
        trouble, hopeless = "", False
        try:
            self._step(api)
        except client.ApiError as error:
            # 422: the API will never accept this object, such as a Service of a family that the cluster lacks.
            trouble, hopeless = str(error), error.status == 422
        except client.ApiUnreachable as error:
            trouble = f"the API does not answer: {error}"
        plan = self._plan
        if plan is None or SERVICE not in self._addresses:
            is_alone = len(self._cluster.nodes) - len(self._cordoned) < 2
            text = trouble or "not created yet"
            names = probe_results.check_names(self._cluster.families, is_alone)
            return {name: Finding(text, (text,), hopeless) for name in names}
        pods = probe_results.check_pods(self._states, self._cordoned)
        if trouble and pods.missing:
            pods = Finding(pods.seen, (trouble, *pods.missing), hopeless or pods.hopeless)
        return {
            "probe_pods": pods,
            "pod_families": probe_results.check_families(self._states, self._cluster.families),
            **{
                name: probe_results.check_results(results, plan, self._states)
                for name, results in probe_results.expected_results(plan, self._addresses).items()
            },
        }

    def explain(self, api: client.Api) -> dict[str, str]:
        return {"probe_pods": problems(warnings(api, self._name))}

    @property
    def namespace(self) -> str:
        """The namespace of the pods; empty until it exists."""
        return self._name if self._plan is not None else ""

    def remove(self, api: client.Api) -> None:
        """Remove the namespace without waiting."""
        if self._has_namespace:
            api.delete(f"/api/v1/namespaces/{self._name}")

    def _step(self, api: client.Api) -> None:
        plan = self._plan or self._begin(api)
        for path, body in probe_pods.preparation(plan)[self._prepared :]:
            item = create(api, path, body)
            if body["metadata"]["name"] == SERVICE and path.endswith("/services"):
                self._addresses[SERVICE] = services.addresses(item)
            self._prepared += 1
        base = f"/api/v1/namespaces/{plan.namespace}/pods"
        for node, state in self._states.items():
            if node not in self._created:
                # Rejected (403) until the controller manager has created the namespace's service account.
                create(api, base, probe_pods.pod(plan, node, self._script, self._addresses))
                self._created.add(node)
                state.trouble = "is new"
        pods = {item["metadata"]["name"]: item for item in api.get(base)["items"]}
        for node, state in self._states.items():
            if state.ended:
                continue
            state.update(pods.get(plan.pod(node)))
            if state.has_log:
                try:
                    log = api.text(f"{base}/{plan.pod(node)}/log")
                    state.results, state.ended = probe_results.parse_log(log)
                except client.ApiError as error:
                    state.trouble = f"its log cannot be read: {error}"

    def _begin(self, api: client.Api) -> Plan:
        """Create the namespace and choose the nodes. Namespaces of killed runs are removed: the environment's lock
        excludes other runs.
        """
        for leftover in api.get("/api/v1/namespaces", {"labelSelector": LABEL})["items"]:
            if leftover["metadata"]["name"] != self._name:
                api.delete(f"/api/v1/namespaces/{leftover['metadata']['name']}")
        nodes = by_node(api.get("/api/v1/nodes")["items"], self._cluster)
        names = [node.name for node in self._cluster.nodes]
        self._cordoned = [name for name in names if nodes.get(name, {}).get("spec", {}).get("unschedulable")]
        kubernetes = api.get("/api/v1/namespaces/default/services/kubernetes")
        self._addresses["kubernetes"] = services.addresses(kubernetes)
        self._has_namespace = True
        create(api, "/api/v1/namespaces", {"metadata": {"name": self._name, "labels": {LABEL: "true"}}})
        self._plan = Plan(
            namespace=self._name,
            image=self._image,
            limit=self._limit,
            domain=self._domain,
            families=self._cluster.families,
            nodes=tuple(name for name in names if name not in self._cordoned),
            registered={name: node["metadata"]["name"] for name, node in nodes.items()},
        )
        self._states = {node: ProbeState() for node in self._plan.nodes}
        return self._plan


def create(api: client.Api, path: str, body: Json) -> Json:
    """Create an object and return it; if it exists, because an answer was lost, return that one."""
    try:
        return api.create(path, body)
    except client.ApiError as error:
        if error.reason != "AlreadyExists":
            raise
        return api.get(f"{path}/{body['metadata']['name']}")
