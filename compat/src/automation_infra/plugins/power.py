"""The plugin Power of hosts."""

from devenv.testing.plugins.power import Power as Power
