"""The provider ``podman``: nodes as containers. Labels identify them, so removing them needs no state directory."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.devenv.lab.plugins.module_utils.node import kubernetes
from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, paths, program
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import members
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.nodes import NodeSpec
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.types import NetworkPlan
from ansible_collections.devenv.lab.plugins.plugin_utils.host import network, probes, quotas, resolvers
from ansible_collections.devenv.lab.plugins.plugin_utils.host.network import Network
from ansible_collections.devenv.lab.plugins.plugin_utils.host.probes import Probe
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import data, engines
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.checks import quotas as quota_check
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import (
    base,
    base_images,
    image_store,
    loss,
    machines,
    node_recipe,
)
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import (
    RUNNING,
    CachedFile,
    Machine,
    ProvisionOutcome,
    Request,
)
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.node_recipe import Progress, Recipe
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import cli, image

NODE_IMAGE = "node-image"
# Files and directories of a node: 700 after its start, and those of its pods.
INODES = 2000
# On a tmpfs: the recorded values do not outlive a reboot either.
SYSCTL_RECORD = Path("/run/devenv/host-sysctls.json")
# A node's folders that outlive its container. The large ones cannot be in its root: overlay on overlay does not work.
LARGE = {"containerd": "/var/lib/containerd", "kubelet": "/var/lib/kubelet", "etcd": "/var/lib/etcd"}
DATA = {**LARGE, "kubernetes": "/etc/kubernetes", "devenv": "/var/lib/devenv"}
# In the folder "devenv" of a node whose data suffice to restore it.
FINISHED = Path(kubernetes.MARKER).name
# Otherwise podman adds a public name server if the host has none that a container reaches.
RESOLVERS = {"resolv.conf": "/etc/resolv.conf"}
_OVERVIEW = {"version": "version", "info": "info", "containers": "ps --all", "networks": "network ls",
             "volumes": "volume ls"}  # fmt: skip


class Provider(machines.MachineProvider):
    """Privileged containers that run systemd."""

    name: ClassVar[str] = "podman"
    failure: ClassVar[str] = "podman_failed"
    programs: ClassVar[Mapping[str, str]] = image_store.HOST_PROGRAMS | node_recipe.HOST_PROGRAMS

    def bring_up(
        self, request: Request, plan: NetworkPlan, nodes: Sequence[NodeSpec], outcome: ProvisionOutcome, *, create: bool
    ) -> None:
        containers = cli.containers(request.environment)
        existing = {container.node: container.name for container in containers}
        intact, lock = self.intact(request, containers), threading.Lock()

        def make_data(node: NodeSpec, cause: str) -> None:
            if is_kept(request.folder, node.name):
                volumes = self.volumes(request, node.name)
                kept = f", with its volumes {', '.join(volumes)}" if volumes else ""
                outcome.notes.append(f"{node.name} {cause} and was restored from its data{kept}")
                return
            if loss.was_reachable(request.folder, node.name):
                outcome.warnings.append(f"{node.name} {cause} and was recreated: everything on it is lost")
            if not _make_data(request, node):
                outcome.notes.append(f"{node.name}: the image store was copied from another filesystem")

        def start(node: NodeSpec) -> None:
            container = existing.get(node.name)
            _write_resolvers(request, node)
            if container and cli.run("start", container, check=not create).code == 0:
                outcome.started.append(node.name)
                return
            if container:
                with lock:
                    _require_others(request, node.name, intact)
                cli.podman("rm", "--force", "--time", "0", container)
                make_data(node, "could not start")
            cli.podman(*run_arguments(request, node), timeout=180)
            outcome.made.append(node.name)

        absent = [node for node in nodes if node.name not in existing]
        if absent and not create:
            raise DevenvError("node_gone", f"{', '.join(node.name for node in absent)}: the container is gone")
        with ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(lambda node: make_data(node, "was gone"), absent))
            with _host_settings_kept():
                list(pool.map(start, nodes))

    def intact(self, request: Request, existing: Sequence[Machine]) -> set[str]:
        def has_data(machine: Machine) -> bool:
            """Return whether a container can start. Those of earlier versions have fewer folders."""
            folder = request.folder / "nodes" / machine.node
            return machine.state == RUNNING or all((folder / name).is_dir() for name in LARGE)

        kept = {name for name in request.nodes if is_kept(request.folder, name)}
        return kept | {machine.node for machine in existing if has_data(machine)}

    def volumes(self, request: Request, node: str) -> list[str]:
        return sorted(path.name for path in (request.folder / "nodes" / node / "devenv" / "volumes").glob("*"))

    def shut_down(self, environment: str, running: Sequence[Machine], grace: int) -> list[str]:
        with ThreadPoolExecutor(max_workers=len(running)) as pool:
            list(pool.map(lambda c: cli.podman("stop", "--time", str(grace), c.name, timeout=grace + 60), running))
        return []

    def discard(self, environment: str, machines: Sequence[Machine]) -> None:
        cli.podman("rm", "--force", "--time", "0", *(container.name for container in machines))

    def discard_all(self, environment: str, machines: Sequence[Machine]) -> None:
        super().discard_all(environment, machines)
        for folder in filter(quotas.is_limited, (paths.environment(environment) / "nodes").glob("*")):
            quotas.remove(folder)

    def power(self, environment: str, node: str, *, on: bool) -> None:
        cli.podman("start" if on else "kill", container_name(environment, node))

    def machines(self, environment: str | None = None) -> list[Machine]:
        return list(cli.containers(environment))

    def networks(self, environment: str | None = None) -> list[Network]:
        return cli.networks(environment)

    def claim_network(self, environment: str, home: str, subnets: Sequence[str]) -> Network:
        return cli.create_network(network.network_name(environment), environment, home, subnets)

    def release_network(self, environment: str, networks: Sequence[Network]) -> list[str]:
        for claimed in networks:
            cli.podman("network", "rm", "--force", claimed.name)
        restored = [] if cli.containers() else probes.restore_sysctls(SYSCTL_RECORD)
        return [f"restored on the host: {', '.join(restored)}"] if restored else []

    def capacity_probes(self, profile: Profile, missing: Sequence[Mapping[str, Any]]) -> list[Probe]:
        # The measured use of such nodes, not their limits: nodes never request most of a limit.
        used = engines.in_use(missing, profile["kubernetes"]["engine"])
        return [
            *self.features(),
            # A node's programs are in its folders there.
            probes.filesystem_probe(paths.home(), INODES * len(missing)),
            probes.filesystem_probe(paths.cache()),
            probes.memory_probe(used["memory"]),
            probes.disk_probe(used["disk"], paths.home()),
            *machines.cache_probes(image_store.folder(paths.cache())),
            probes.inotify_probe(used["inotify"]),
            *_limit_probes(missing, profile["kubernetes"]["engine"]),
            *(_image_probe(node["image"]) for node in missing if node.get("image")),
            *(_base_image_probe(node["base_image"]) for node in missing if node.get("base_image")),
        ]

    def features(self) -> list[Probe]:
        return [*probes.kernel_probes(), *(podman_probes(cli.info()) if shutil.which("podman") else [])]

    def diagnostics(self, environment: str) -> Iterator[tuple[str, Sequence[str]]]:
        yield from ((f"podman/{name}.txt", cli.command(*words.split())) for name, words in _OVERVIEW.items())
        for container in base.available(cli.containers, environment):
            # The output of systemd before the journal started, and why a container ended.
            yield f"podman/{container.name}/log.txt", cli.command("logs", "--tail=2000", container.name)
            yield f"podman/{container.name}/inspect.json", cli.command("inspect", container.name)
        for claimed in base.available(cli.networks, environment):
            yield f"podman/network-{claimed.name}.json", cli.command("network", "inspect", claimed.name)

    def save_image(self, image: str, archive: Path, timeout: float) -> bool:
        if not cli.image_exists(image):
            return False
        cli.podman("save", "--format", "docker-archive", "-o", str(archive), image, timeout=timeout)
        return True

    def build_base_image(self, recipe: Recipe, say: Progress) -> bool:
        paths.cache().mkdir(parents=True, exist_ok=True, mode=0o700)
        return image.ensure_root(recipe, paths.cache(), say)

    def variants(self, digest: str) -> list[CachedFile]:
        found = _images("--filter", f"label={image.BASE_LABEL}={digest}")
        # Those with a bundle's binaries first: they are built on the root.
        return sorted(found, key=lambda item: item.what)

    def cached_files(self) -> list[CachedFile]:
        return _images()

    def remove_cached(self, item: CachedFile) -> None:
        cli.podman("image", "rm", item.what)


def _images(*options: str) -> list[CachedFile]:
    """Return the node images and their roots that ``podman images`` lists with ``options``."""
    rows: list[dict[str, Any]] = json.loads(cli.podman("images", "--format", "json", *options) or "[]") or []
    users = {container.image: container.name for container in cli.containers()}
    # An image with several names has a row for each, and every row has all names.
    return [
        CachedFile(NODE_IMAGE, name, int(row.get("Size") or 0), users.get(name) or users.get(str(row["Id"])) or "")
        for name, row in {name: row for row in rows for name in row.get("Names") or []}.items()
        if name.rpartition(":")[0] in (image.REPOSITORY, image.ROOT_REPOSITORY)
    ]


def container_name(environment: str, node: str) -> str:
    return f"{environment}-{node}"


def run_arguments(request: Request, node: NodeSpec) -> list[str]:
    """Return the arguments of ``podman`` that create one node."""
    environment, folder = request.environment, request.folder
    labels = {cli.ENVIRONMENT_LABEL: environment, cli.NODE_LABEL: node.name, cli.HOME_LABEL: request.home}
    return [
        "run", "--detach", "--name", container_name(environment, node.name), "--hostname", node.name,
        *image.runtime_flags(), "--systemd=always", "--stop-signal=SIGRTMIN+3",
        "--tmpfs=/run:rw,mode=755", "--tmpfs=/tmp:rw,mode=1777", "--no-hosts",
        f"--network={network.network_name(environment)}:mac={node.mac}",
        f"--memory={node.memory}", f"--cpus={node.cpus}", "--log-driver=none",
        *(f"--label={name}={value}" for name, value in labels.items()),
        *(f"--env={name}={value}" for name, value in machines.init_variables(node).items()),
        f"--volume={folder / 'ssh' / 'hosts' / node.name}:/etc/devenv/ssh:ro",
        *(f"--volume={folder / 'nodes' / node.name / name}:{target}" for name, target in {**DATA, **RESOLVERS}.items()),
        _image_of(request, node), "/usr/local/sbin/node-init",
    ]  # fmt: skip


def is_kept(state: Path, node: str) -> bool:
    """Return whether the data of a node suffice to restore it: it was finished, and no folder is missing."""
    place = state / "nodes" / node
    return (place / "devenv" / FINISHED).is_file() and all((place / folder).is_dir() for folder in DATA)


def _require_others(request: Request, node: str, intact: set[str]) -> None:
    """Remove a node that cannot start from ``intact`` unless its data are kept. Raises DevenvError ``cluster_lost`` or
    ``quorum_lost`` if its cluster depends on them.
    """
    if not is_kept(request.folder, node):
        intact.discard(node)
    for cluster, names in members.lost(members.recorded(request.folder), intact).items():
        raise members.loss(cluster, names, intact)


def _make_data(request: Request, node: NodeSpec) -> bool:
    """Create a new node's folders, all or none, with its limit where the filesystem has quotas. Return False if its
    image store could have been linked, but is on another filesystem.
    """
    place = request.folder / "nodes" / node.name
    unfinished = place.with_name(f".{node.name}.making")
    for folder in (unfinished, place):
        quotas.remove(folder)
    limited = not quota_check.missing(place.parent)
    if limited:
        quotas.create(unfinished, node.disk)
    store = request.options["stores"].get(node.name, request.options["store"])
    linked = image_store.copy(Path(store), unfinished / "containerd")
    for name in DATA:
        (unfinished / name).mkdir(parents=True, exist_ok=True, mode=0o700 if name in LARGE else 0o755)
    if node.image or node.base_image:
        _copy_from_image(_image_of(request, node), unfinished)
    unfinished.replace(place)
    _write_resolvers(request, node)
    # There are no links between subvolumes, but copies that share their blocks.
    return linked or limited


def _image_of(request: Request, node: NodeSpec) -> str:
    """Return the image of a node: its own, that of its base image, or the node image."""
    if node.base_image:
        return str(request.options["images"][node.base_image])
    return node.image or str(request.options["image"])


def _copy_from_image(image: str, data: Path) -> None:
    """Copy the content of the node's folders in its own image, such as that of a prepared cluster."""
    with cli.mounted(image) as root:
        for name, target in DATA.items():
            source = root / target.lstrip("/")
            if source.is_dir() and any(source.iterdir()):
                shutil.rmtree(data / name)
                program.run(["cp", "--archive", str(source), str(data / name)], timeout=600)


def _limit_probes(missing: Sequence[Mapping[str, Any]], engine: str) -> Iterator[Probe]:
    """Yield a probe for each node with a size of its own: quotas may be off since the profile was accepted."""
    traits = engines.traits(engine)
    fix = "enable quotas there, or create the environment again without disk in the profile"
    for node in missing:
        default = engines.group_of(node["group"], traits)["default"]
        if node["disk"] != data.parse_quantity(default["disk"]):
            trouble = quota_check.missing(paths.environments())
            seen = trouble or "can be limited"
            yield Probe(f"disk of {node['name']}", not trouble, seen, "a limit", fix, "folder_unusable")


def _image_probe(image: str) -> Probe:
    exists = cli.image_exists(image)
    seen = "available" if exists else "not in podman's local store"
    return Probe("image", exists, seen, image, f"podman pull {image}, or podman load", "node_image_unknown")


def _base_image_probe(name: str) -> Probe:
    """Check that a base image exists."""
    known = base_images.names(paths.home())
    seen = "available" if name in known else f"unknown; known: {', '.join(known) or 'none'}"
    fix = f"devenv base-image build {name}"
    return Probe("base image", name in known, seen, name, fix, "base_image_unknown")


def _write_resolvers(request: Request, node: NodeSpec) -> None:
    """Write the name servers of a node that does not run (node-init removes those of other families)."""
    for name in RESOLVERS:
        files.write(request.folder / "nodes" / node.name / name, resolvers.for_nodes(), mode=0o644)


@contextlib.contextmanager
def _host_settings_kept() -> Iterator[None]:
    """While nodes start: record the host's settings that they change, and restore those that podman changes."""
    with files.exclusive(network.ALLOCATOR):
        probes.record_sysctls(SYSCTL_RECORD)
        with probes.unchanged(probes.FORWARDING_SYSCTLS):
            yield


def podman_probes(info: cli.Info) -> list[Probe]:
    """Check that podman uses the network program that leaves addresses and firewall rules to devenv, and that programs
    can run in its storage.
    """
    backend, needed = info.backend, "netavark"
    fix = f"apt-get install -y --no-install-recommends {needed}, then podman system reset"
    options = [option for option in info.mount_options if option in ("noexec", "ro")]
    other = "remove the mount option from storage.conf (mountopt)"
    return [
        Probe("podman network", backend == needed, backend, needed, fix, "podman_backend"),
        Probe("podman storage", not options, ",".join(options) or "ok", "programs run", other, "folder_unusable"),
    ]
