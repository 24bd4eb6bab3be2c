"""Clients of the package ``kubernetes`` that no proxy sees."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from kubernetes.client import ApiClient, Configuration


def client_of(kubeconfig: Path) -> ApiClient:
    """Return a client configured from a kubeconfig file alone. Close it, or use ``with``."""
    from kubernetes import client

    return client.ApiClient(configuration(kubeconfig))


def configuration(kubeconfig: Path, host: str = "") -> Configuration:
    """Return the settings of a client; ``host`` replaces the URL of the API, without retries."""
    from kubernetes import client, config

    settings = client.Configuration()
    config.load_kube_config(str(kubeconfig), client_configuration=settings, persist_config=False)  # type: ignore[no-untyped-call]
    if host:
        settings.host, settings.retries = host, False
    # Not by removing the proxy: the library's websockets (exec) would then take it from the environment again.
    settings.no_proxy = urlsplit(settings.host).hostname
    return settings
