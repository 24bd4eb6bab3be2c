"""Create the CAs of a cluster that starts from a snapshot: a snapshot holds no keys."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, program
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots.etcd import EtcdMember

# Phases of ``kubeadm init phase certs``.
PHASES = ("ca", "front-proxy-ca", "etcd-ca", "sa")


@dataclass(frozen=True)
class NewCluster:
    """A cluster that starts from a snapshot: its control plane nodes as members of etcd, its Kubernetes version and
    kubeadm's ``encryptionAlgorithm``.
    """

    name: str
    members: Sequence[EtcdMember]
    version: str
    encryption: str


def create(kubeadm: Path, cluster: NewCluster, folder: Path) -> None:
    """Create the keys and certificates of a new cluster's CAs in ``folder`` (0700), with kubeadm.

    Raises DevenvError ``snapshot_failed``.
    """
    folder.mkdir(mode=0o700)
    first, configuration = cluster.members[0], folder.with_suffix(".json")
    documents = [
        {
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "InitConfiguration",
            # Given, so that kubeadm does not look for them on this machine.
            "localAPIEndpoint": {"advertiseAddress": first.address},
            "nodeRegistration": {"name": first.name, "criSocket": "unix:///run/containerd/containerd.sock"},
        },
        {
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "ClusterConfiguration",
            "kubernetesVersion": f"v{cluster.version}",
            "certificatesDir": str(folder),
            "encryptionAlgorithm": cluster.encryption,
        },
    ]
    files.write(configuration, "\n---\n".join(json.dumps(document) for document in documents))

    def run(phase: str) -> None:
        program.run([str(kubeadm), "init", "phase", "certs", phase, "--config", str(configuration)], timeout=60)

    try:
        with ThreadPoolExecutor(max_workers=2) as pool:
            list(pool.map(run, PHASES))
    except (OSError, program.ProgramFailed) as error:
        raise DevenvError("snapshot_failed", f"the new cluster's authorities: {error}") from error
