"""The plugin SSH of hosts: SshDirect into the proxy of a host."""

from __future__ import annotations

from automation_infra.plugins.ssh_direct import Original

from devenv.testing.plugins import proxy


class SSH(proxy.SSH, Original):
    """Commands and files in the proxy of one host, on port 2222."""
