"""What each provider supports (configs/providers), so that code does not decide by a provider's name."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict, cast

from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import data
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import KeyEffects


class ProviderTraits(TypedDict):
    """A file of configs/providers."""

    description: str
    # Whether the provider creates machines, or the profile names existing ones (nodes.NODE.host).
    machines: Literal["made", "given"]
    # Whether a new node has the images of a snapshot from the start, so that they need not be delivered.
    image_store: bool
    # Kinds of files cached for the next node (`devenv prune --only`).
    caches: list[str]
    # Unsupported operations and why; each text continues "the provider NAME ...".
    cannot: dict[str, str]
    # Effect of the keys that depend on the provider; without it, every key is used.
    keys: NotRequired[KeyEffects]


def names() -> list[str]:
    """Return the names of all providers, sorted."""
    return data.names_in("providers")


def traits(name: str) -> ProviderTraits:
    """Return the traits of the provider ``name``. Raises OSError for an unknown one."""
    return cast(ProviderTraits, data.read(f"providers/{name}"))


def makes_machines(name: str) -> bool:
    """Return whether the provider creates its machines, and their network with them."""
    return traits(name)["machines"] == "made"


def of_given_machines() -> str:
    """Return the provider whose machines a profile names."""
    return next(name for name in names() if not makes_machines(name))
