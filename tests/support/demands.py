"""What tests of demands have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from devenv.testing import demand_parse
from devenv.testing.demand import DemandError
from devenv.testing.installers import catalogue, machines


def problems_of(arguments: Mapping[str, Any], **options: Any) -> list[str]:
    """Return the mistakes for which the arguments of a marker are refused."""
    with pytest.raises(DemandError) as caught:
        demand_parse.parse(arguments, **options)
    return list(caught.value.problems)


def forget_registered(patch: pytest.MonkeyPatch) -> None:
    """Hide what other tests have registered."""
    for registry in (catalogue.INSTALLERS, machines.IMAGES, machines.HARDWARE_TYPES):
        patch.setattr(registry, "_registered", {})
