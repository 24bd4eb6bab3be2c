# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bring images to nodes: see plugins/modules/image_load.py for its documentation."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, ClassVar

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import oci
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action, Spec
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import registry
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import image_load, remote


class ActionModule(Action, ActionBase):
    """Load archives, or images of podman's local store, into every node at the same time."""

    _supports_check_mode = False

    SPEC: ClassVar[Spec] = {
        "images": {"type": "list", "elements": "str", "required": True},
        "nodes": {"type": "list", "elements": "str", "required": True},
        "missing_only": {"type": "bool", "default": False},
        "timeout": {"type": "float", "default": 600},
    }

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        if not args["nodes"]:
            raise DevenvError("image_load_failed", "there is no node to load images into")
        targets = [remote.target(name, variables["hostvars"][name]) for name in args["nodes"]]
        missing_only, timeout = args["missing_only"], args["timeout"]
        loaded = [one for image in args["images"] for one in self._load(image, targets, timeout, missing_only)]
        images: dict[str, dict[str, str]] = {}
        for one in loaded:
            images.setdefault(one.node, {}).update(one.images)
        return {"changed": any(one.changed for one in loaded), "nodes": images}

    def _load(
        self, image: str, targets: list[remote.Target], timeout: float, missing_only: bool
    ) -> list[image_load.Loaded]:
        if Path(image).is_file():
            if missing_only:
                digests = {stored.name: stored.digest for stored in oci.read(Path(image))}
                targets = image_load.lacking(digests, targets)
            return image_load.load(Path(image), targets, timeout=timeout, progress=self.say)
        # In /var/tmp, for large files: /tmp may live in memory.
        with tempfile.TemporaryDirectory(prefix="devenv-image-", dir="/var/tmp") as folder:
            archive = Path(folder) / "image.tar"
            registry.save_image(image, archive, timeout)
            return image_load.load(archive, targets, timeout=timeout, progress=self.say)
