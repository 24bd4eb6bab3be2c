"""Names of machines: base images and hardware types (docs/testing.md)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths

from devenv.testing.registry import Registry


@dataclass(frozen=True)
class BaseImage:
    """The initial state of a machine. ``node``: keys of a profile's node, which the test's own keys override, such as
    ``base_image``, a variant of the node image; ``snapshot``: what the whole environment starts from; ``installer``:
    the one that follows from the image, unless the test or its module names one; ``local``: whether the nodes of this
    machine can have it, or only machines of an allocator.
    """

    description: str = ""
    node: Mapping[str, Any] = field(default_factory=dict)
    installer: str = ""
    snapshot: str = ""
    local: bool = True


@dataclass(frozen=True)
class HardwareType:
    """A kind of machine. ``node`` and ``installer``: as in `BaseImage`, which overrides them; ``local``: whether the
    nodes of this machine can be of this kind, or only machines of an allocator.
    """

    description: str = ""
    node: Mapping[str, Any] = field(default_factory=dict)
    installer: str = ""
    local: bool = True


_FOR_GRAVITY: Mapping[str, Any] = {"memory": "4GiB"}

IMAGES: Registry[BaseImage] = Registry(
    "devenv.base_images",
    {
        "k8s_base": BaseImage("the node image, for a Kubernetes cluster", installer="k8s"),
        "gravity_base": BaseImage("the node image, for a Gravity cluster", _FOR_GRAVITY, "devops_gravity"),
        "gravity_infra_230": BaseImage("the node image, for a Gravity cluster", _FOR_GRAVITY, "devops_gravity"),
        "automation_infra_1.0": BaseImage("the plain node image, with or without a cluster"),
        "regular": BaseImage("the plain node image, with or without a cluster"),
        "ubuntu_clean": BaseImage("the plain node image (Debian), nothing prepared"),
    },
    lambda extension: isinstance(extension, BaseImage),
)
HARDWARE_TYPES: Registry[HardwareType] = Registry(
    "devenv.hardware_types",
    {
        "vm": HardwareType("a node of this machine, or a virtual machine of an allocator"),
        "ai_camera": HardwareType("a camera with a computer", local=False),
        "table": HardwareType("a machine on a table of the lab", local=False),
    },
    lambda extension: isinstance(extension, HardwareType),
)


def variants() -> list[str]:
    """Return the names of the base images that were built on this machine (`devenv base-image build`)."""
    # Only tests with hardware need this import.
    from ansible_collections.devenv.lab.plugins.plugin_utils.providers import base_images

    return base_images.names(paths.home())


def variant_digest(name: str) -> str:
    """Return the digest of a base image's content. Raises DevenvError ``base_image_unknown``."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.providers import base_images

    return base_images.read(paths.home(), name).digest


def base_image(name: str, built: Collection[str]) -> BaseImage | None:
    """Return the base image ``name``, or None for an unknown one.

    If the nodes can start from an image of this name that was ``built`` on this machine (`variants`), they do, except
    where the registered one names an image or a snapshot of its own.
    """
    known = IMAGES.get(name) if name in IMAGES.names() else None
    if name not in built:
        return known
    known = known or BaseImage()
    has_own = known.snapshot or {"image", "base_image"} & set(known.node)
    return known if has_own else replace(known, node={**known.node, "base_image": name}, local=True)


def register_base_image(name: str, image: BaseImage) -> None:
    """Register a base image without an entry point, for example in a conftest.py."""
    IMAGES.register(name, image)


def register_hardware_type(name: str, kind: HardwareType) -> None:
    """Register a hardware type without an entry point, for example in a conftest.py."""
    HARDWARE_TYPES.register(name, kind)
