"""A proxy that records the requests that it gets, and an environment whose hosts no proxy may see."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.environments import network_plan, state
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve

SUBNETS = {"ipv4": "10.213.9.0/24", "ipv6": "fd00:de:9::/64"}


def dualstack_environment(folder: Path) -> Path:
    """Create the state of an environment whose nodes and virtual address have addresses of both families."""
    profile = resolve("ha-dualstack-static", overrides={"clusters.main.endpoint.kind": "virtual"})
    folder.mkdir()
    state.write_profile(folder, profile)
    state.write_network(folder, network_plan.make(profile, SUBNETS))
    return folder


@dataclass
class Recorder:
    """A listener that keeps the first line of each connection and closes it."""

    address: str
    port: int
    lines: list[str] = field(default_factory=list)

    @property
    def variables(self) -> dict[str, str]:
        """The variables of a user whose requests go through it; the user's own NO_PROXY has one host."""
        url = f"http://{self.address}:{self.port}"
        names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
        both = {variant: url for name in names for variant in (name, name.lower())}
        return {**both, "NO_PROXY": "own.example.org", "no_proxy": "own.example.org"}


@contextlib.contextmanager
def recorder(address: str = "127.0.0.1") -> Iterator[Recorder]:
    """Listen on a free port of ``address`` until the block ends."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as server:
        found = Recorder(address, server.getsockname()[1])

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(5)
                    data = connection.recv(4096)
                    found.lines.append(data.split(b"\r\n")[0].decode(errors="replace"))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield found
        finally:
            # A thread in accept keeps a closed socket alive.
            server.shutdown(socket.SHUT_RDWR)
            thread.join(5)
