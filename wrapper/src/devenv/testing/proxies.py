"""Requests of a test to its machines that no proxy sees."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import no_proxy

from devenv.testing.objects import BaseConfig


def hosts(base_config: BaseConfig) -> list[str]:
    """Return names and addresses of the machines and their clusters, and all hosts of their environment."""
    machines = base_config.hosts.values()
    known = [text for host in machines for text in (host.name, host.node, *host.addresses)]
    files = [cluster.kubeconfig for cluster in base_config.clusters.values() if cluster.kubeconfig]
    name = base_config.environment_name
    environment = no_proxy.of_environment(paths.environment(name)) if name else []
    return list(dict.fromkeys([*no_proxy.expanded(known), *no_proxy.servers(files), *environment]))


@contextlib.contextmanager
def bypassed(base_config: BaseConfig) -> Iterator[None]:
    """Add the machines to NO_PROXY and no_proxy of this process."""
    before = {variable: os.environ.get(variable) for variable in no_proxy.VARIABLES}
    os.environ.update(no_proxy.variables(hosts(base_config)))
    try:
        yield
    finally:
        for variable, value in before.items():
            os.environ.pop(variable, None)
            if value is not None:
                os.environ[variable] = value
