"""The host plugins Docker and DockerCompose: docker (or podman with docker's commands) of a host, run there."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import wait

from devenv.testing.errors import CommandTimeout, NotAvailable

if TYPE_CHECKING:
    from devenv.testing.objects import Host

SECONDS = 600.0
# A container, by name or id.
Container = str


class Docker:
    """Containers and images of one host."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def command(self, *words: str, stdin: str | bytes = "", timeout: float = SECONDS) -> str:
        """Return stdout of docker with these arguments. Raises NotAvailable on a host without docker, CommandFailed,
        CommandTimeout.
        """
        return self._host.SshDirect.execute([self._program, *words], stdin=stdin, timeout=timeout, sudo=True)

    @cached_property
    def _program(self) -> str:
        return _first(self._host, "--version", "docker")[0]

    def run(
        self,
        image: str,
        *command: str,
        name: str = "",
        env: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
    ) -> Container:
        """Start a container in the background and return its id. ``options``: further ones of `docker run`."""
        words = [*([f"--name={name}"] if name else []), *(f"--env={key}={value}" for key, value in (env or {}).items())]
        return self.command("run", "--detach", *words, *options, image, *command).strip()

    def exec(self, container: Container, command: str | Sequence[str], *, timeout: float = SECONDS) -> str:
        """Return stdout of a command in a container. Raises CommandFailed, CommandTimeout."""
        argv = ["sh", "-c", command] if isinstance(command, str) else list(command)
        return self.command("exec", container, *argv, timeout=timeout)

    def containers(self, name: str = "", *, stopped: bool = False) -> list[Container]:
        """Return the names of containers whose name contains ``name``: those that run, or also the stopped ones."""
        words = ["--format={{.Names}}", *(["--all"] if stopped else []), *([f"--filter=name={name}"] if name else [])]
        return self.command("ps", *words).split()

    def inspect(self, container: Container) -> dict[str, Any]:
        """Return the document of `docker inspect`."""
        document: dict[str, Any] = json.loads(self.command("inspect", container))[0]
        return document

    def is_running(self, container: Container) -> bool:
        return bool(self._existing(container, "ps"))

    def wait_running(self, container: Container, *, timeout: float = 60) -> None:
        """Wait until a container runs. Raises CommandTimeout."""
        late = CommandTimeout(self._host.name, f"container {container} runs", timeout)
        wait.until(lambda: self.is_running(container), time.monotonic() + timeout, lambda: late, pause=0.5)

    def addresses(self, container: Container) -> list[str]:
        """Return the addresses of a container in its networks."""
        networks = self.inspect(container)["NetworkSettings"]["Networks"].values()
        return [network["IPAddress"] for network in networks if network["IPAddress"]]

    def logs(self, container: Container) -> str:
        """Return what a container has written to stdout and stderr."""
        line = f"{self._program} logs {shlex.quote(container)} 2>&1"
        return self._host.SshDirect.execute(line, timeout=SECONDS, sudo=True)

    def start(self, container: Container) -> None:
        self.command("start", container)

    def stop(self, container: Container) -> None:
        self.command("stop", container)

    def restart(self, container: Container) -> None:
        self.command("restart", container)

    def kill(self, container: Container, signal: str = "KILL") -> None:
        self.command("kill", f"--signal={signal}", container)

    def remove(self, *containers: Container) -> None:
        """Remove containers that exist, running or not, with their anonymous volumes."""
        if ids := [each for container in containers for each in self._existing(container, "ps", "--all")]:
            self.command("rm", "--force", "--volumes", *ids)

    def _existing(self, container: Container, *words: str) -> list[str]:
        """Return the ids of the container, one or none."""
        rows = [line.split() for line in self.command(*words, "--no-trunc", "--format={{.ID}} {{.Names}}").splitlines()]
        return [row[0] for row in rows if container in row[1].split(",") or row[0].startswith(container)]

    def load(self, archive: Path) -> None:
        """Load the images of a local archive of `docker save`."""
        self.command("load", stdin=archive.read_bytes())

    def ping(self) -> None:
        self.command("version")

    def verify_functionality(self) -> None:
        """List containers and images."""
        self.containers(stopped=True)
        self.command("images")


class DockerCompose:
    """Projects of docker compose on one host. ``file`` is the path of a compose file there."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def command(self, file: str, *words: str, timeout: float = 1200) -> str:
        """Return stdout of docker compose with these arguments. Raises NotAvailable on a host without it, and
        CommandFailed, CommandTimeout.
        """
        argv = [*self._program, "--file", file, *words]
        return self._host.SshDirect.execute(argv, timeout=timeout, sudo=True)

    @cached_property
    def _program(self) -> list[str]:
        return _first(self._host, "version", "docker compose", "docker-compose")

    def up(self, file: str, *services: str) -> None:
        """Start a project, or some of its services, in the background."""
        self.command(file, "up", "--detach", *services)

    def down(self, file: str, *, volumes: bool = False) -> None:
        """Remove the containers and networks of a project."""
        self.command(file, "down", *(["--volumes"] if volumes else []))

    def pull(self, file: str) -> None:
        """Pull the images of a project."""
        self.command(file, "pull", "--quiet", timeout=3600)

    def restart(self, file: str, *services: str) -> None:
        self.command(file, "restart", *services)

    def recreate(self, file: str, *services: str) -> None:
        """Remove the containers of services and start new ones."""
        self.command(file, "up", "--detach", "--force-recreate", *services)

    def services(self, file: str) -> list[str]:
        """Return the names of a project's services."""
        return self.command(file, "config", "--services").split()

    def containers(self, file: str) -> list[Container]:
        """Return the ids of a project's containers."""
        return self.command(file, "ps", "--quiet").split()

    @property
    def version(self) -> str:
        """The version of docker compose, such as 2.24.0."""
        line = " ".join([*self._program, "version", "--short"])
        return self._host.SshDirect.execute(line, sudo=True).strip()

    def ping(self) -> None:
        self._host.SshDirect.execute([*self._program, "version"], sudo=True)

    def verify_functionality(self) -> None:
        self.ping()


def _first(host: Host, version: str, *programs: str) -> list[str]:
    """Return the words of the first of the programs that a host has, as it prints its version. Raises NotAvailable."""
    for program in programs:
        if host.SshDirect.run(f"{program} {version} > /dev/null 2>&1", sudo=True).code == 0:
            return program.split()
    raise NotAvailable(f"{host.name}: {programs[0]} is not installed there")
