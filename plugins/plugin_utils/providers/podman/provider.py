"""The provider of containers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths, program
from ansible_collections.devenv.lab.plugins.plugin_utils.host import network as host_network
from ansible_collections.devenv.lab.plugins.plugin_utils.host import probes
from ansible_collections.devenv.lab.plugins.plugin_utils.host.network import Network
from ansible_collections.devenv.lab.plugins.plugin_utils.host.probes import Probe
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import (
    base,
    claims,
    image_store,
    node_recipe,
    preflight,
)
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import (
    CachedFile,
    Machine,
    ProvisionOutcome,
    Request,
)
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import cli, image, nodes

NODE_IMAGE = "node-image"
_OVERVIEW = {"version": "version", "info": "info", "containers": "ps --all", "networks": "network ls",
             "volumes": "volume ls"}  # fmt: skip


class Provider(base.Provider):
    """Privileged containers that run systemd."""

    name: ClassVar[str] = "podman"
    failure: ClassVar[str] = "podman_failed"
    programs: ClassVar[Mapping[str, str]] = image_store.HOST_PROGRAMS | node_recipe.HOST_PROGRAMS

    def create(self, request: Request) -> ProvisionOutcome:
        return nodes.create(request, *claims.prepare(self, request))

    def start(self, request: Request) -> ProvisionOutcome:
        return nodes.start(request, *claims.prepare(self, request))

    def stop(self, request: Request, grace: int) -> ProvisionOutcome:
        return nodes.stop(request.environment, grace)

    def remove(self, request: Request, names: Sequence[str]) -> ProvisionOutcome:
        return nodes.remove_nodes(request.environment, request.folder, names)

    def destroy(self, request: Request) -> ProvisionOutcome:
        return nodes.destroy(request.environment)

    def states(self, request: Request) -> dict[str, str]:
        return {container.node: container.state for container in cli.containers(request.environment)}

    def power(self, environment: str, node: str, *, on: bool) -> None:
        cli.podman("start" if on else "kill", nodes.container_name(environment, node))

    def machines(self, environment: str | None = None) -> list[Machine]:
        return list(cli.containers(environment))

    def networks(self, environment: str | None = None) -> list[Network]:
        return cli.networks(environment)

    def claim_network(self, environment: str, home: str, subnets: Sequence[str]) -> Network:
        return cli.create_network(host_network.network_name(environment), environment, home, subnets)

    def fingerprint(self, environment: str, network: Mapping[str, Any]) -> dict[str, str]:
        return host_network.fingerprint(environment, network["bridge"])

    def preflight(self, request: Request) -> list[Probe]:
        def room(missing: Sequence[Mapping[str, Any]]) -> list[Probe]:
            # What such nodes were measured to use, not their limits: most of a limit is never asked for.
            used = engines.in_use(missing, request.profile["kubernetes"]["engine"])
            return [
                *self.features(),
                probes.memory_probe(used["memory"]),
                probes.disk_probe(used["disk"], paths.home()),
                *preflight.caches_probes(image_store.folder(paths.cache())),
                probes.inotify_probe(used["inotify"]),
            ]

        return preflight.look(self, request, self.programs, [], room)

    def features(self) -> list[Probe]:
        return [*probes.kernel_probes(), *([_backend_probe()] if shutil.which("podman") else [])]

    def diagnostics(self, environment: str) -> Iterator[tuple[str, Sequence[str]]]:
        yield from ((f"podman/{name}.txt", ["podman", *words.split()]) for name, words in _OVERVIEW.items())
        for container in base.known(cli.containers, environment):
            # What systemd said before a journal was there, and why a container ended.
            yield f"podman/{container.name}/log.txt", ["podman", "logs", "--tail=2000", container.name]
            yield f"podman/{container.name}/inspect.json", ["podman", "inspect", container.name]
        for one in base.known(cli.networks, environment):
            yield f"podman/network-{one.name}.json", ["podman", "network", "inspect", one.name]

    def save_image(self, image: str, archive: Path, timeout: float) -> bool:
        if program.run(["podman", "image", "exists", image], check=False, timeout=60).code != 0:
            return False
        program.run(["podman", "save", "--format", "docker-archive", "-o", str(archive), image], timeout=timeout)
        return True

    def cached_files(self) -> list[CachedFile]:
        rows: list[dict[str, Any]] = json.loads(cli.podman("images", "--format", "json") or "[]") or []
        users = {container.image: container.name for container in cli.containers()}

        def user(name: str, row: Mapping[str, Any]) -> str:
            return users.get(name) or users.get(str(row.get("Id"))) or ""

        return [
            CachedFile(NODE_IMAGE, name, int(row.get("Size") or 0), user(name, row))
            for row in rows
            for name in row.get("Names") or []
            if name.rpartition(":")[0] in (image.REPOSITORY, image.ROOT_REPOSITORY)
        ]

    def remove_cached(self, item: CachedFile) -> None:
        cli.podman("image", "rm", item.what)


def _backend_probe() -> Probe:
    """Does podman use the network program that leaves addresses and firewall to us?"""
    backend, needed = cli.network_backend(), "netavark"
    fix = f"apt-get install -y --no-install-recommends {needed}, then podman system reset"
    return Probe("podman network", backend == needed, backend, needed, fix, "podman_backend")
