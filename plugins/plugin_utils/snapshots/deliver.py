"""Deliver a snapshot to the nodes of a new environment."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.store import Bundle
from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, program
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import etcd, transfer
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots.catalogue import Snapshot
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import image_load
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh.remote import Target

# The folder on a node from which it starts.
STAGING = "/var/lib/devenv/restore"

_RECEIVE = f"""
set -eu
umask 077
rm -rf {STAGING}
mkdir -p {STAGING}
tar --extract --no-same-owner --directory={STAGING} --file=-
"""

# The data of an earlier attempt may have been used since, so they are removed first.
_RECEIVE_VOLUMES = f"""
set -eu
if [ -e {STAGING}.data ]; then rm -rf -- {{paths}}; fi
mkdir -p -m 700 {os.path.dirname(STAGING)}
touch {STAGING}.data
tar --extract --directory=/ --numeric-owner --same-permissions --acls --xattrs --xattrs-include='*' --file=-
"""


# Phases of ``kubeadm init phase certs``.
PHASES = ("ca", "front-proxy-ca", "etcd-ca", "sa")


@dataclass(frozen=True)
class NewCluster:
    """A cluster that starts from a snapshot: its control plane nodes as etcd members, its Kubernetes version and
    kubeadm's ``encryptionAlgorithm``.
    """

    name: str
    members: Sequence[etcd.EtcdMember]
    version: str
    encryption: str


def deliver(
    snapshot: Snapshot,
    clusters: Sequence[NewCluster],
    targets: Mapping[str, Target],
    bundle: Bundle,
    scratch_base: Path,
    progress: Callable[[str], None],
    *,
    images: bool = False,
) -> None:
    """Send each node the data of its apps and, to control plane nodes, etcd's data as members of the new cluster and
    the new cluster's CAs, which are stored nowhere else. ``images``: also send images that are not in the bundle, if
    the provider has not created the nodes with them.

    Raises DevenvError ``snapshot_failed``.
    """
    scratch_base.mkdir(parents=True, exist_ok=True, mode=0o700)
    for remains in scratch_base.glob(".restore-*"):  # of a killed run; it contains keys
        shutil.rmtree(remains, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(dir=scratch_base, prefix=".restore-"))
    manifest = snapshot.manifest
    try:
        progress("create CAs and etcd data of the new members")
        jobs: list[tuple[Target, Path, str]] = []
        for cluster in clusters:
            packed = _pack(snapshot, cluster, bundle, scratch)
            jobs += [(targets[node], archive, _RECEIVE) for node, archive in packed.items()]
        for node, saved in manifest["nodes"].items():
            if saved["volumes"] and node in targets:
                progress(f"{node}: data of apps, {manifest['files'][saved['volumes']]['size'] >> 20} MiB")
                script = _RECEIVE_VOLUMES.format(paths=" ".join(shlex.quote(path) for path in saved["paths"]))
                jobs.append((targets[node], snapshot.folder / saved["volumes"], script))
        for node, archive in snapshot.archives.items() if images else ():
            jobs.append((targets[node], Path(archive), f"{image_load.CTR} import - >/dev/null"))
        with ThreadPoolExecutor(max_workers=max(1, len(jobs))) as pool:
            for sent in [pool.submit(_send, *job) for job in jobs]:
                sent.result()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _send(target: Target, archive: Path, script: str) -> None:
    with archive.open("rb") as stream:
        transfer.run(target, script, stdin=stream, timeout=transfer.STREAM_TIMEOUT)


def _pack(snapshot: Snapshot, cluster: NewCluster, bundle: Bundle, scratch: Path) -> dict[str, Path]:
    """Return an archive for each control plane node, with ``pki/`` and ``etcd/``."""
    members = ",".join(f"{member.name}={member.url}" for member in cluster.members)
    token = secrets.token_hex(8)
    etcdutl, database = bundle.bin("etcdutl"), snapshot.folder / snapshot.manifest["clusters"][cluster.name]["etcd"]
    cas = scratch / f"pki-{cluster.name}"

    def restore(member: etcd.EtcdMember) -> tuple[str, Path]:
        data = scratch / f"etcd-{cluster.name}-{member.name}"
        etcd.restore(etcdutl, database, data, member.name, member.url, members, token)
        return member.name, data

    with ThreadPoolExecutor(max_workers=len(cluster.members) + 1) as pool:
        created = pool.submit(_create_cas, bundle.bin("kubeadm"), cluster, cas)
        folders = list(pool.map(restore, cluster.members))
        created.result()
    packed = {}
    for name, data in folders:
        packed[name] = scratch / f"{cluster.name}-{name}.tar"
        with tarfile.open(packed[name], "w") as tar:
            tar.add(cas, "pki")
            tar.add(data, "etcd")
        shutil.rmtree(data)
    return packed


def _create_cas(kubeadm: Path, cluster: NewCluster, folder: Path) -> None:
    """Create the keys and certificates of a new cluster's CAs in ``folder`` (0700), with kubeadm."""
    folder.mkdir(mode=0o700)
    first, configuration = cluster.members[0], folder.with_suffix(".json")
    documents = [
        {
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "InitConfiguration",
            # Explicit, so that kubeadm does not detect those of this machine.
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
        raise DevenvError("snapshot_failed", f"the CAs of the new cluster: {error}") from error
