"""Snapshots: what an environment's clusters hold, kept so that the next environment of the profile starts with it.

``<home>/snapshots/<name>/`` (0700; files 0600): ``manifest.json``, for each cluster ``etcd-<cluster>.db`` (cleaned, see
``snapshot_etcd``), for each node with data ``volumes-<node>.tar`` (paths from ``/``), and ``images-<digest>.tar`` with
the images that nodes have beyond the bundle. Keys and certificates of the saved cluster are not in it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.manifest import sha256
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.store import Bundle
from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, program
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import stages, state
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.client import Json
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.clusters import Cluster
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import amend
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import etcd
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import image_load, remote
from ansible_collections.devenv.lab.plugins.plugin_utils.validation import checks, pod_probes
from ansible_collections.devenv.lab.plugins.plugin_utils.validation import run as validate

FORMAT = 1
MANIFEST = "manifest.json"
# In the state folder of an environment that starts from a snapshot: {name, digest, done}.
RECORD = "snapshot.json"
# Where a node finds what it is to start from.
STAGING = "/var/lib/devenv/restore"
# Left free on the disk.
RESERVE = 512 * 2**20

Progress = Callable[[str], None]

# Where our StorageClass keeps its volumes (role cluster_addons).
_VOLUMES = "/var/lib/devenv/volumes"
# Parts of the machine itself: pods look at them, and no data of theirs are there.
_SYSTEM = (
    "/boot", "/dev", "/etc", "/lib", "/proc", "/run", "/sys", "/usr", "/var/lib/containerd", "/var/lib/devenv",
    "/var/lib/etcd", "/var/lib/kubelet", "/var/log", "/var/run",
)  # fmt: skip
_SAVING = re.compile(r"\.saving-(?P<pid>\d+)-.+")
_COMMANDS_TIMEOUT = 120
_STREAM_TIMEOUT = 3600
_BLOCK = 1 << 20


# --- what is there ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Snapshot:
    """A snapshot that was read. ``manifest`` is manifest.json as data."""

    name: str
    folder: Path
    manifest: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """sha256 of manifest.json, which holds those of all files."""
        return hashlib.sha256((self.folder / MANIFEST).read_bytes()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(int(entry["size"]) for entry in self.manifest["files"].values())


def base(home: Path) -> Path:
    return home / "snapshots"


def check_name(name: str) -> str:
    """``name`` as it is. Raises DevenvError ``snapshot_name``."""
    if not state.NAME.fullmatch(name):
        raise DevenvError("snapshot_name", f"{name!r} cannot be the name of a snapshot")
    return name


def check_new(home: Path, name: str) -> None:
    """Raise DevenvError ``snapshot_name`` or ``snapshot_taken`` for what nothing can be saved as."""
    check_name(name)
    if (base(home) / name).exists():
        raise DevenvError("snapshot_taken", f"there is a snapshot {name} already")


def names(home: Path) -> list[str]:
    """Names of the snapshots, sorted."""
    folder = base(home)
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [entry.name for entry in found if state.NAME.fullmatch(entry.name) and (entry / MANIFEST).is_file()]


def read(home: Path, name: str) -> Snapshot:
    """The snapshot ``name``. Raises DevenvError ``snapshot_unknown`` (with the nearest name), ``snapshot_broken``."""
    check_name(name)
    folder = base(home) / name
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except FileNotFoundError:
        known = names(home)
        near = difflib.get_close_matches(name, known, n=1)
        advice = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(known)}." if known else ""
        raise DevenvError("snapshot_unknown", f"there is no snapshot {name}", advice=advice) from None
    except (OSError, ValueError) as error:
        raise DevenvError("snapshot_broken", f"its manifest cannot be read: {error}", where=str(folder)) from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DevenvError("snapshot_broken", f"its manifest is not of format {FORMAT}", where=str(folder))
    return Snapshot(name, folder, manifest)


def listing(home: Path) -> list[dict[str, Any]]:
    """A row a snapshot: name, profile, kubernetes, made (UTC, ISO 8601), environment, nodes, images, bytes, state."""
    return [_row(home, name) for name in names(home)]


def _row(home: Path, name: str) -> dict[str, Any]:
    try:
        one = read(home, name)
        manifest = one.manifest
        return {
            "name": name,
            "profile": manifest["profile"]["profile"],
            "kubernetes": manifest["profile"]["kubernetes"]["version"],
            "made": manifest["made"],
            "environment": manifest["environment"],
            "nodes": sorted(manifest["nodes"]),
            "images": sorted({image for node in manifest["nodes"].values() for image in node["images"]}),
            "bytes": one.size,
            "state": "whole" if not _sizes_differ(one) else "broken",
        }
    except (DevenvError, KeyError, TypeError, AttributeError, ValueError):
        return {"name": name, "profile": "", "kubernetes": "", "made": "", "environment": "", "nodes": [],
                "images": [], "bytes": 0, "state": "broken"}  # fmt: skip


def _sizes_differ(one: Snapshot) -> list[str]:
    found = []
    for name, entry in one.manifest["files"].items():
        try:
            if (one.folder / name).stat().st_size != entry["size"]:
                found.append(name)
        except OSError:
            found.append(name)
    return found


def verify(one: Snapshot) -> None:
    """Hash every file. Raises DevenvError ``snapshot_broken`` with the names of all that are not what was saved."""

    def wrong(item: tuple[str, Mapping[str, Any]]) -> str:
        name, entry = item
        try:
            digest = sha256(one.folder / name)
        except OSError as error:
            return f"{name}: {error.strerror}"
        return "" if digest == entry["sha256"] else f"{name} is not what was saved"

    with ThreadPoolExecutor(max_workers=4) as pool:
        broken = [text for text in pool.map(wrong, one.manifest["files"].items()) if text]
    if broken:
        raise DevenvError("snapshot_broken", "; ".join(broken), where=str(one.folder))


def remove(home: Path, name: str) -> Snapshot:
    """Remove a snapshot, a broken one too. Raises DevenvError ``snapshot_unknown``, ``snapshot_in_use``."""
    check_name(name)
    folder = base(home) / name
    one = read(home, name) if not folder.is_dir() else Snapshot(name, folder, {"files": {}})
    users = [
        environment
        for environment in state.environments(home)
        if (record := read_record(home / "environments" / environment)) is not None
        and record["name"] == name
        and not record["done"]
    ]
    if users:
        raise DevenvError("snapshot_in_use", f"{', '.join(users)} is not yet made from it", where=name)
    grave = folder.with_name(f".removed-{secrets.token_hex(4)}")
    os.replace(folder, grave)
    shutil.rmtree(grave)
    return one


# --- comparing with a profile ----------------------------------------------------------------------------------------


def differences(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What keeps an environment of the profile ``wanted`` from starting with a snapshot of ``saved`` (both resolved).

    Sizes, labels and taints of nodes may differ, as with an environment that is changed.
    """
    found = [
        _difference(path, _at(saved, path), _at(wanted, path))
        for path in ("topology", "stack", "kubernetes.version", "kubernetes.engine", "network.pods", "network.services")
        if _at(saved, path) != _at(wanted, path)
    ]
    old, new = (_members(profile) for profile in (saved, wanted))
    found += [f"nodes.{name}: not in the snapshot" for name in new if name not in old]
    found += [f"nodes.{name}: in the snapshot, not in the profile" for name in old if name not in new]
    return found + [
        _difference(f"nodes.{name}", old[name], new[name]) for name in new if name in old and old[name] != new[name]
    ]


def profile_of(one: Snapshot, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The resolved profile that was saved, with ``overrides`` (as profile.resolve takes them) laid over it.

    Raises DevenvError as profile.resolve does, and snapshot_differs when what was saved is of another version.
    """
    saved = one.manifest["profile"]
    try:
        again = amend.amend(saved, {})
    except (DevenvError, KeyError, TypeError, AttributeError) as error:
        said = error.message if isinstance(error, DevenvError) else f"its profile lacks {error}"
        advice = "Name a profile that has the same nodes: devenv up --snapshot NAME --profile PROFILE"
        raise DevenvError("snapshot_differs", said, advice=advice, where=one.name) from None
    return amend.amend(again, overrides) if overrides else again


def _at(profile: Mapping[str, Any], path: str) -> Any:
    value: Any = profile
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _members(profile: Mapping[str, Any]) -> dict[str, str]:
    return {
        str(node["name"]): f"{node['group']} of cluster {node['cluster']}" if node.get("cluster") else node["group"]
        for node in profile["nodes"]
    }


def _difference(path: str, old: Any, new: Any) -> str:
    return f"{path} is {old} in the snapshot, {new} in the profile"


# --- starting from one -----------------------------------------------------------------------------------------------


def read_record(folder: Path) -> dict[str, Any] | None:
    """``{name, digest, done}`` of an environment that starts, or started, from a snapshot."""
    try:
        record = json.loads((folder / RECORD).read_text())
        return {"name": str(record["name"]), "digest": str(record["digest"]), "done": bool(record["done"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    files.write(folder / RECORD, json.dumps(dict(record)) + "\n")


def begin(home: Path, folder: Path, wanted: str, resolved: Mapping[str, Any], *, check: bool = False) -> str:
    """Name of the snapshot that the environment of the state folder is yet to be made from; empty: none.

    ``wanted`` is what the user asked for, empty for whatever an earlier run began. Everything that can be wrong is
    found here, before anything was made; then the environment is on record. Raises DevenvError ``snapshot_unknown``,
    ``snapshot_broken``, ``snapshot_differs``, ``snapshot_disk``, ``snapshot_environment``.
    """
    record = read_record(folder)
    if record is None and not wanted:
        return ""
    if record is not None and wanted and record["name"] != wanted:
        raise DevenvError("snapshot_environment", f"was made from the snapshot {record['name']}", where=folder.name)
    if record is not None and record["done"]:
        return ""
    if record is None and folder.is_dir() and not stages.is_untouched(folder):
        raise DevenvError("snapshot_environment", "is there already", where=folder.name)
    one = read(home, wanted or str(record and record["name"]))
    apart = differences(one.manifest["profile"], resolved)
    if apart:
        raise DevenvError("snapshot_differs", "; ".join(apart), where=one.name)
    if record is not None and record["digest"] != one.digest:
        raise DevenvError("snapshot_broken", f"is another one than {folder.name} was begun from", where=one.name)
    verify(one)
    need_space(home if home.is_dir() else home.parent, one.size)
    if not check:
        write_record(folder, {"name": one.name, "digest": one.digest, "done": False})
    return one.name


def need_space(folder: Path, size: int) -> None:
    """Raise DevenvError ``snapshot_disk`` when ``size`` bytes do not fit into ``folder``'s disk."""
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < size + RESERVE:
        raise DevenvError(
            "snapshot_disk", f"{size >> 20} MiB are needed and {free >> 20} MiB are free", where=str(folder)
        )


def seed_network(one: Snapshot, folder: Path) -> bool:
    """Ask for the saved addresses, when there are several nodes: the provider takes the subnets if they are free, and
    keeps the nodes' indexes, on which pod ranges depend, in any case. Return whether something was written.
    """
    network = {key: value for key, value in one.manifest["network"].items() if key != "bridge"}
    if len(one.manifest["nodes"]) < 2 or state.read_network(folder) is not None:
        return False
    return state.write_network(folder, network)


def archives(one: Snapshot) -> dict[str, str]:
    """Path of the archive of further images, by node that has some."""
    return {
        name: str(one.folder / node["archive"]) for name, node in one.manifest["nodes"].items() if node.get("archive")
    }


# --- saving ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """What is saved: an environment, its nodes by ssh, its clusters with the profile's data."""

    environment: str
    resolved: Mapping[str, Any]
    network: Mapping[str, Any]
    clusters: Sequence[Cluster]
    targets: Mapping[str, remote.Target]


@dataclass
class Findings:
    """What is on one node: extra images (reference to digest), folders of data, containers that write to them."""

    images: dict[str, str] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)
    containers: list[str] = field(default_factory=list)
    size: int = 0


def save(home: Path, name: str, source: Source, bundle: Bundle, progress: Progress, *, force: bool = False) -> Snapshot:
    """Save the environment. The snapshot appears whole under its name, or not at all.

    Raises DevenvError ``snapshot_name``, ``snapshot_taken``, ``snapshot_unhealthy`` (unless ``force``),
    ``snapshot_disk``, ``snapshot_failed``, ``snapshot_encrypted``.
    """
    check_new(home, name)
    place = base(home) / name
    programs = etcd.Programs(bundle.bin("etcd"), bundle.bin("etcdutl"))
    looked = {cluster.name: _look(cluster, force=force) for cluster in source.clusters}
    found = _inspect(source, looked, bundle, progress)
    # The saved database is there twice for a while.
    need_space(home, sum(one.size for one in found.values()) + 64 * 2**20)
    base(home).mkdir(parents=True, exist_ok=True, mode=0o700)
    _sweep(base(home))
    scratch = Path(tempfile.mkdtemp(dir=base(home), prefix=f".saving-{os.getpid()}-"))
    try:
        manifest = _fill(scratch, source, programs, found, progress)
        manifest["name"] = name
        manifest["unready"] = sorted(pod for rows in looked.values() for pod in rows.unready)
        files.write(scratch / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
        try:
            os.rename(scratch, place)
        except OSError:
            raise DevenvError("snapshot_taken", f"there is a snapshot {name} already") from None
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return read(home, name)


def _sweep(folder: Path) -> None:
    """Remove what killed runs left."""
    for entry in folder.iterdir():
        match = _SAVING.fullmatch(entry.name)
        if entry.name.startswith(".removed-") or (match and not Path(f"/proc/{match['pid']}").exists()):
            shutil.rmtree(entry, ignore_errors=True)


@dataclass(frozen=True)
class Looked:
    """What the API told of a cluster: pods and volumes, and the names of pods that are not ready."""

    pods: Sequence[Json]
    volumes: Sequence[Json]
    claims: Sequence[Json]
    unready: Sequence[str]


def _look(cluster: Cluster, *, force: bool) -> Looked:
    # As in check mode: one look, nothing made in the cluster and nothing noted.
    report = validate.run(cluster, probes="never", changed=False, timeout=0, domain="", check=True)
    missing = [f"{check.name}: {check.seen}" for check in report.checks if not check.ok]
    if missing and not force:
        raise DevenvError("snapshot_unhealthy", "; ".join(missing), where=f"cluster {cluster.name}")
    with client.Api(client.read_access(cluster.kubeconfig), timeout=30) as api:
        try:
            pods = api.get("/api/v1/pods")["items"]
            volumes = api.get("/api/v1/persistentvolumes")["items"]
            claims = api.get("/api/v1/persistentvolumeclaims")["items"]
        except (client.ApiError, client.ApiUnreachable) as error:
            raise DevenvError("snapshot_unhealthy", f"the API: {error}", where=f"cluster {cluster.name}") from error
    return staying(pods, volumes, claims)


def staying(pods: Sequence[Json], volumes: Sequence[Json], claims: Sequence[Json]) -> Looked:
    """What the API told, without what is on its way out: the last validation's own, which ends some seconds after it,
    and volumes that go with their released claim. Their folders vanish while others are read.
    """
    pods, claims = ([one for one in rows if not _is_probes(one["metadata"])] for rows in (pods, claims))
    volumes = [
        volume for volume in volumes
        if not _is_probes(volume["spec"].get("claimRef") or {})
        and not (
            volume.get("status", {}).get("phase") == "Released"
            and volume["spec"].get("persistentVolumeReclaimPolicy") == "Delete"
        )
    ]  # fmt: skip
    return Looked(pods, volumes, claims, [pod_name(pod) for pod in pods if checks.not_ready(pod)])


def _is_probes(reference: Json) -> bool:
    return str(reference.get("namespace", "")).startswith(pod_probes.NAMESPACE)


def pod_name(pod: Json) -> str:
    return f"{pod['metadata'].get('namespace', '')}/{pod['metadata']['name']}"


def data_paths(looked: Looked, nodes: Sequence[str]) -> dict[str, list[str]]:
    """Folders with data of apps, by node: those of persistent volumes, and what pods mount of the node; none of the
    machine's own. One that lies in another is left out.
    """
    found: dict[str, set[str]] = {node: set() for node in nodes}
    for volume in looked.volumes:
        path = _volume_path(volume)
        for node in _volume_nodes(volume, nodes) if path else ():
            found[node].add(path)
    for pod in looked.pods:
        node = pod["spec"].get("nodeName", "")
        if node not in found or pod["metadata"].get("namespace") == checks.SYSTEM:
            continue
        for mount in pod["spec"].get("volumes") or []:
            path = (mount.get("hostPath") or {}).get("path", "")
            if path and mount["hostPath"].get("type") not in ("Socket", "CharDevice", "BlockDevice"):
                found[node].add(path)
    return {node: _outermost(path for path in places if _is_data(path)) for node, places in found.items()}


def _volume_path(volume: Json) -> str:
    spec = volume["spec"]
    return str((spec.get("hostPath") or spec.get("local") or {}).get("path", ""))


def _volume_nodes(volume: Json, nodes: Sequence[str]) -> list[str]:
    """Nodes that a volume may be on: those that its affinity names, else all."""
    required = (volume["spec"].get("nodeAffinity") or {}).get("required") or {}
    named = {
        value
        for term in required.get("nodeSelectorTerms") or []
        for rule in term.get("matchExpressions") or []
        if rule.get("key") == "kubernetes.io/hostname" and rule.get("operator") == "In"
        for value in rule.get("values") or []
    }
    return [node for node in nodes if not named or node in named]


def _is_data(path: str) -> bool:
    clean = os.path.normpath(path)
    return (
        clean.startswith("/")
        and clean.count("/") > 0
        and clean not in ("/", "/var", "/var/lib", "/home", "/opt", "/root", "/srv", "/mnt", "/tmp")
        and (
            clean.startswith(f"{_VOLUMES}/") or not any(clean == top or clean.startswith(f"{top}/") for top in _SYSTEM)
        )
    )


def _outermost(places: Iterable[str]) -> list[str]:
    kept: list[str] = []
    for path in sorted(os.path.normpath(place) for place in places):
        if not any(path == other or path.startswith(f"{other}/") for other in kept):
            kept.append(path)
    return kept


def writers(looked: Looked, paths_of: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Ids of running containers, by node, of pods that use one of its folders of data."""
    volumes = {volume["metadata"]["name"]: _volume_path(volume) for volume in looked.volumes}
    claimed = {pod_name(claim): volumes.get(claim["spec"].get("volumeName", ""), "") for claim in looked.claims}
    found: dict[str, list[str]] = {node: [] for node in paths_of}
    for pod in looked.pods:
        node, namespace = pod["spec"].get("nodeName", ""), pod["metadata"].get("namespace", "")
        used = set()
        for mount in pod["spec"].get("volumes") or []:
            claim = (mount.get("persistentVolumeClaim") or {}).get("claimName", "")
            used.add(
                claimed.get(f"{namespace}/{claim}", "") if claim else (mount.get("hostPath") or {}).get("path", "")
            )
        inside = [
            path for path in used if path
            for top in paths_of.get(node, ()) if f"{os.path.normpath(path)}/".startswith(f"{top}/")
        ]  # fmt: skip
        if inside:
            found[node] += [
                status["containerID"].rpartition("/")[2]
                for status in pod.get("status", {}).get("containerStatuses") or []
                if status.get("containerID") and "running" in (status.get("state") or {})
            ]
    return found


def extra_images(there: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Images of a node (reference to digest) that the bundle (likewise) does not bring; names only, no digests."""
    return {
        reference: digest
        for reference, digest in sorted(there.items())
        if "@" not in reference and not reference.startswith("sha256:") and own.get(reference) != digest
    }


def _inspect(source: Source, looked: Mapping[str, Looked], bundle: Bundle, progress: Progress) -> dict[str, Findings]:
    own = {image.name: image.digest for image in bundle.manifest.images}
    members = {node.name: looked[cluster.name] for cluster in source.clusters for node in cluster.nodes}
    by_cluster = [
        (looked[cluster.name], data_paths(looked[cluster.name], [node.name for node in cluster.nodes]))
        for cluster in source.clusters
    ]
    places = {node: rows for _ignored, found in by_cluster for node, rows in found.items()}
    writing = {node: rows for one, found in by_cluster for node, rows in writers(one, found).items()}

    def ask(node: str) -> Findings:
        listed = " ".join(shlex.quote(path) for path in places[node])
        # du complains of what an app removes meanwhile, and still says the size.
        script = (
            f"set -e; {image_load.CTR} check; echo '{image_load.CUT}'; for path in {listed}; do "
            f'if [ -d "$path" ]; then du -sxk -- "$path" 2>/dev/null || :; fi; done'
        )
        answer = _ssh(source.targets[node], script)
        images, _cut, sizes = answer.partition(f"{image_load.CUT}\n")
        rows = [line.split("\t", 1) for line in sizes.splitlines() if "\t" in line]
        return Findings(
            images=extra_images(image_load.parse_check(images), own),
            paths=[path for _size, path in rows],
            containers=writing[node],
            size=sum(int(size) for size, _path in rows) << 10,
        )

    progress(f"looking at {len(members)} nodes")
    with ThreadPoolExecutor(max_workers=max(1, len(members))) as pool:
        return dict(zip(members, pool.map(ask, members), strict=True))


def _fill(
    scratch: Path, source: Source, programs: etcd.Programs, found: Mapping[str, Findings], progress: Progress
) -> dict[str, Any]:
    """Write everything but the manifest, and return that."""
    written: dict[str, dict[str, Any]] = {}
    clusters: dict[str, Any] = {}
    for cluster in source.clusters:
        name = f"etcd-{cluster.name}.db"
        clusters[cluster.name] = {
            "etcd": name,
            "objects": _save_etcd(scratch, name, cluster, source, programs, progress),
        }
        written[name] = _described(scratch / name)
    nodes: dict[str, Any] = {
        node: {"images": sorted(one.images), "archive": "", "volumes": "", "paths": one.paths}
        for node, one in found.items()
    }
    for node, one in found.items():
        if one.images:
            name = _archive_name(one.images)
            nodes[node]["archive"] = name
            if name not in written:
                progress(f"{node}: {len(one.images)} images beyond the bundle")
                references = " ".join(shlex.quote(image) for image in sorted(one.images))
                # Local: containerd's transfer service loses the end of an export now and then, and says nothing.
                export = f"{image_load.CTR} export --local - {references}"
                written[name] = fetch(source.targets[node], export, scratch / name)
                lacking = set(one.images) - set(image_load.names_in(scratch / name))
                if lacking:
                    raise DevenvError(
                        "snapshot_failed", f"images were not saved: {', '.join(sorted(lacking))}", where=node
                    )
    for node, row in _save_volumes(scratch, source, found, progress).items():
        name = f"volumes-{node}.tar"
        nodes[node]["volumes"] = name
        written[name] = row
    return {
        "format": FORMAT,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": source.environment,
        "profile": dict(source.resolved),
        "network": dict(source.network),
        "clusters": clusters,
        "nodes": nodes,
        "files": written,
    }


def _archive_name(images: Mapping[str, str]) -> str:
    content = json.dumps(sorted(images.items())).encode()
    return f"images-{hashlib.sha256(content).hexdigest()[:12]}.tar"


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
    scratch: Path, name: str, cluster: Cluster, source: Source, programs: etcd.Programs, progress: Progress
) -> dict[str, int]:
    master = next(node.name for node in cluster.nodes if node.group == "control_plane")
    progress(f"{cluster.name}: etcd's data from {master}")
    work = Path(tempfile.mkdtemp(dir=scratch, prefix=".etcd-"))
    fetch(source.targets[master], _SAVE_ETCD, work / "saved")
    told = etcd.clean(programs, work / "saved", scratch / name, work, [node.name for node in cluster.nodes], progress)
    shutil.rmtree(work)
    return told


# Containers that write are frozen meanwhile, so that all files are of one moment. They go on in any case: when the
# connection is lost, tar cannot write any more. A folder whose volume was deleted since the look is none by now.
_SAVE_VOLUMES = """
set -eu
frozen=
thaw() {{ for id in $frozen; do ctr -n k8s.io tasks resume "$id" || :; done; frozen=; }}
trap thaw EXIT
trap 'exit 1' HUP INT TERM PIPE
for id in {containers}; do
  if ctr -n k8s.io tasks pause "$id" >/dev/null 2>&1; then frozen="$frozen $id"; fi
done
cd /
set --
for path in {paths}; do if [ -e "$path" ]; then set -- "$@" "$path"; fi; done
tar --create --sparse --numeric-owner --acls --xattrs --xattrs-include='*' --one-file-system \
  --warning=no-file-ignored --file=- --files-from=/dev/null -- "$@"
"""


def _save_volumes(
    scratch: Path, source: Source, found: Mapping[str, Findings], progress: Progress
) -> dict[str, dict[str, Any]]:
    nodes = [node for node, one in found.items() if one.paths]
    if not nodes:
        return {}
    total = sum(found[node].size for node in nodes)
    progress(f"data of apps on {', '.join(nodes)}: {total >> 20} MiB")

    def one(node: str) -> dict[str, Any]:
        script = _SAVE_VOLUMES.format(
            containers=" ".join(shlex.quote(word) for word in found[node].containers),
            paths=" ".join(shlex.quote(path.lstrip("/")) for path in found[node].paths),
        )
        return fetch(source.targets[node], script, scratch / f"volumes-{node}.tar")

    with ThreadPoolExecutor(max_workers=len(nodes)) as pool:
        return dict(zip(nodes, pool.map(one, nodes), strict=True))


def _described(path: Path) -> dict[str, Any]:
    return {"sha256": sha256(path), "size": path.stat().st_size}


# --- ssh -------------------------------------------------------------------------------------------------------------


def _ssh(target: remote.Target, script: str, stdin: Any = None, timeout: float = _COMMANDS_TIMEOUT) -> str:
    """Output of a script of the node's shell. Raises DevenvError ``snapshot_failed``."""
    try:
        return program.run([*target.ssh, script], stdin=stdin, timeout=timeout).stdout
    except program.ProgramFailed as error:
        raise DevenvError("snapshot_failed", _complaint(error.stderr) or str(error), where=target.name) from None
    except OSError as error:
        raise DevenvError("snapshot_failed", str(error), where=target.name) from None


def _complaint(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and "level=warning" not in line]
    return "; ".join(lines[-3:])[-400:]


# The node says what it sent: a connection that is cut looks like an end.
# The shell waits for the sum, as part of the pipeline; for the data waits who reads them, until their end.
_TOLD = "set -eu; {{ {{ {script}\n}} | tee >(cat >&3) | sha256sum >&2; }} 3>&1"
_SUM = re.compile(r"^([0-9a-f]{64})  -$", re.MULTILINE)


def fetch(target: remote.Target, script: str, path: Path, timeout: float = _STREAM_TIMEOUT) -> dict[str, Any]:
    """Write the output of a node's script to ``path`` (0600) and return ``{sha256, size}`` of it.

    Raises DevenvError ``snapshot_failed`` when the script fails, for a full disk, and after ``timeout`` seconds.
    """
    digest, size = hashlib.sha256(), 0
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            [*target.ssh, f"bash -o pipefail -c {shlex.quote(_TOLD.format(script=script))}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True,
        )  # fmt: skip
        timer = threading.Timer(timeout, child.kill)
        timer.daemon = True
        timer.start()
        try:
            if child.stdout is None:
                raise AssertionError("child.stdout")
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
                while block := child.stdout.read(_BLOCK):
                    digest.update(block)
                    stream.write(block)
                    size += len(block)
            code = child.wait()
        except OSError as error:
            raise DevenvError("snapshot_failed", f"{error.strerror}", where=str(path)) from error
        finally:
            timer.cancel()
            if child.poll() is None:
                child.kill()
                child.wait()
        errors.seek(0)
        said = errors.read().decode(errors="replace")
        if code != 0:
            why = _complaint(_SUM.sub("", said)) or f"ssh ended with code {code}"
            raise DevenvError("snapshot_failed", why, where=target.name)
        if digest.hexdigest() not in _SUM.findall(said):
            raise DevenvError("snapshot_failed", f"{path.name} did not arrive whole", where=target.name)
    return {"sha256": digest.hexdigest(), "size": size}


# --- bringing it to new nodes ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Goal:
    """A cluster that is to start from the snapshot: its control plane nodes as members of etcd, and what its
    authorities are made with.
    """

    name: str
    members: Sequence[etcd.Member]
    version: str
    encryption: str


_RECEIVE = f"""
set -eu
umask 077
rm -rf {STAGING}
mkdir -p {STAGING}
tar --extract --no-same-owner --directory={STAGING} --file=-
"""

# Data of an earlier try have been used since: they go first.
_RECEIVE_VOLUMES = """
set -eu
if [ -e {staging}.data ]; then rm -rf -- {paths}; fi
mkdir -p -m 700 {parent}
touch {staging}.data
tar --extract --directory=/ --numeric-owner --same-permissions --acls --xattrs --xattrs-include='*' --file=-
"""


def deliver(
    one: Snapshot,
    goals: Sequence[Goal],
    targets: Mapping[str, remote.Target],
    bundle: Bundle,
    scratch_base: Path,
    progress: Progress,
    *,
    images: bool = False,
) -> None:
    """Give every node what it starts from: data of apps, and, to control plane nodes, etcd's data as members of the new
    cluster and the new cluster's authorities, which are kept nowhere else. ``images``: those beyond the bundle, too,
    where the provider has not made the nodes with them.

    Raises DevenvError ``snapshot_failed``.
    """
    scratch_base.mkdir(parents=True, exist_ok=True, mode=0o700)
    for left in scratch_base.glob(".restore-*"):  # of a killed run: it holds keys
        shutil.rmtree(left, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(dir=scratch_base, prefix=".restore-"))
    try:
        progress("new authorities, etcd's data for the new members")
        jobs: list[Callable[[], None]] = []
        for goal in goals:
            packed = _pack(one, goal, bundle, scratch)
            jobs += [_sender(targets[node], archive) for node, archive in packed.items()]
        for node, row in one.manifest["nodes"].items():
            if row["volumes"] and node in targets:
                progress(f"{node}: data of apps, {one.manifest['files'][row['volumes']]['size'] >> 20} MiB")
                jobs.append(_volume_sender(targets[node], one.folder / row["volumes"], row["paths"]))
        for node, archive in archives(one).items() if images else ():
            jobs.append(_sender(targets[node], Path(archive), f"{image_load.CTR} import - >/dev/null"))
        with ThreadPoolExecutor(max_workers=max(1, len(jobs))) as pool:
            for done in [pool.submit(job) for job in jobs]:
                done.result()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _sender(target: remote.Target, archive: Path, script: str = _RECEIVE) -> Callable[[], None]:
    def send() -> None:
        with archive.open("rb") as stream:
            _ssh(target, script, stdin=stream, timeout=_STREAM_TIMEOUT)

    return send


def _volume_sender(target: remote.Target, archive: Path, places: Sequence[str]) -> Callable[[], None]:
    listed = " ".join(shlex.quote(path) for path in places)
    return _sender(
        target, archive, _RECEIVE_VOLUMES.format(staging=STAGING, parent=os.path.dirname(STAGING), paths=listed)
    )


def _pack(one: Snapshot, goal: Goal, bundle: Bundle, scratch: Path) -> dict[str, Path]:
    """An archive for each control plane node, with ``pki/`` and ``etcd/``, whole or not at all."""
    cluster = ",".join(f"{member.name}={member.url}" for member in goal.members)
    token = secrets.token_hex(8)
    etcdutl, database = bundle.bin("etcdutl"), one.folder / one.manifest["clusters"][goal.name]["etcd"]
    pki = scratch / f"pki-{goal.name}"

    def member_data(member: etcd.Member) -> tuple[str, Path]:
        target = scratch / f"etcd-{goal.name}-{member.name}"
        etcd.restore(etcdutl, database, target, member.name, member.url, cluster, token)
        return member.name, target

    with ThreadPoolExecutor(max_workers=len(goal.members) + 1) as pool:
        made = pool.submit(make_authorities, bundle.bin("kubeadm"), goal, pki)
        folders = list(pool.map(member_data, goal.members))
        made.result()
    packed = {}
    for name, folder in folders:
        packed[name] = scratch / f"{goal.name}-{name}.tar"
        with tarfile.open(packed[name], "w") as tar:
            tar.add(pki, "pki")
            tar.add(folder, "etcd")
        shutil.rmtree(folder)
    return packed


AUTHORITIES = ("ca", "front-proxy-ca", "etcd-ca", "sa")


def make_authorities(kubeadm: Path, goal: Goal, folder: Path) -> None:
    """Make the keys and certificates of a new cluster's authorities, as kubeadm does, in ``folder`` (0700)."""
    folder.mkdir(mode=0o700)
    configuration = folder.with_suffix(".json")
    documents = [
        {
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "InitConfiguration",
            # Named, so that kubeadm does not look for them on this machine.
            "localAPIEndpoint": {"advertiseAddress": goal.members[0].address},
            "nodeRegistration": {
                "name": goal.members[0].name,
                "criSocket": "unix:///run/containerd/containerd.sock",
            },
        },
        {
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "ClusterConfiguration",
            "kubernetesVersion": f"v{goal.version}",
            "certificatesDir": str(folder),
            "encryptionAlgorithm": goal.encryption,
        },
    ]
    files.write(configuration, "\n---\n".join(json.dumps(document) for document in documents))

    def make(phase: str) -> None:
        program.run([str(kubeadm), "init", "phase", "certs", phase, "--config", str(configuration)], timeout=60)

    try:
        with ThreadPoolExecutor(max_workers=2) as pool:
            list(pool.map(make, AUTHORITIES))
    except (OSError, program.ProgramFailed) as error:
        raise DevenvError("snapshot_failed", f"the new cluster's authorities: {error}") from error


# --- afterwards ------------------------------------------------------------------------------------------------------


def wait_for_apps(
    one: Snapshot, clusters: Sequence[Cluster], timeout: float, progress: Progress = lambda text: None
) -> int:
    """Wait until every pod is ready that was when the snapshot was taken; return how many there are.

    Raises DevenvError ``snapshot_apps`` with what is missing after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    skipped = set(one.manifest.get("unready", []))
    count = 0
    for cluster in clusters:
        with client.Api(client.read_access(cluster.kubeconfig)) as api:
            told: set[str] = set()
            while True:
                missing, seen = _missing_pods(api, skipped)
                if not missing:
                    count += seen
                    break
                if time.monotonic() > deadline:
                    raise DevenvError(
                        "snapshot_apps", checks.problems([f"{pod} {why}" for pod, why in missing.items()]),
                        where=f"cluster {cluster.name}",
                    )  # fmt: skip
                if set(missing) != told:
                    told = set(missing)
                    progress(f"waiting for {checks.problems(sorted(told))}")
                time.sleep(checks.POLL)
    return count


def _missing_pods(api: client.Api, skipped: set[str]) -> tuple[dict[str, str], int]:
    try:
        pods = api.get("/api/v1/pods")["items"]
    except (client.ApiError, client.ApiUnreachable) as error:
        return {"the API": str(error)}, 0
    wanted = [
        pod for pod in pods if "deletionTimestamp" not in pod["metadata"] and pod_name(pod) not in skipped
        and not _is_probes(pod["metadata"])
    ]  # fmt: skip
    return {pod_name(pod): why for pod in wanted if (why := checks.not_ready(pod))}, len(wanted)


def finish(folder: Path) -> bool:
    """Say that the environment's clusters are made; return whether that is new."""
    record = read_record(folder)
    if record is None or record["done"]:
        return False
    write_record(folder, {**record, "done": True})
    return True
