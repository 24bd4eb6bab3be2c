"""Hosts of tests."""

from devenv.testing.objects import Host as Host
