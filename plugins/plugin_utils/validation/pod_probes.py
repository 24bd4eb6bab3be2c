"""Real pods that try what applications need: DNS, other pods, Services, the API. One pod a node, all at the same time.

The pods find out by themselves and print lines (``roles/validate/files/probe.sh``); this makes them, reads their logs
and removes them.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.client import Json
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.clusters import Cluster, by_node
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.checks import Finding, not_ready, warnings

SCRIPT = paths.COLLECTION / "roles" / "validate" / "files" / "probe.sh"
LABEL = "devenv.lab/validate"
# Begins the name of the namespace of each validation.
NAMESPACE = "devenv-validate-"
SERVICE = "probe"
PORT = 8080
# Pods of a large cluster try only so many others each: the next ones in the order of nodes.
NEIGHBOURS = 8
FAMILIES = {"ipv4": "IPv4", "ipv6": "IPv6"}
TYPES = {"ipv4": "a", "ipv6": "aaaa"}


@dataclass(frozen=True)
class Line:
    """One result line of a probe pod."""

    ok: bool
    check: str
    target: str
    seen: str


def parse_log(text: str) -> tuple[dict[tuple[str, str], Line], bool]:
    """The last result of each check and target in a pod's log, and whether the pod has tried everything.

    A line that is not complete yet, or not of the probe, is passed over.
    """
    lines: dict[tuple[str, str], Line] = {}
    ended = False
    for raw in text.splitlines():
        parts = raw.split("\t")
        if parts == ["probe", "end"]:
            ended = True
        elif len(parts) == 5 and parts[0] == "probe" and parts[1] in ("ok", "no"):
            lines[parts[2], parts[3]] = Line(parts[1] == "ok", parts[2], parts[3], parts[4].strip())
    return lines, ended


def family_of(address: str) -> str:
    return "ipv6" if ":" in address else "ipv4"


@dataclass(frozen=True)
class Plan:
    """What is tried: pods by node, and for each pod the pods that it must reach."""

    namespace: str
    image: str
    limit: int
    domain: str
    families: tuple[str, ...]
    nodes: tuple[str, ...]
    # Names of Node objects, where they are others than those of the nodes.
    registered: Mapping[str, str] = field(default_factory=dict)

    def pod(self, node: str) -> str:
        """Name of the probe pod of ``node``: also its host name, so at most 63 characters, without dots."""
        safe = re.sub(r"[^a-z0-9-]", "-", node)
        return f"probe-{self.nodes.index(node)}-{safe}"[:63].rstrip("-")

    def peers(self, node: str) -> list[str]:
        """The nodes whose pods the pod of ``node`` must reach."""
        place = self.nodes.index(node)
        return list((self.nodes[place + 1 :] + self.nodes[:place])[:NEIGHBOURS])


def preparation(plan: Plan) -> list[tuple[str, Json]]:
    """Path and body of what the pods need first: read access to pods of their namespace, the Service."""
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{plan.namespace}"
    group = "rbac.authorization.k8s.io"
    role: Json = {
        "metadata": {"name": SERVICE},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}],
    }
    binding: Json = {
        "metadata": {"name": SERVICE},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": SERVICE},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": plan.namespace}],
    }
    service: Json = {
        "metadata": {"name": SERVICE},
        "spec": {
            "selector": {LABEL: "probe"},
            "ports": [{"port": PORT}],
            "ipFamilyPolicy": "RequireDualStack" if len(plan.families) > 1 else "SingleStack",
            "ipFamilies": [FAMILIES[family] for family in plan.families],
        },
    }
    return [
        (f"{rbac}/roles", role),
        (f"{rbac}/rolebindings", binding),
        (f"/api/v1/namespaces/{plan.namespace}/services", service),
    ]


def pod(plan: Plan, node: str, script: str, addresses: Mapping[str, list[str]]) -> Json:
    """The probe pod of ``node``. ``addresses``: those of the Services ``kubernetes`` and ``probe``."""
    names = {
        "kubernetes": f"kubernetes.default.svc.{plan.domain}",
        SERVICE: f"{SERVICE}.{plan.namespace}.svc.{plan.domain}",
    }
    environment = {
        "PROBE_LIMIT": str(plan.limit),
        "PROBE_NAMESPACE": plan.namespace,
        "PROBE_API": f"{names['kubernetes']} {addresses['kubernetes'][0]}",
        "PROBE_NAMES": " ".join(
            f"{TYPES[family_of(address)]}/{names[service]}/{address}"
            for service in ("kubernetes", SERVICE)
            for address in addresses[service]
        ),
        "PROBE_PEERS": " ".join(plan.pod(peer) for peer in plan.peers(node)),
        "PROBE_SERVICES": " ".join(addresses[SERVICE]),
    }
    on_node = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [plan.registered.get(node, node)]}]}
    return {
        "metadata": {"name": plan.pod(node), "labels": {LABEL: "probe"}},
        "spec": {
            # By affinity and not by nodeName, so that the scheduler has its part in the proof.
            "affinity": {
                "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [on_node]}}
            },
            "tolerations": [{"operator": "Exists"}],
            "restartPolicy": "Never",
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 1,
            # If the controller is killed, the pods end by themselves.
            "activeDeadlineSeconds": plan.limit + 60,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "probe",
                    "image": plan.image,
                    "imagePullPolicy": "Never",
                    "args": ["sh", "-c", script],
                    "env": [{"name": name, "value": value} for name, value in environment.items()],
                    "ports": [{"containerPort": PORT}],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }


@dataclass(frozen=True)
class Wanted:
    """A result line that must be there: of the pod on ``node``; ``peer`` is the node of the pod that it must reach."""

    node: str
    check: str
    target: str
    peer: str = ""


def check_names(families: Iterable[str], alone: bool) -> list[str]:
    """Names of all checks by probe pods; ``alone``: there is one node, so no other pod to reach."""
    found = ["probe_pods", "pod_families", "pod_to_api"]
    for family in families:
        found += [f"dns_{family}", f"pod_to_service_{family}"]
        found += [] if alone else [f"pod_to_pod_{family}"]
    return found


def wanted_results(plan: Plan, addresses: Mapping[str, list[str]]) -> dict[str, list[Wanted]]:
    """Per check: every result line that must be there and ok."""
    kubernetes = f"kubernetes.default.svc.{plan.domain}"
    own = f"{SERVICE}.{plan.namespace}.svc.{plan.domain}"
    names = [(family_of(address), kubernetes) for address in addresses["kubernetes"]]
    names += [(family_of(address), own) for address in addresses[SERVICE]]
    wanted: dict[str, list[Wanted]] = {
        "pod_to_api": [Wanted(node, "api", addresses["kubernetes"][0]) for node in plan.nodes]
    }
    for family in plan.families:
        wanted[f"dns_{family}"] = [
            Wanted(node, "dns", f"{TYPES[family]} {name}")
            for node in plan.nodes
            for of_family, name in names
            if of_family == family
        ]
        wanted[f"pod_to_service_{family}"] = [Wanted(node, "service", family) for node in plan.nodes]
    # The API by its name needs DNS: what fails there is told with it, not with the way to the API.
    wanted[f"dns_{family_of(addresses['kubernetes'][0])}"] += [Wanted(node, "api", kubernetes) for node in plan.nodes]
    if len(plan.nodes) > 1:
        for family in plan.families:
            wanted[f"pod_to_pod_{family}"] = [
                Wanted(node, "pod", f"{plan.pod(peer)} {family}", peer)
                for node in plan.nodes
                for peer in plan.peers(node)
            ]
    return wanted


@dataclass
class _Seen:
    """What is known of one probe pod."""

    running: bool = False
    ended: bool = False
    trouble: str = "is not made yet"
    hopeless: bool = False
    lines: dict[tuple[str, str], Line] = field(default_factory=dict)
    families: tuple[str, ...] = ()


class Probes:
    """The level ``probes``: ``look`` takes the next step that is possible and tells how far it is."""

    def __init__(self, cluster: Cluster, image: str, limit: float, domain: str = "cluster.local") -> None:
        self._cluster = cluster
        self._namespace = f"{NAMESPACE}{secrets.token_hex(3)}"
        self._image = image
        self._limit = int(limit)
        self._domain = domain
        self._script = SCRIPT.read_text()
        self._plan: Plan | None = None
        self._cordoned: list[str] = []
        self._addresses: dict[str, list[str]] = {}
        self._prepared = 0
        self._seen: dict[str, _Seen] = {}
        self._made_namespace = False

    def look(self, api: client.Api) -> dict[str, Finding]:
        trouble, hopeless = "", False
        try:
            self._step(api)
        except client.ApiError as error:
            # 422: the API will never take this object, such as a Service of a family that the cluster has not got.
            trouble, hopeless = str(error), error.status == 422
        except client.ApiUnreachable as error:
            trouble = f"the API does not answer: {error}"
        return self._findings(trouble, hopeless)

    def explain(self, api: client.Api) -> dict[str, str]:
        return {"probe_pods": warnings(api, self._namespace)}

    @property
    def namespace(self) -> str:
        """Where the pods stand; empty while it is not made."""
        return self._namespace if self._plan is not None else ""

    def remove(self, api: client.Api) -> None:
        """Remove the namespace, without waiting for the end of it."""
        if self._made_namespace:
            api.delete(f"/api/v1/namespaces/{self._namespace}")

    def _step(self, api: client.Api) -> None:
        plan = self._plan or self._begin(api)
        for path, body in preparation(plan)[self._prepared :]:
            made = _create(api, path, body)
            if body["metadata"]["name"] == SERVICE and path.endswith("/services"):
                self._addresses[SERVICE] = made["spec"]["clusterIPs"]
            self._prepared += 1
        self._make_pods(api, plan)
        self._read(api, plan)

    def _begin(self, api: client.Api) -> Plan:
        """Remove what a killed run left, make the namespace, decide on the nodes. The environment's lock keeps others
        out."""
        for leftover in api.get("/api/v1/namespaces", {"labelSelector": LABEL})["items"]:
            if leftover["metadata"]["name"] != self._namespace:
                api.delete(f"/api/v1/namespaces/{leftover['metadata']['name']}")
        nodes = by_node(api.get("/api/v1/nodes")["items"], self._cluster)
        wanted = [node.name for node in self._cluster.nodes]
        self._cordoned = [name for name in wanted if nodes.get(name, {}).get("spec", {}).get("unschedulable")]
        kubernetes = api.get("/api/v1/namespaces/default/services/kubernetes")
        self._addresses["kubernetes"] = kubernetes["spec"]["clusterIPs"]
        self._made_namespace = True
        _create(api, "/api/v1/namespaces", {"metadata": {"name": self._namespace, "labels": {LABEL: "true"}}})
        self._plan = Plan(
            namespace=self._namespace,
            image=self._image,
            limit=self._limit,
            domain=self._domain,
            families=self._cluster.families,
            nodes=tuple(name for name in wanted if name not in self._cordoned),
            registered={name: node["metadata"]["name"] for name, node in nodes.items()},
        )
        self._seen = {node: _Seen() for node in self._plan.nodes}
        return self._plan

    def _make_pods(self, api: client.Api, plan: Plan) -> None:
        for node, seen in self._seen.items():
            if seen.trouble != "is not made yet":
                continue
            # Refused (403) until the controller manager has made the service account of the namespace.
            _create(
                api,
                f"/api/v1/namespaces/{plan.namespace}/pods",
                pod(plan, node, self._script, self._addresses),
            )
            seen.trouble = "is new"

    def _read(self, api: client.Api, plan: Plan) -> None:
        base = f"/api/v1/namespaces/{plan.namespace}/pods"
        there = {item["metadata"]["name"]: item for item in api.get(base)["items"]}
        for node, seen in self._seen.items():
            name = plan.pod(node)
            if seen.ended:
                continue
            seen.trouble, seen.running, seen.hopeless = _state(there.get(name))
            if seen.running:
                seen.families = families_of(there[name])
                try:
                    seen.lines, seen.ended = parse_log(api.text(f"{base}/{name}/log"))
                except client.ApiError as error:
                    seen.trouble = f"its log cannot be read: {error}"

    def _findings(self, trouble: str, hopeless: bool) -> dict[str, Finding]:
        names = check_names(self._cluster.families, len(self._cluster.nodes) - len(self._cordoned) < 2)
        if self._plan is None or SERVICE not in self._addresses:
            text = trouble or "not made yet"
            return {name: Finding(text, (text,), hopeless) for name in names}
        findings = {"probe_pods": self._pods_finding(trouble, hopeless), "pod_families": self._families_finding()}
        for name, results in wanted_results(self._plan, self._addresses).items():
            findings[name] = self._results_finding(results)
        return findings

    def _pods_finding(self, trouble: str, hopeless: bool) -> Finding:
        missing = [f"{node}: pod {seen.trouble}" for node, seen in self._seen.items() if seen.trouble]
        if not self._seen:
            missing = ["every node is cordoned"]
        aside = f"; cordoned, not tried: {', '.join(self._cordoned)}" if self._cordoned else ""
        stuck = [seen for seen in self._seen.values() if seen.trouble]
        return Finding(
            f"{len(self._seen)} pods ran{aside}",
            tuple([trouble] if trouble and missing else []) + tuple(missing),
            hopeless or not self._seen or (bool(stuck) and all(seen.hopeless for seen in stuck)),
        )

    def _families_finding(self) -> Finding:
        """Every pod has an address of each family, in the stack's order, and no other."""
        wanted = self._cluster.families
        known = {node: seen.families for node, seen in self._seen.items() if seen.families}
        wrong = [
            f"{node}: a pod has {', '.join(families)}, wanted: {', '.join(wanted)}"
            for node, families in known.items()
            if families != wanted
        ]
        missing = wrong or ([] if known else ["no pod has addresses yet"])
        # Addresses of a pod stay what they are.
        return Finding(f"{', '.join(wanted)} on {len(known)} nodes", tuple(missing), bool(wrong))

    def _results_finding(self, results: Iterable[Wanted]) -> Finding:
        """Of the pods that have run: one that never did is missing to ``probe_pods`` alone."""
        idle = {node for node, seen in self._seen.items() if seen.trouble and not seen.lines}
        if idle == self._seen.keys():
            return Finding("no pod", ("there is no pod to try it",), any(s.hopeless for s in self._seen.values()))
        missing, count, hopeless = [], 0, False
        for wanted in results:
            if wanted.node in idle or wanted.peer in idle or self._is_alone(wanted, idle):
                continue
            count += 1
            seen = self._seen[wanted.node]
            line = seen.lines.get((wanted.check, wanted.target))
            if line is None or not line.ok:
                missing.append(f"{wanted.node} -> {wanted.target}: {line.seen if line else 'not tried yet'}")
                hopeless = hopeless or seen.hopeless or seen.ended
        where = f"{', '.join(sorted(idle))}, where no pod runs"
        if not count:
            return Finding("", (f"nothing to reach without {where}",), all(self._seen[n].hopeless for n in idle))
        aside = f"; without {where}" if idle else ""
        return Finding(f"{count} of {count} reached{aside}", tuple(missing), hopeless)

    def _is_alone(self, wanted: Wanted, idle: set[str]) -> bool:
        """Whether only the pod itself can answer through the Service, which would prove nothing."""
        peers = set(self._plan.peers(wanted.node)) if self._plan and wanted.check == "service" else set()
        return bool(peers) and peers <= idle


def families_of(item: Json) -> tuple[str, ...]:
    """Families of a pod's addresses, in its order."""
    return tuple(family_of(row["ip"]) for row in item.get("status", {}).get("podIPs") or [])


def _state(item: Json | None) -> tuple[str, bool, bool]:
    """Trouble of a pod in words (empty when it runs), whether its log can be read, whether it can still get better."""
    if item is None:
        return "was removed by someone", False, True
    status: Mapping[str, Any] = item.get("status", {})
    phase = status.get("phase", "")
    if phase == "Running" and any("running" in c.get("state", {}) for c in status.get("containerStatuses") or []):
        return "", True, False
    why = not_ready(item) or f"is {phase}"
    return why, phase == "Failed", phase == "Failed" or "ErrImageNeverPull" in why


def _create(api: client.Api, path: str, body: Json) -> Json:
    """POST, where an object that is there already (an answer got lost) is as good."""
    try:
        return api.create(path, body)
    except client.ApiError as error:
        if error.reason != "AlreadyExists":
            raise
        return api.get(f"{path}/{body['metadata']['name']}")
