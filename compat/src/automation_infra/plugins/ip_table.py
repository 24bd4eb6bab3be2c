"""The plugin Iptables of hosts."""

from devenv.testing.plugins.iptables import Iptables as Iptables
