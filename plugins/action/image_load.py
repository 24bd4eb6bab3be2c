"""Load archives, or images of podman's local store, into all nodes at the same time."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import oci
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import registry
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import image_load, kept_images, remote


class ActionModule(Action, ActionBase):
    _supports_check_mode = False

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        if not args["nodes"]:
            raise DevenvError("nodes_none", "no nodes to load images into")
        for engine in sorted({str(variables["hostvars"][name].get("devenv_engine") or "") for name in args["nodes"]}):
            if engine:
                engines.require_operation(engine, "image load")
        targets = [remote.target(name, variables["hostvars"][name]) for name in args["nodes"]]
        folder = inventory.state_folder(variables) if args["keep"] or args["kept"] else None
        images: dict[str, dict[str, str]] = {}
        changed = False
        loaded = [self._load(image, targets, args, folder) for image in args["images"]]
        if folder and args["kept"]:
            loaded += [self._load_kept(images, targets, args["timeout"]) for images in kept_images.kept(folder)]
        for result in (result for results in loaded for result in results):
            images.setdefault(result.node, {}).update(result.images)
            changed = changed or result.changed
        return {"changed": changed, "nodes": images}

    def _load(
        self, image: str, targets: list[remote.Target], args: dict[str, Any], folder: Path | None
    ) -> list[image_load.Loaded]:
        archive, keep = Path(image), folder if args["keep"] else None
        if archive.is_file():
            if args["missing_only"]:
                digests = {stored.name: stored.digest for stored in oci.read(archive)}
                targets = image_load.lacking(digests, targets)
            return self._load_archive(archive, targets, args["timeout"], keep)
        # Next to its place, or in /var/tmp: the file is large, and /tmp may be in memory.
        with tempfile.TemporaryDirectory(prefix=".devenv-image-", dir=keep or "/var/tmp") as temporary:
            archive = Path(temporary) / "image.tar"
            registry.save_image(image, archive, args["timeout"])
            return self._load_archive(archive, targets, args["timeout"], keep, given=image)

    def _load_archive(
        self, archive: Path, targets: list[remote.Target], timeout: float, keep: Path | None, given: str = ""
    ) -> list[image_load.Loaded]:
        further = image_load.aliases(image_load.names_in(archive), given)
        loaded = image_load.load(archive, targets, further=further, timeout=timeout, progress=self.progress)
        if keep and loaded:
            kept_images.keep(keep, archive, loaded[0].images, further, move=bool(given))
        return loaded

    def _load_kept(
        self, images: kept_images.KeptImages, targets: list[remote.Target], timeout: float
    ) -> list[image_load.Loaded]:
        lacking = image_load.lacking(images.digests, targets)
        return image_load.load(images.archive, lacking, further=images.aliases, timeout=timeout, progress=self.progress)
