"""The host plugin TunnelManager: ports that a host reaches, on a local address."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ansible_collections.devenv.lab.plugins.plugin_utils.core import wait
from ansible_collections.devenv.lab.plugins.plugin_utils.core.net import bracketed

from devenv.testing.errors import Unreachable

if TYPE_CHECKING:
    from devenv.testing.objects import Host
    from devenv.testing.plugins.ssh import SshDirect


@dataclass
class Tunnel(contextlib.AbstractContextManager["Tunnel"]):
    """Connects ``127.0.0.1:local_port`` here with ``address:port`` as the host sees it."""

    address: str
    port: int
    local_port: int
    _child: subprocess.Popen[bytes] = field(repr=False)

    @property
    def is_open(self) -> bool:
        return self._child.poll() is None

    def close(self) -> None:
        """End the tunnel."""
        self._child.terminate()
        try:
            self._child.wait(5)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def __exit__(self, *error: object) -> None:
        self.close()


class TunnelManager:
    """Tunnels of one host, each with its own ssh process; all end with the test."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._tunnels: list[Tunnel] = []

    def open(
        self, port: int, address: str = "127.0.0.1", *, timeout: float = 30, via: SshDirect | None = None
    ) -> Tunnel:
        """Return an open tunnel to ``address:port`` as the host sees it or, with ``via=host.SSH``, its proxy. Raises
        Unreachable.
        """
        # Another process may take the free port before ssh does.
        for _attempt in range(3):
            with contextlib.ExitStack() as stack:
                # Closed unless it is returned, also when the test is interrupted.
                tunnel = stack.enter_context(self._start(via or self._host.SshDirect, _free_port(), address, port))
                if _answers(tunnel, timeout):
                    self._tunnels.append(tunnel)
                    stack.pop_all()
                    return tunnel
        message = f"no tunnel to {address}:{port}"
        raise Unreachable(self._host.name, message, 255, "", message)

    def _start(self, ssh: SshDirect, local: int, address: str, port: int) -> Tunnel:
        # Without the shared connection, which would keep the tunnel when this ssh ends.
        options = ["-o", "ControlMaster=no", "-o", "ControlPath=none", "-o", "ExitOnForwardFailure=yes", "-N"]
        child = subprocess.Popen(
            ssh.connection.ssh(*options, "-L", f"127.0.0.1:{local}:{bracketed(address)}:{port}"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **ssh.environment()},
        )
        return Tunnel(address, port, local, child)

    def ping(self) -> None:
        """Check that the host answers over ssh."""
        self._host.SshDirect.ping()

    def verify_functionality(self) -> None:
        """Read the greeting of the host's own ssh server through a tunnel."""
        with (
            self.open(self._host.port) as tunnel,
            socket.create_connection(("127.0.0.1", tunnel.local_port), timeout=15) as connection,
        ):
            if not connection.recv(4).startswith(b"SSH"):
                raise Unreachable(self._host.name, "tunnel", 255, "", "the tunnel leads to no ssh server")

    def reset_state(self) -> None:
        """Close all tunnels."""
        tunnels, self._tunnels = self._tunnels, []
        for tunnel in tunnels:
            tunnel.close()

    def close(self) -> None:
        self.reset_state()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(tunnel: Tunnel, timeout: float) -> bool:
    def connects() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", tunnel.local_port), timeout=2):
            return True
        return False

    ended = wait.until(lambda: not tunnel.is_open or connects(), time.monotonic() + timeout, pause=0.05)
    return ended and tunnel.is_open
