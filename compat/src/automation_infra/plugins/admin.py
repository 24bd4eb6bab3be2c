"""The plugin Admin of hosts."""

from devenv.testing.plugins.admin import Admin as Admin
