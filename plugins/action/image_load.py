"""Load archives, or images of podman's local store, into all nodes at the same time."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import oci
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import registry
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import image_load, remote


class ActionModule(Action, ActionBase):
    _supports_check_mode = False

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        if not args["nodes"]:
            raise DevenvError("image_load_failed", "no nodes to load images into")
        for engine in sorted({str(variables["hostvars"][name].get("devenv_engine") or "") for name in args["nodes"]}):
            if engine:
                engines.require_operation(engine, "image load")
        targets = [remote.target(name, variables["hostvars"][name]) for name in args["nodes"]]
        missing_only, timeout = args["missing_only"], args["timeout"]
        images: dict[str, dict[str, str]] = {}
        changed = False
        for image in args["images"]:
            for loaded in self._load(image, targets, timeout, missing_only):
                images.setdefault(loaded.node, {}).update(loaded.images)
                changed = changed or loaded.changed
        return {"changed": changed, "nodes": images}

    def _load(
        self, image: str, targets: list[remote.Target], timeout: float, missing_only: bool
    ) -> list[image_load.Loaded]:
        if Path(image).is_file():
            if missing_only:
                digests = {stored.name: stored.digest for stored in oci.read(Path(image))}
                targets = image_load.lacking(digests, targets)
            return image_load.load(Path(image), targets, timeout=timeout, progress=self.progress)
        # In /var/tmp: the file is large, and /tmp may be in memory.
        with tempfile.TemporaryDirectory(prefix="devenv-image-", dir="/var/tmp") as folder:
            archive = Path(folder) / "image.tar"
            registry.save_image(image, archive, timeout)
            return image_load.load(archive, targets, timeout=timeout, progress=self.progress)
