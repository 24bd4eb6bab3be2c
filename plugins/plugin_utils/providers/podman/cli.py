"""podman's command line as functions: typed, marked, few calls. Knows labels, knows nothing of profiles."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import program
from ansible_collections.devenv.lab.plugins.plugin_utils.host.network import Network
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import Machine

ENVIRONMENT_LABEL = "devenv.environment"
HOME_LABEL = "devenv.home"
NODE_LABEL = "devenv.node"
SUBNETS_LABEL = "devenv.subnets"


@dataclass(frozen=True)
class Container(Machine):
    """A container of ours. ``state`` is podman's word: created, running, exited, ..."""

    image: str = ""


def podman(*arguments: str, timeout: float = 120) -> str:
    """Run podman and return its stdout; ProgramFailed otherwise."""
    return program.run(["podman", *arguments], timeout=timeout).stdout


def _listed(*arguments: str) -> str:
    """Output of podman, or nothing on a host without it: its nodes are virtual machines, or none."""
    return podman(*arguments) if shutil.which("podman") else ""


def containers(environment: str | None = None) -> list[Container]:
    """All containers of ``environment``, or of every environment on this machine, running or not."""
    wanted = ENVIRONMENT_LABEL if environment is None else f"{ENVIRONMENT_LABEL}={environment}"
    return parse_containers(_listed("ps", "--all", "--filter", f"label={wanted}", "--format", "json"))


def parse_containers(text: str) -> list[Container]:
    """Containers in the JSON of ``podman ps``, sorted by name."""
    rows: list[dict[str, Any]] = json.loads(text or "[]") or []
    parsed = [
        Container(
            name=row["Names"][0],
            environment=row["Labels"][ENVIRONMENT_LABEL],
            node=row["Labels"].get(NODE_LABEL, ""),
            home=row["Labels"].get(HOME_LABEL, ""),
            state=row["State"],
            image=row["Image"],
            pid=row.get("Pid", 0),
        )
        for row in rows
    ]
    return sorted(parsed, key=lambda container: container.name)


def networks(environment: str | None = None) -> list[Network]:
    """Networks of ``environment``, or of every environment on this machine."""
    wanted = ENVIRONMENT_LABEL if environment is None else f"{ENVIRONMENT_LABEL}={environment}"
    # In one call: between two, others may end their environment.
    return parse_networks(_listed("network", "ls", "--filter", f"label={wanted}", "--format", "json"))


def parse_networks(text: str) -> list[Network]:
    """Networks in the JSON of ``podman network ls``, and of ``inspect``."""
    return [
        Network(
            name=row["name"],
            environment=row["labels"][ENVIRONMENT_LABEL],
            home=row["labels"].get(HOME_LABEL, ""),
            bridge=row["network_interface"],
            subnets=row["labels"].get(SUBNETS_LABEL, "").split(),
        )
        for row in json.loads(text or "[]") or []
    ]


def create_network(name: str, environment: str, home: str, subnets: Sequence[str]) -> Network:
    """Make a bridge network on which podman gives no address and leaves no firewall rule."""
    labels = {ENVIRONMENT_LABEL: environment, HOME_LABEL: home, SUBNETS_LABEL: " ".join(subnets)}
    flags = [f"--label={key}={value}" for key, value in labels.items()]
    podman("network", "create", "--ipam-driver", "none", "--disable-dns", *flags, name)
    return parse_networks(podman("network", "inspect", name))[0]


def image_exists(reference: str) -> bool:
    return program.run(["podman", "image", "exists", reference], check=False).code == 0


def network_backend() -> str:
    """``netavark`` or ``cni``."""
    return podman("info", "--format", "{{.Host.NetworkBackend}}").strip()
