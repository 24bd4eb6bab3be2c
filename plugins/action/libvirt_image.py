"""Build the image that virtual machines boot from, and the disk of images, unless they are in the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import store as bundles
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import node_recipe
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.libvirt import image as libvirt_image


class ActionModule(Action, ActionBase):
    PROGRAM_REASON = "node_image_failed"

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        if self.check and bundles.find(args["version"]) is None:
            return {"changed": True, "image": "", "images_disk": "", "kvm": False}
        bundle = bundles.require(args["version"])
        recipe, cache, hook = node_recipe.recipe_of(args), paths.cache(), Path(args["hook"])
        image = libvirt_image.image_path(recipe, hook, bundle.digest, cache)
        store = Path(args["store"]) if args["store"] else None
        disk = libvirt_image.images_disk(store, cache) if store else None
        result = {"image": str(image), "images_disk": str(disk or "")}
        if self.check:
            missing = not image.is_dir() or (disk is not None and not disk.is_file())
            return {"changed": missing, **result, "kvm": bool(libvirt_image.known_kvm(cache).usable)}
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        changed = libvirt_image.ensure_image(recipe, hook, bundle.digest, bundle.bin, cache, self.progress)
        if store is not None:
            changed |= libvirt_image.ensure_images_disk(store, cache, self.progress)
        return {"changed": changed, **result, "kvm": args["kvm"] == "auto" and self._kvm(image, cache)}

    def _kvm(self, image: Path, cache: Path) -> bool:
        """Return whether to use KVM, and report it: an emulated node is many times slower."""
        kvm = libvirt_image.prove_kvm(image, cache, self.progress)
        self.progress(f"KVM: {kvm.description}")
        return bool(kvm.usable)
