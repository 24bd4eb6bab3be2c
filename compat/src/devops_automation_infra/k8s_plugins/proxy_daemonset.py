"""The plugin ProxyDaemonSet of clusters."""

from devenv.testing.plugins.proxy import ProxyDaemonSet as ProxyDaemonSet
