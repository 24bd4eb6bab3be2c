"""Check that the profile's StorageClass provides volumes: a claim is bound, one container writes, another one reads.

The claim and the pod are in the namespace of the probe pods and are removed with it.
"""

from __future__ import annotations

import secrets

from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.client import Json
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.readiness import not_ready
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.levels import Finding, Level, guarded
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.pod_probes import Probes, create
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.probe_pods import ProbeImage, container, spec

NAME = "storage"


def claim(storage_class: str) -> Json:
    """Return a PersistentVolumeClaim for the StorageClass."""
    return {
        "metadata": {"name": NAME},
        "spec": {
            "storageClassName": storage_class,
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Mi"}},
        },
    }


def pod(image: ProbeImage, word: str) -> Json:
    """Return a pod whose first container writes ``word`` to the volume and whose second container reads it."""
    mounts = [{"name": NAME, "mountPath": "/data"}]
    write = container("write", image, f"echo {word} > /data/probe && sync", volumeMounts=mounts)
    read = container("read", image, f"grep -q -x {word} /data/probe", volumeMounts=mounts)
    volumes = [{"name": NAME, "persistentVolumeClaim": {"claimName": NAME}}]
    return {"metadata": {"name": NAME}, "spec": spec([read], 600, initContainers=[write], volumes=volumes)}


class Storage(Level):
    """The level with the check ``storage``; it starts when the probes' namespace exists."""

    def __init__(self, probes: Probes, image: ProbeImage, storage_class: str) -> None:
        self._probes = probes
        self._class = storage_class
        self._pod = pod(image, secrets.token_hex(8))
        self._created = False

    def look(self, api: client.Api) -> dict[str, Finding]:
        return {"storage": guarded(lambda: self._check(api))}

    def _check(self, api: client.Api) -> Finding:
        if not self._probes.namespace:
            return Finding("", ("not tried yet",))
        base = f"/api/v1/namespaces/{self._probes.namespace}"
        if not self._created:
            api.get(f"/apis/storage.k8s.io/v1/storageclasses/{self._class}")
            create(api, f"{base}/persistentvolumeclaims", claim(self._class))
            create(api, f"{base}/pods", self._pod)
            self._created = True
        volume_claim, probe = api.get(f"{base}/persistentvolumeclaims/{NAME}"), api.get(f"{base}/pods/{NAME}")
        return check_storage(volume_claim, probe, self._class)


def check_storage(volume_claim: Json, probe: Json, storage_class: str) -> Finding:
    """Check the claim and the pod."""
    phase = volume_claim.get("status", {}).get("phase", "new")
    state = probe.get("status", {}).get("phase", "new")
    if phase == "Bound" and state == "Succeeded":
        return Finding(f"written and read on a volume of {storage_class}")
    missing = [] if phase == "Bound" else [f"claim of class {storage_class} is {phase}"]
    if state != "Succeeded":
        missing.append(f"pod {not_ready(probe) or f'is {state}'}")
    return Finding("", tuple(missing), hopeless=state == "Failed")
