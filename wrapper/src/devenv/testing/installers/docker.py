"""Installers for hosts whose base image has docker and docker compose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from devenv.testing.errors import NotAvailable
from devenv.testing.installers.catalogue import Installer

if TYPE_CHECKING:
    import pytest

    from devenv.testing.objects import BaseConfig, Host

# Compose files on a host, each in a folder of its own, after which compose names the project.
FOLDER = "/var/lib/devenv-compose"


class Docker(Installer):
    """A host with docker and docker compose."""

    on = "host"
    needs: ClassVar[Sequence[str]] = ("ssh",)

    def session(self, target: Host, base_config: BaseConfig, request: pytest.FixtureRequest) -> None:
        target.Docker.ping()
        target.DockerCompose.ping()


class DevopsProxyContainer(Installer):
    """An ssh server in a container, which `host.SSH` connects to."""

    on = "host"
    needs: ClassVar[Sequence[str]] = ("docker",)

    def install(self, target: Host, base_config: BaseConfig, request: pytest.FixtureRequest) -> None:
        target.ProxyContainer.run()
        request.node.ihook.pytest_after_proxy_container(host=target, base_config=base_config, request=request)


class DevopsDocker(Installer):
    """A host with the services of the project's compose file ``file``, a path below pytest's root directory."""

    on = "host"
    needs: ClassVar[Sequence[str]] = ("docker", "devops_proxy_container")
    file: ClassVar[str] = "devops_docker_compose.yaml"

    def install(self, target: Host, base_config: BaseConfig, request: pytest.FixtureRequest) -> None:
        source = request.config.rootpath / self.file
        if not source.is_file():
            raise NotAvailable(f"{source}: the compose file of {type(self).__name__} does not exist")
        path = f"{FOLDER}/{source.stem}/compose.yaml"
        script = 'umask 077 && mkdir -p "$(dirname "$1")" && cat > "$1"'
        target.SshDirect.execute(["sh", "-c", script, "sh", path], stdin=source.read_bytes(), sudo=True)
        # This pulls the images that the host does not have.
        target.DockerCompose.up(path)


class CoreDocker(DevopsDocker):
    """devops_docker, and the services of the project's own compose file."""

    needs: ClassVar[Sequence[str]] = ("devops_docker",)
    file: ClassVar[str] = "core_docker_compose.yaml"
