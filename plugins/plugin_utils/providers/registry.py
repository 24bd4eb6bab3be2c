"""Providers by name: each folder below providers/ is one, imported on first use."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, cast

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.core.program import ProgramFailed
from ansible_collections.devenv.lab.plugins.plugin_utils.host.network import Network
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import provider_traits
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import Item, Machine, Provider

_PACKAGE = __name__.rpartition(".")[0]


@cache
def get(name: str) -> Provider:
    """Return the provider ``name``. Raises DevenvError ``provider_cannot`` for an unknown one."""
    if name not in provider_traits.names():
        raise DevenvError("provider_cannot", f"there is no provider {name}")
    return cast(Provider, importlib.import_module(f"{_PACKAGE}.{name}.provider").Provider())


def every() -> list[Provider]:
    """Return all providers, by name."""
    return [get(name) for name in provider_traits.names()]


def of(profile: Mapping[str, Any]) -> Provider:
    """Return the provider of a resolved profile."""
    return get(str(profile["provider"]))


def machines(environment: str | None = None) -> list[Machine]:
    """Return every provider's machines on this host, of one environment or of all. Raises ProgramFailed."""
    return [machine for provider in every() for machine in provider.machines(environment)]


def networks(environment: str | None = None) -> list[Network]:
    """Return the networks that environments have claimed with any provider. Raises ProgramFailed."""
    return [network for provider in every() for network in provider.networks(environment)]


def save_image(image: str, archive: Path, timeout: float) -> None:
    """Write an image that a provider has in a store on this host to ``archive``. Raises DevenvError ``image_unknown``,
    ``image_load_failed``.
    """
    try:
        if not any(provider.save_image(image, archive, timeout) for provider in every()):
            raise DevenvError("image_unknown", f"neither a file nor an image on this host: {image}")
    except (ProgramFailed, OSError) as error:
        raise DevenvError("image_load_failed", str(error), where=image) from error


def known_machines(environment: str | None = None) -> list[Machine]:
    """Return `machines`. Raises DevenvError ``machines_unknown`` if a provider cannot query them."""
    return [machine for provider in every() for machine in _known(provider.machines, environment)]


def known(environment: str | None = None) -> tuple[list[Machine], list[Network]]:
    """Return `machines` and `networks`, queried in parallel. Raises DevenvError ``machines_unknown``."""
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(known_machines, environment)
        claimed = [network for provider in every() for network in _known(provider.networks, environment)]
        return pending.result(), claimed


def _known(query: Callable[[str | None], list[Item]], environment: str | None) -> list[Item]:
    try:
        return query(environment)
    except (OSError, ProgramFailed, ValueError, LookupError, TypeError) as error:
        raise DevenvError("machines_unknown", f"cannot query the nodes on this host: {error}") from error
