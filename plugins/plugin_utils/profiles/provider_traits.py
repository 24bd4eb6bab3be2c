"""What a provider can and cannot do (configs/providers), so that nobody has to know providers by their names."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths


class ProviderTraits(TypedDict):
    """A file of configs/providers."""

    description: str
    # Whether the provider makes machines, or the profile names those that exist (nodes.NODE.host).
    machines: Literal["made", "given"]
    # Whether a new node has the images of a snapshot from the start, so that nobody has to bring them.
    image_store: bool
    # Kinds of what it keeps for the next node (`devenv prune --only`).
    caches: list[str]
    # Operations that it does not have, and why: continues "the provider NAME ...".
    cannot: dict[str, str]


def names(configs: Path = paths.CONFIGS) -> list[str]:
    """All providers, by name."""
    return sorted(path.stem for path in (configs / "providers").glob("*.yml"))


@cache
def traits(name: str, configs: Path = paths.CONFIGS) -> ProviderTraits:
    """Return the traits of the provider ``name``. Raises OSError for an unknown one."""
    said: dict[str, Any] = yaml.safe_load((configs / "providers" / f"{name}.yml").read_text())
    return cast(ProviderTraits, said)


def makes_machines(name: str) -> bool:
    """Whether devenv makes the provider's machines, and their network with them."""
    return traits(name)["machines"] == "made"


def of_given_machines() -> str:
    """Return the provider whose machines a profile names."""
    return next(name for name in names() if not makes_machines(name))
