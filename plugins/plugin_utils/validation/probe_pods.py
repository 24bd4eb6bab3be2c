"""The objects of the probe pods."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import versions
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.client import Json
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines

SCRIPT = paths.COLLECTION / "roles" / "validate" / "files" / "probe.sh"
LABEL = "devenv.lab/validate"
# Prefix of the namespace of each validation.
NAMESPACE = "devenv-validate-"
SERVICE = "probe"
PORT = 8080
# In a large cluster, each pod tries only this many others: the next ones in the order of the nodes.
NEIGHBOURS = 8
FAMILIES = {"ipv4": "IPv4", "ipv6": "IPv6"}
TYPES = {"ipv4": "a", "ipv6": "aaaa"}


class ProbeImage(NamedTuple):
    """The image of the probe pods, and when nodes pull it."""

    name: str
    pull: str = "Never"


def image_of(engine: str, version: str) -> ProbeImage:
    """Return the image for clusters of ``engine``: in the nodes' image stores, or in the registry that the engine runs.

    Raises DevenvError ``bundle_version_unknown``.
    """
    name = versions.resolve(version).probe_image
    registry = engines.traits(engine)["validation"]["registry"]
    return ProbeImage(f"{registry}/{name}", "IfNotPresent") if registry else ProbeImage(name)


def family_of(address: str) -> str:
    return "ipv6" if ":" in address else "ipv4"


@dataclass(frozen=True)
class Plan:
    """The probe pods of a validation, one per node. ``registered``: names of Node objects that differ from the nodes'
    names.
    """

    namespace: str
    image: ProbeImage
    limit: int
    domain: str
    families: tuple[str, ...]
    nodes: tuple[str, ...]
    registered: Mapping[str, str] = field(default_factory=dict)

    def pod(self, node: str) -> str:
        """Return the name of the probe pod of ``node``. It is also the host name: at most 63 characters, no dots."""
        safe = re.sub(r"[^a-z0-9-]", "-", node)
        return f"probe-{self.nodes.index(node)}-{safe}"[:63].rstrip("-")

    def peers(self, node: str) -> list[str]:
        """Return the nodes whose pods the pod of ``node`` must reach."""
        index = self.nodes.index(node)
        return list((self.nodes[index + 1 :] + self.nodes[:index])[:NEIGHBOURS])


def preparation(plan: Plan) -> list[tuple[str, Json]]:
    """Return path and body of the objects that the pods need: read access to pods of their namespace, the Service."""
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
    """Return the probe pod of ``node``. ``addresses`` are those of the Services ``kubernetes`` and ``probe``."""
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
            # If the controller is killed, the pods end on their own.
            plan.limit + 60,
            # By affinity and not by nodeName, so that the scheduler is tested as well.
            affinity={
                "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [on_node]}}
            },
            tolerations=[{"operator": "Exists"}],
        ),
    }


def spec(containers: list[Json], limit: int, **more: Any) -> Json:
    """Return the spec of an unprivileged pod that runs once, for at most ``limit`` seconds."""
    return {
        "containers": containers,
        "restartPolicy": "Never",
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 1,
        "activeDeadlineSeconds": limit,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        **more,
    }


def container(name: str, image: ProbeImage, script: str, **more: Any) -> Json:
    """Return a container that runs a shell script."""
    return {
        "name": name,
        "image": image.name,
        "imagePullPolicy": image.pull,
        "args": ["sh", "-c", script],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        **more,
    }
