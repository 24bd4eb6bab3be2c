"""podman's command line as typed functions, with few calls. Identifies environments by labels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from ansible_collections.devenv.lab.plugins.plugin_utils.core import program
from ansible_collections.devenv.lab.plugins.plugin_utils.host.network import Network
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import Machine

ENVIRONMENT_LABEL = "devenv.environment"
HOME_LABEL = "devenv.home"
NODE_LABEL = "devenv.node"
SUBNETS_LABEL = "devenv.subnets"


@dataclass(frozen=True)
class Container(Machine):
    """A container of devenv. ``state`` is podman's term: created, running, exited, ..."""

    image: str = ""


def podman(*arguments: str, timeout: float = 120) -> str:
    """Run podman and return its stdout. Raises ProgramFailed."""
    return program.run(["podman", *arguments], timeout=timeout).stdout


def _list(environment: str | None, *command: str) -> str:
    """Return the JSON list of one environment's or all environments' objects; empty on a host without podman, whose
    nodes are virtual machines, if any.
    """
    if not shutil.which("podman"):
        return ""
    label = ENVIRONMENT_LABEL if environment is None else f"{ENVIRONMENT_LABEL}={environment}"
    # In one call: other environments may be removed between two calls.
    return podman(*command, "--filter", f"label={label}", "--format", "json")


def containers(environment: str | None = None) -> list[Container]:
    """Return the containers of ``environment``, or of every environment on this machine, running or not."""
    return parse_containers(_list(environment, "ps", "--all"))


def parse_containers(text: str) -> list[Container]:
    """Return the containers in the JSON of ``podman ps``, sorted by name."""
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
        for row in json.loads(text or "[]") or []
    ]
    return sorted(parsed, key=lambda container: container.name)


def networks(environment: str | None = None) -> list[Network]:
    """Return the networks of ``environment``, or of every environment on this machine."""
    return parse_networks(_list(environment, "network", "ls"))


def parse_networks(text: str) -> list[Network]:
    """Return the networks in the JSON of ``podman network ls`` or ``podman network inspect``."""
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
    """Create a bridge network on which podman assigns no address and leaves no firewall rule."""
    labels = {ENVIRONMENT_LABEL: environment, HOME_LABEL: home, SUBNETS_LABEL: " ".join(subnets)}
    flags = [f"--label={key}={value}" for key, value in labels.items()]
    podman("network", "create", "--ipam-driver", "none", "--disable-dns", *flags, name)
    return parse_networks(podman("network", "inspect", name))[0]


def image_exists(reference: str) -> bool:
    return program.run(["podman", "image", "exists", reference], check=False).code == 0


def network_backend() -> str:
    """Return ``netavark`` or ``cni``."""
    return podman("info", "--format", "{{.Host.NetworkBackend}}").strip()
