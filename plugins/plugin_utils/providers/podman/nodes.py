"""Nodes as podman containers: make, start, stop, remove.

Everything is found by labels, so an environment can be taken down without its state folder.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, program
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.nodes import NodeSpec
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.types import NetworkPlan
from ansible_collections.devenv.lab.plugins.plugin_utils.host import dhcp, network, probes
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import image_store
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import (
    RUNNING,
    ProvisionOutcome,
    Request,
    init_variables,
    ssh_targets,
)
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.claims import set_up_network
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import image as node_image
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman.cli import (
    ENVIRONMENT_LABEL,
    HOME_LABEL,
    NODE_LABEL,
    containers,
    networks,
    podman,
)
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh.reachable import wait_for_ssh

# On a tmpfs, as the values it holds do not outlive a reboot either.
SYSCTL_RECORD = Path("/run/devenv/host-sysctls.json")

# A node's folders that live outside its root: overlay on overlay does not work, and they are large.
DATA = {"containerd": "/var/lib/containerd", "kubelet": "/var/lib/kubelet", "etcd": "/var/lib/etcd"}


def container_name(environment: str, node: str) -> str:
    return f"{environment}-{node}"


def create(request: Request, plan: NetworkPlan, nodes: Sequence[NodeSpec]) -> ProvisionOutcome:
    """Make what is missing, start what is stopped, replace what cannot start; leave what runs alone."""
    environment, state, options = request.environment, request.folder, request.options
    stores = {node.name: Path(options["stores"].get(node.name, options["store"])) for node in nodes}
    outcome = ProvisionOutcome()
    existing = {container.node: container for container in containers(environment)}
    missing = [node for node in nodes if node.name not in existing or existing[node.name].state != RUNNING]
    if missing:
        request.say(f"nodes: {', '.join(node.name for node in missing)}")
    absent = [node for node in missing if node.name not in existing]
    with ThreadPoolExecutor(max_workers=8) as pool:
        outcome.notes += filter(None, pool.map(lambda node: _make_data(state, node, stores[node.name]), absent))

    def bring_up(node: NodeSpec) -> None:
        if node not in absent:
            container = existing[node.name]
            if program.run(["podman", "start", container.name], check=False, timeout=60).code == 0:
                outcome.started.append(node.name)
                return
            podman("rm", "--force", "--time", "0", container.name)
            _make_data(state, node, stores[node.name])
            outcome.notes.append(f"{node.name} could not start and was made anew")
        podman(*run_arguments(environment, request.home, state, node, options["image"]), timeout=180)
        outcome.made.append(node.name)

    # First, so that a node's first question for its addresses or its router is answered.
    repaired = set_up_network(environment, state, plan, nodes)
    if missing:
        with _host_settings_kept(), ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(bring_up, missing))
        # The bridge goes with its last node, and one that could not start was replaced.
        repaired |= set_up_network(environment, state, plan, nodes)
    for names in (outcome.made, outcome.started):
        names.sort()
    if repaired:
        outcome.notes.append("host side of the network set")
    wait_for_ssh(ssh_targets(nodes))
    return outcome


def _make_data(state: Path, node: NodeSpec, store: Path) -> str:
    """Make a new node's folders; return a note where that was slow, or nothing."""
    data = state / "nodes" / node.name
    shutil.rmtree(data, ignore_errors=True)
    linked = image_store.copy(store, data / "containerd")
    for folder in DATA:
        (data / folder).mkdir(parents=True, exist_ok=True, mode=0o700)
    return "" if linked else f"{node.name}: state and cache lie on different filesystems, the image store was copied"


@contextlib.contextmanager
def _host_settings_kept() -> Iterator[None]:
    """While nodes start: record what they will change of the host, put back what podman changes."""
    with files.exclusive(network.ALLOCATOR):
        probes.record_sysctls(SYSCTL_RECORD)
        with probes.kept(probes.FORWARDING_SYSCTLS):
            yield


def run_arguments(environment: str, home: str, state: Path, node: NodeSpec, image: str) -> list[str]:
    """Arguments of ``podman`` that make one node."""
    name = container_name(environment, node.name)
    volumes = [f"--volume={state / 'nodes' / node.name / folder}:{target}" for folder, target in DATA.items()]
    return [
        "run", "--detach", "--name", name, "--hostname", node.name, *node_image.RUNTIME_FLAGS,
        "--systemd=always", "--stop-signal=SIGRTMIN+3",
        "--tmpfs=/run:rw,mode=755", "--tmpfs=/tmp:rw,mode=1777", "--no-hosts",
        f"--network={network.network_name(environment)}:mac={node.mac}",
        f"--memory={node.memory}", f"--cpus={node.cpus}", "--log-driver=none",
        f"--label={ENVIRONMENT_LABEL}={environment}", f"--label={NODE_LABEL}={node.name}",
        f"--label={HOME_LABEL}={home}",
        *(f"--env={name}={' '.join(words)}" for name, words in init_variables(node).items()),
        f"--volume={state / 'ssh' / 'hosts' / node.name}:/etc/devenv/ssh:ro",
        *volumes, image, "/usr/local/sbin/node-init",
    ]  # fmt: skip


def start(request: Request, plan: NetworkPlan, nodes: Sequence[NodeSpec]) -> ProvisionOutcome:
    """Start the nodes that are stopped, all at once."""
    environment, state = request.environment, request.folder
    outcome = ProvisionOutcome()
    stopped = [container for container in containers(environment) if container.state != RUNNING]
    set_up_network(environment, state, plan, nodes)
    if stopped:
        with _host_settings_kept():
            podman("start", *(container.name for container in stopped), timeout=120)
        outcome.started = [container.node for container in stopped]
        set_up_network(environment, state, plan, nodes)
    wait_for_ssh(ssh_targets(nodes))
    return outcome


def stop(environment: str, grace: int = 30) -> ProvisionOutcome:
    """Stop the nodes as a shutdown would, all at once; ``grace`` in seconds, then they are killed."""
    outcome = ProvisionOutcome()
    running = [container for container in containers(environment) if container.state == RUNNING]
    if running:
        with ThreadPoolExecutor(max_workers=len(running)) as pool:
            list(pool.map(lambda c: podman("stop", "--time", str(grace), c.name, timeout=grace + 60), running))
        outcome.stopped = [container.node for container in running]
    # Its bridge went with the last node.
    dhcp.end(environment)
    return outcome


def destroy(environment: str) -> ProvisionOutcome:
    """Remove everything that carries the environment's label, and what only this host remembers of it."""
    outcome = ProvisionOutcome()
    mine = containers(environment)
    if mine:
        podman("rm", "--force", "--time", "0", *(container.name for container in mine), timeout=120)
        outcome.removed = [container.node for container in mine]
    if dhcp.end(environment):
        outcome.removed.append("DHCP server")
    with files.exclusive(network.ALLOCATOR):
        claimed = networks(environment)
        # The links first: without the network nobody would know their names. The table also when the network is lost.
        outcome.removed += network.remove(environment, [one.bridge for one in claimed])
        for one in claimed:
            podman("network", "rm", "--force", one.name)
            outcome.removed.append(one.name)
        if not containers() and SYSCTL_RECORD.exists():
            restored = probes.restore_sysctls(SYSCTL_RECORD)
            if restored:
                outcome.notes.append(f"put back on the host: {', '.join(restored)}")
    return outcome


def remove_nodes(environment: str, state: Path, names: Sequence[str]) -> ProvisionOutcome:
    """Remove single nodes of an environment, with their data."""
    outcome = ProvisionOutcome()
    leaving = [container for container in containers(environment) if container.node in names]
    if leaving:
        podman("rm", "--force", "--time", "0", *(container.name for container in leaving))
        outcome.removed = [container.node for container in leaving]
    for name in names:
        shutil.rmtree(state / "nodes" / name, ignore_errors=True)
    return outcome
