"""Build the node image and the image store of a bundle, unless they are in the cache."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import store as bundles
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import base_images, image_store, node_recipe
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import image as node_image
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman.cli import image_exists


class ActionModule(Action, ActionBase):
    PROGRAM_REASON = "node_image_failed"

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        if self.check and bundles.find(args["version"]) is None:
            return {"changed": True, "image": "", "images": {}, "root": "", "store": "", "stores": {}}
        bundle = bundles.require(args["version"])
        recipe, cache = node_recipe.recipe_of(args), paths.cache()
        archives = {node: Path(path) for node, path in args["archives"].items()}
        variants = {
            name: base_images.recipe_of(base_images.read(paths.home(), name), recipe) for name in args["base_images"]
        }
        reference = node_image.image_reference(recipe, bundle.digest)
        images = {name: node_image.image_reference(variant, bundle.digest) for name, variant in variants.items()}
        store = image_store.path(cache, bundle.digest)
        if self.check:
            changed = not all(map(image_exists, (reference, *images.values()))) or not store.is_dir()
        else:
            fill = partial(node_image.fill_store, reference)
            cache.mkdir(parents=True, exist_ok=True, mode=0o700)
            changed = False
            for each in (recipe, *variants.values()):
                changed |= node_image.ensure_image(each, bundle.digest, bundle.bin, cache, self.progress)
            changed |= image_store.ensure(bundle.digest, bundle.images(), cache, fill, self.progress)
            for archive in sorted(set(archives.values())):
                changed |= image_store.extend(bundle.digest, archive, cache, fill, self.progress)
        stores = {node: str(image_store.extended_path(cache, bundle.digest, path)) for node, path in archives.items()}
        root = node_image.root_reference(recipe)
        result = {"image": reference, "images": images, "root": root, "store": str(store), "stores": stores}
        return {"changed": changed, **result}
