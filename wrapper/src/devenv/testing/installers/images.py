"""Base images: what a test calls the machine that it wants to start from.

There is one node image, Debian with systemd and ssh (docs/testing.md). A base image is a name for it together with keys
of a profile's node, so that tests written for other labs keep their words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from devenv.testing import entries

GROUP = "devenv.base_images"


@dataclass(frozen=True)
class BaseImage:
    """``node``: keys of a profile's node that a host of this image starts from; what the test says counts more."""

    description: str
    node: Mapping[str, Any] = field(default_factory=dict)


BUILT_IN: Mapping[str, BaseImage] = {
    "k8s_base": BaseImage("the node image, to be made part of a Kubernetes cluster"),
    "gravity_base": BaseImage("the node image, to be made part of a Gravity cluster", {"memory": "4GiB"}),
    "gravity_infra_230": BaseImage("the node image, to be made part of a Gravity cluster", {"memory": "4GiB"}),
    "automation_infra_1.0": BaseImage("the node image as it is; a host without a cluster, or of any"),
    "ubuntu_clean": BaseImage("the node image (Debian) as it is, nothing prepared"),
}


def known() -> dict[str, BaseImage]:
    """All base images: ours, and those of the entry points ``devenv.base_images`` (each a BaseImage)."""
    found = dict(BUILT_IN)
    for entry in entries.installed(GROUP):
        image = entry.load()
        if not isinstance(image, BaseImage):
            raise TypeError(f"entry point {entry.value} of {GROUP} is no BaseImage")
        found[entry.name] = image
    return found
