"""devenv: from machines to a labelled, validated Kubernetes cluster.

Start with ``Environment``: ``with Environment.up(profile="aio") as lab: ...`` (docs/use-in-tests.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from devenv.cluster import Cluster
    from devenv.environment import Environment, Host
    from devenv.errors import (
        EnvironmentBusy,
        Error,
        Interrupted,
        NotFound,
        PreflightFailed,
        ProfileChangeRefused,
        StageFailed,
        Unexpected,
        UsageError,
    )

__version__ = "0.1.0"

__all__ = [
    "Cluster",
    "Environment",
    "EnvironmentBusy",
    "Error",
    "Host",
    "Interrupted",
    "NotFound",
    "PreflightFailed",
    "ProfileChangeRefused",
    "StageFailed",
    "Unexpected",
    "UsageError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    # Imported on first use, which keeps commands such as version and status fast.
    if name not in __all__:
        raise AttributeError(name)
    import importlib

    module = "devenv.environment" if name in ("Cluster", "Environment", "Host") else "devenv.errors"
    return getattr(importlib.import_module(module), name)
