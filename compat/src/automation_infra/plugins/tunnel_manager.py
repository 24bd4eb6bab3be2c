"""The plugin TunnelManager of hosts with the methods of the original."""

from __future__ import annotations

from devenv.testing.objects import Host
from devenv.testing.plugins import tunnels

CLUSTER_NAMES = ".svc.cluster.local"


class TunnelManager(tunnels.TunnelManager):
    """Tunnels of one host by name."""

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._by_name: dict[str, tunnels.Tunnel] = {}

    def get_or_create(self, name: str, address: str, port: int) -> tunnels.Tunnel:
        """Return the open tunnel ``name``; names of a cluster are those that the host's proxy reaches."""
        tunnel = self._by_name.get(name)
        if tunnel is None or not tunnel.is_open:
            via = self._host.SSH if address.endswith(CLUSTER_NAMES) else None
            tunnel = self._by_name[name] = self.open(port, address, via=via)
            vars(tunnel)["local_bind_port"] = tunnel.local_port
        return tunnel

    def clear(self) -> None:
        """Close all tunnels."""
        self.reset_state()

    def reset_state(self) -> None:
        self._by_name.clear()
        super().reset_state()
