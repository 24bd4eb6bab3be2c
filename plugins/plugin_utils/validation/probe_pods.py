"""The objects of probe pods: what is created in the cluster."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.client import Json

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


def family_of(address: str) -> str:
    return "ipv6" if ":" in address else "ipv4"


@dataclass(frozen=True)
class Plan:
    """What is tried: pods by node, and for each pod the pods that it must reach. ``registered``: the names of Node
    objects, where they are not those of the nodes.
    """

    namespace: str
    image: str
    limit: int
    domain: str
    families: tuple[str, ...]
    nodes: tuple[str, ...]
    registered: Mapping[str, str] = field(default_factory=dict)

    def pod(self, node: str) -> str:
        """Return the name of the probe pod of ``node``: also its host name, so at most 63 characters, without dots."""
        safe = re.sub(r"[^a-z0-9-]", "-", node)
        return f"probe-{self.nodes.index(node)}-{safe}"[:63].rstrip("-")

    def peers(self, node: str) -> list[str]:
        """Return the nodes whose pods the pod of ``node`` must reach."""
        place = self.nodes.index(node)
        return list((self.nodes[place + 1 :] + self.nodes[:place])[:NEIGHBOURS])


def preparation(plan: Plan) -> list[tuple[str, Json]]:
    """Return path and body of what the pods need first: read access to pods of their namespace, the Service."""
    rbac = "rbac.authorization.k8s.io"
    account = {"kind": "ServiceAccount", "name": "default", "namespace": plan.namespace}
    role_ref = {"apiGroup": rbac, "kind": "Role", "name": SERVICE}
    service = {
        "selector": {LABEL: "probe"},
        "ports": [{"port": PORT}],
        "ipFamilyPolicy": "RequireDualStack" if len(plan.families) > 1 else "SingleStack",
        "ipFamilies": [FAMILIES[family] for family in plan.families],
    }
    bodies: list[tuple[str, Json]] = [
        (f"/apis/{rbac}/v1/{{}}/roles", {"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]}),
        (f"/apis/{rbac}/v1/{{}}/rolebindings", {"roleRef": role_ref, "subjects": [account]}),
        ("/api/v1/{}/services", {"spec": service}),
    ]
    where = f"namespaces/{plan.namespace}"
    return [(path.format(where), {"metadata": {"name": SERVICE}, **body}) for path, body in bodies]


def pod(plan: Plan, node: str, script: str, addresses: Mapping[str, list[str]]) -> Json:
    """Return the probe pod of ``node``. ``addresses``: those of the Services ``kubernetes`` and ``probe``."""
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
    env = [{"name": name, "value": value} for name, value in environment.items()]
    probe = container("probe", plan.image, script, env=env, ports=[{"containerPort": PORT}])
    return {
        "metadata": {"name": plan.pod(node), "labels": {LABEL: "probe"}},
        "spec": spec(
            [probe],
            # If the controller is killed, the pods end by themselves.
            plan.limit + 60,
            # By affinity and not by nodeName, so that the scheduler has its part in the proof.
            affinity={
                "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [on_node]}}
            },
            tolerations=[{"operator": "Exists"}],
        ),
    }


def spec(containers: list[Json], limit: int, **more: Any) -> Json:
    """Return the spec of a pod that runs once, for at most ``limit`` seconds, without any privilege."""
    return {
        "containers": containers,
        "restartPolicy": "Never",
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 1,
        "activeDeadlineSeconds": limit,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        **more,
    }


def container(name: str, image: str, script: str, **more: Any) -> Json:
    """Return a container that runs a shell script with the image that the node has."""
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": "Never",
        "args": ["sh", "-c", script],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        **more,
    }
