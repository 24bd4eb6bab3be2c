"""The host plugin Power: switch machines off and on."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from ansible_collections.devenv.lab.plugins.plugin_utils.core import wait

from devenv.testing.errors import CommandFailed, CommandTimeout, NotAvailable

if TYPE_CHECKING:
    from devenv.environment import Environment
    from devenv.testing.objects import Host


class Power:
    """Switches a machine off with its own shutdown or at once, and on with the provider of the environment."""

    # Other plugins need a machine that is on.
    reset_first = True

    def __init__(self, host: Host) -> None:
        self._host = host

    def off(self, *, hard: bool = False, timeout: float = 120) -> None:
        """Shut the machine down and wait until it is off; ``hard``: as if its plug were pulled."""
        if hard:
            self._kill()
        else:
            with contextlib.suppress(CommandFailed, CommandTimeout):
                self._host.SshDirect.execute("systemctl poweroff", sudo=True, timeout=15)
        late = CommandTimeout(self._host.name, "power off", timeout)
        wait.until(lambda: not self.is_on(), time.monotonic() + timeout, lambda: late, pause=0.5)

    def on(self) -> None:
        """Start the stopped nodes of the environment and wait until its clusters are ready."""
        self._environment().start()
        self._host.SshDirect.ping()

    def reboot(self, *, hard: bool = False) -> None:
        """Switch the machine off and on."""
        self.off(hard=hard)
        self.on()

    def is_on(self) -> bool:
        """Return whether the machine answers over ssh."""
        try:
            self._host.SshDirect.execute("true", timeout=10)
        except (CommandFailed, CommandTimeout):
            return False
        return True

    def ping(self) -> None:
        self._host.SshDirect.ping()

    def verify_functionality(self) -> None:
        """Raise NotAvailable unless devenv can switch this machine."""
        self._environment()

    def reset_state(self) -> None:
        """Switch the machine on if it is off."""
        if not self.is_on():
            self.on()

    def _environment(self) -> Environment:
        from devenv.environment import Environment

        if not self._host.environment_name:
            raise NotAvailable(f"{self._host.name}: cannot switch the power of a machine that devenv did not create")
        return Environment.open(self._host.environment_name)

    def _kill(self) -> None:
        from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
        from ansible_collections.devenv.lab.plugins.plugin_utils.environments import state
        from ansible_collections.devenv.lab.plugins.plugin_utils.providers import base, registry

        environment = self._environment()
        resolved = state.stored_profile(environment.state)
        try:
            base.require(resolved["provider"], "power")
            registry.of(resolved).power(environment.name, self._host.node, on=False)
        except DevenvError as error:
            raise NotAvailable(f"{self._host.name}: {error}") from error
