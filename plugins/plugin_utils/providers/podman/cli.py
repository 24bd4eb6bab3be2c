"""podman's command line as typed functions, with few calls. Identifies environments by labels.

The user's settings of podman (variables, containers.conf) apply to none of the calls.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.core import program
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.host.network import Network
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import Machine

ENVIRONMENT_LABEL = "devenv.environment"
HOME_LABEL = "devenv.home"
NODE_LABEL = "devenv.node"
SUBNETS_LABEL = "devenv.subnets"

# Variables of podman and of its libraries and helpers: they change defaults, the store, or the machine.
_VARIABLES = (
    "BUILDAH_", "CONTAINERS_", "CONTAINER_", "LIBPOD_", "NETAVARK_", "NOTIFY_SOCKET", "PODMAN_", "STORAGE_",
    "_CONTAINERS_",
)  # fmt: skip
# Instead of all configuration files.
_NO_SETTINGS = {"CONTAINERS_CONF": os.devnull}
_REMOTE = ("CONTAINER_HOST", "CONTAINER_CONNECTION")
# The service of this host's podman, which has the same store as the program.
_LOCAL_SERVICES = ("", "unix:///run/podman/podman.sock", "unix:/run/podman/podman.sock")


@dataclass(frozen=True)
class Container(Machine):
    """A container of devenv. ``state`` is podman's term: created, running, exited, ..."""

    image: str = ""


def podman(*arguments: str, timeout: float = 120) -> str:
    """Run podman and return its stdout. Raises ProgramFailed, and DevenvError ``podman_remote``."""
    return run(*arguments, timeout=timeout).stdout


def run(*arguments: str, timeout: float = 120, check: bool = True) -> program.Result:
    """Run podman without the user's settings. Raises ProgramFailed, and DevenvError ``podman_remote``."""
    require_local(os.environ)
    return program.run(["podman", *arguments], env=own_environment(os.environ), timeout=timeout, check=check)


def own_environment(env: Mapping[str, str]) -> dict[str, str | None]:
    """Return the changes to the variables ``env`` that hide the user's settings from podman (None: remove)."""
    return {**{name: None for name in env if name.startswith(_VARIABLES)}, **_NO_SETTINGS}


def command(*arguments: str) -> list[str]:
    """Return the command line of podman without the user's settings, for a caller that sets no variables."""
    changes = own_environment(os.environ)
    removed = [f"--unset={name}" for name, value in changes.items() if value is None]
    return ["env", *removed, *(f"{name}={value}" for name, value in changes.items() if value), "podman", *arguments]


def require_local(env: Mapping[str, str]) -> None:
    """Raise DevenvError ``podman_remote`` if a variable selects the podman of another machine or user."""
    for name in _REMOTE:
        if env.get(name, "") not in _LOCAL_SERVICES:
            raise DevenvError("podman_remote", f"{name}={env[name]} selects a podman other than this host's")


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
    return run("image", "exists", reference, check=False).code == 0


@contextlib.contextmanager
def mounted(image: str) -> Iterator[Path]:
    """The root of an image, mounted for the block."""
    root = podman("image", "mount", image).strip()
    try:
        yield Path(root)
    finally:
        podman("image", "unmount", image)


@dataclass(frozen=True)
class Info:
    """podman's settings that no option replaces: ``backend`` (netavark or cni), and mount options of its storage."""

    backend: str
    mount_options: tuple[str, ...]


def info() -> Info:
    """Return podman's settings. Raises DevenvError ``podman_remote`` for a program that is only a client."""
    return parse_info(podman("info", "--format", "json"))


def parse_info(text: str) -> Info:
    """Return the settings in the JSON of ``podman info``."""
    data = json.loads(text)
    if data["host"].get("serviceIsRemote"):
        advice = "Install podman itself; podman-remote is only a client."
        raise DevenvError("podman_remote", f"{shutil.which('podman')} reaches only another podman", advice=advice)
    options: Mapping[str, object] = data["store"].get("graphOptions") or {}
    mounted = [str(value) for key, value in options.items() if key.endswith("mountopt")]
    return Info(str(data["host"].get("networkBackend")), tuple(",".join(mounted).split(",")))
