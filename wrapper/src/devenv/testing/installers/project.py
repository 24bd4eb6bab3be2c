"""The file ``devenv-testing.yml`` of a project: its installers, base images, hardware types and container."""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import document

from devenv.testing.installers.catalogue import INSTALLERS, Installer
from devenv.testing.installers.machines import HARDWARE_TYPES, IMAGES, BaseImage, HardwareType

FILE = "devenv-testing.yml"


def load(path: Path) -> None:
    """Register what the file declares, except names that a conftest.py has registered; does nothing without a file.

    Raises ValueError with the place of a mistake.
    """
    try:
        declared = read(path)
    except DevenvError as error:
        raise ValueError(str(error)) from None
    for name, keys in declared.get("installers", {}).items():
        INSTALLERS.register(name, _installer(name, keys, f"{path}: installers.{name}"), replace=False)
    for name, keys in declared.get("base_images", {}).items():
        IMAGES.register(name, BaseImage(**keys), replace=False)
    for name, keys in declared.get("hardware_types", {}).items():
        HARDWARE_TYPES.register(name, HardwareType(**keys), replace=False)


def read(path: Path) -> dict[str, Any]:
    """Return the keys of the file; none without a file. Raises DevenvError with the place of a mistake."""
    if not path.is_file():
        return {}
    schema = json.loads((paths.CONFIGS / "schema" / "testing.json").read_text())
    declared = document.read(path)
    document.validate(declared.data, schema, str(path), declared.text)
    return declared.data


def _installer(name: str, keys: str | Mapping[str, Any], where: str) -> type[Installer]:
    """Return the class that ``module:Class`` names, or one with the given attributes."""
    if not isinstance(keys, str):
        # YAML reads the key ``on`` as true.
        names = {"target": "on", "description": "__doc__"}
        return type(name, (Installer,), {names.get(key, key): value for key, value in keys.items()})
    try:
        found = pkgutil.resolve_name(keys)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{where}: cannot import {keys}: {error}") from None
    if not (isinstance(found, type) and issubclass(found, Installer)):
        raise ValueError(f"{where}: {keys} is not a subclass of devenv.testing.Installer")
    return found
