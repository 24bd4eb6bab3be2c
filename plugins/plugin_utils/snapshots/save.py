"""Save the objects, data and images of an environment's clusters as a snapshot."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import versions
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.store import Bundle
from ansible_collections.devenv.lab.plugins.plugin_utils.core import files
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import network_plan
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.types import NetworkPlan
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.clusters import Cluster
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import catalogue, clean, contents, etcd, transfer
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots.begin import need_space
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots.catalogue import FileEntry, Snapshot
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots.contents import ClusterContents
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import image_load, remote

Progress = Callable[[str], None]

_SAVING = re.compile(r"\.saving-(?P<pid>\d+)-.+")


@dataclass(frozen=True)
class Source:
    """An environment to save: its profile and addresses, its clusters, its nodes by ssh."""

    environment: str
    resolved: Profile
    network: NetworkPlan
    clusters: Sequence[Cluster]
    targets: Mapping[str, remote.Target]


def only(source: Source) -> Source:
    """Return the source as an environment that has its ``clusters`` and their nodes alone."""
    names = {cluster.name for cluster in source.clusters}
    nodes = [node for node in source.resolved["nodes"] if node["cluster"] in names]
    clusters = {name: settings for name, settings in source.resolved["clusters"].items() if name in names}
    others = set(source.network["nodes"]) - {node["name"] for node in nodes}
    return replace(
        source,
        resolved={**source.resolved, "clusters": clusters, "nodes": nodes},
        network=network_plan.forget(source.network, others),
    )


@dataclass
class NodeContents:
    """Images of a node that are not in the bundle (reference to digest), its folders with data and their size in bytes,
    and the containers that write to them.
    """

    images: dict[str, str] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)
    containers: list[str] = field(default_factory=list)
    size: int = 0


def save(home: Path, name: str, source: Source, bundle: Bundle, progress: Progress, *, force: bool = False) -> Snapshot:
    """Save the environment. The snapshot appears under its name when it is complete, or not at all.

    Raises DevenvError ``snapshot_name``, ``snapshot_taken``, ``snapshot_unhealthy`` (unless ``force``),
    ``snapshot_disk``, ``snapshot_failed``, ``snapshot_encrypted``.
    """
    catalogue.check_new(home, name)
    base = catalogue.folder_of(home)
    programs = etcd.Programs(bundle.bin("etcd"), bundle.bin("etcdutl"))
    by_cluster = {cluster.name: contents.read(cluster, force=force) for cluster in source.clusters}
    nodes = _inspect(source, by_cluster, bundle, progress)
    # The saved database exists twice for a while.
    need_space(home, sum(node.size for node in nodes.values()) + 64 * 2**20)
    base.mkdir(parents=True, exist_ok=True, mode=0o700)
    _sweep(base)
    scratch = Path(tempfile.mkdtemp(dir=base, prefix=f".saving-{os.getpid()}-"))
    try:
        manifest = catalogue.Manifest(
            format=catalogue.FORMAT,
            name=name,
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            environment=source.environment,
            profile=source.resolved,
            network=source.network,
            clusters={},
            nodes={},
            files={},
            unready=sorted(pod for cluster in by_cluster.values() for pod in cluster.unready),
        )
        for cluster in source.clusters:
            manifest["clusters"][cluster.name] = _save_etcd(scratch, cluster, source, programs, progress)
        for node, content in nodes.items():
            archive = _save_images(scratch, source.targets[node], content.images, manifest["files"], progress)
            manifest["nodes"][node] = catalogue.SavedNode(
                images=sorted(content.images), archive=archive, volumes="", paths=content.paths
            )
        for node, entry in _save_volumes(scratch, source, nodes, progress).items():
            manifest["nodes"][node]["volumes"] = file = f"volumes-{node}.tar"
            manifest["files"][file] = entry
        for saved in manifest["clusters"].values():
            manifest["files"][saved["etcd"]] = transfer.describe(scratch / saved["etcd"])
        files.write(scratch / catalogue.MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
        try:
            os.rename(scratch, base / name)
        except OSError:
            raise catalogue.taken(name) from None
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return catalogue.read(home, name)


def _sweep(base: Path) -> None:
    """Remove the folders of killed runs."""
    for entry in base.iterdir():
        match = _SAVING.fullmatch(entry.name)
        if entry.name.startswith(catalogue.REMOVED) or (match and not Path(f"/proc/{match['pid']}").exists()):
            shutil.rmtree(entry, ignore_errors=True)


def extra_images(images: Mapping[str, str], bundled: Mapping[str, str]) -> dict[str, str]:
    """Return the images of a node (reference to digest) that have a name and are not in the bundle."""
    return {
        reference: digest
        for reference, digest in sorted(images.items())
        if "@" not in reference and not reference.startswith("sha256:") and bundled.get(reference) != digest
    }


def _inspect(
    source: Source, by_cluster: Mapping[str, ClusterContents], bundle: Bundle, progress: Progress
) -> dict[str, NodeContents]:
    # Images of optional parts are saved: a new node gets only those of the base before its pods start.
    bundled = {image.name: image.digest for image in bundle.manifest.images_of([versions.BASE])}
    paths: dict[str, list[str]] = {}
    writers: dict[str, list[str]] = {}
    for cluster in source.clusters:
        folders = contents.data_paths(by_cluster[cluster.name], [node.name for node in cluster.nodes])
        paths |= folders
        writers |= contents.writers(by_cluster[cluster.name], folders)

    def inspect(node: str) -> NodeContents:
        listed = " ".join(shlex.quote(path) for path in paths[node])
        # du fails for a file that an app removes meanwhile, and still prints the size.
        script = (
            f"set -e; {image_load.CTR} check; echo '{image_load.CUT}'; for path in {listed}; do "
            f'if [ -d "$path" ]; then du -sxk -- "$path" 2>/dev/null || :; fi; done'
        )
        images, _cut, sizes = transfer.run(source.targets[node], script).stdout.partition(f"{image_load.CUT}\n")
        rows = [line.split("\t", 1) for line in sizes.splitlines() if "\t" in line]
        return NodeContents(
            images=extra_images(image_load.parse_check(images), bundled),
            paths=[path for _size, path in rows],
            containers=writers[node],
            size=sum(int(size) for size, _path in rows) << 10,
        )

    progress(f"inspecting {len(paths)} nodes")
    with ThreadPoolExecutor(max_workers=max(1, len(paths))) as pool:
        return dict(zip(paths, pool.map(inspect, paths), strict=True))


def _save_images(
    scratch: Path, target: remote.Target, images: Mapping[str, str], written: dict[str, FileEntry], progress: Progress
) -> str:
    """Return the name of the archive with ``images``; it is fetched unless another node has the same images."""
    if not images:
        return ""
    name = f"images-{hashlib.sha256(json.dumps(sorted(images.items())).encode()).hexdigest()[:12]}.tar"
    if name not in written:
        progress(f"{target.name}: {len(images)} images that are not in the bundle")
        references = " ".join(shlex.quote(image) for image in sorted(images))
        # --local, because containerd's transfer service sometimes loses the end of an export without an error.
        written[name] = transfer.fetch(target, f"{image_load.CTR} export --local - {references}", scratch / name)
        absent = set(images) - set(image_load.names_in(scratch / name))
        if absent:
            text = f"images were not saved: {', '.join(sorted(absent))}"
            raise DevenvError("snapshot_failed", text, where=target.name)
    return name


_SAVE_ETCD = r"""
set -eu
umask 077
folder=$(mktemp -d /var/lib/devenv/snapshot.XXXXXXXX)
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM PIPE
pki=/etc/kubernetes/pki/etcd
endpoint=$(sed -n 's/.*--listen-client-urls=\([^,]*\).*/\1/p' /etc/kubernetes/manifests/etcd.yaml)
etcdctl --endpoints="$endpoint" --cacert=$pki/ca.crt --cert=$pki/healthcheck-client.crt \
  --key=$pki/healthcheck-client.key --command-timeout=300s snapshot save "$folder/db" >&2
cat "$folder/db"
"""


def _save_etcd(
    scratch: Path, cluster: Cluster, source: Source, programs: etcd.Programs, progress: Progress
) -> catalogue.SavedCluster:
    name, master = f"etcd-{cluster.name}.db", cluster.control_plane[0].name
    progress(f"{cluster.name}: etcd data of {master}")
    work = Path(tempfile.mkdtemp(dir=scratch, prefix=".etcd-"))
    transfer.fetch(source.targets[master], _SAVE_ETCD, work / "saved")
    nodes = [node.name for node in cluster.nodes]
    counts = clean.clean(programs, work / "saved", scratch / name, work, nodes, progress)
    shutil.rmtree(work)
    return {"etcd": name, "objects": counts}


# Containers that write are paused meanwhile, so that all files are consistent. They always resume: if the connection is
# lost, tar fails to write. A folder whose volume was deleted since the inspection is left out.
_SAVE_VOLUMES = """
set -eu
paused=
resume() {{ for id in $paused; do ctr -n k8s.io tasks resume "$id" || :; done; paused=; }}
trap resume EXIT
trap 'exit 1' HUP INT TERM PIPE
for id in {containers}; do
  if ctr -n k8s.io tasks pause "$id" >/dev/null 2>&1; then paused="$paused $id"; fi
done
cd /
set --
for path in {paths}; do if [ -e "$path" ]; then set -- "$@" "$path"; fi; done
tar --create --sparse --numeric-owner --acls --xattrs --xattrs-include='*' --one-file-system \
  --warning=no-file-ignored --file=- --files-from=/dev/null -- "$@"
"""


def _save_volumes(
    scratch: Path, source: Source, contents_of: Mapping[str, NodeContents], progress: Progress
) -> dict[str, FileEntry]:
    nodes = [node for node, content in contents_of.items() if content.paths]
    if not nodes:
        return {}
    total = sum(contents_of[node].size for node in nodes)
    progress(f"data of apps on {', '.join(nodes)}: {total >> 20} MiB")

    def save_node(node: str) -> FileEntry:
        script = _SAVE_VOLUMES.format(
            containers=" ".join(shlex.quote(word) for word in contents_of[node].containers),
            paths=" ".join(shlex.quote(path.lstrip("/")) for path in contents_of[node].paths),
        )
        return transfer.fetch(source.targets[node], script, scratch / f"volumes-{node}.tar")

    with ThreadPoolExecutor(max_workers=len(nodes)) as pool:
        return dict(zip(nodes, pool.map(save_node, nodes), strict=True))
