# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Controller side of the node image: see plugins/modules/podman_image.py for its documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import store as bundles
from ansible_collections.devenv.lab.plugins.plugin_utils.core import errors, paths, progress
from ansible_collections.devenv.lab.plugins.plugin_utils.core.program import ProgramFailed
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import image as node_image
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman.cli import image_exists


class ActionModule(ActionBase):
    """Make the node image and the image store of a bundle, unless the caches hold them."""

    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset(("version", "suite", "mirror", "packages", "masked", "files", "archives"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _ignored, args = self.validate_argument_spec(
            argument_spec={
                "version": {"type": "str", "required": True},
                **node_image.RECIPE,
                "archives": {"type": "dict", "default": {}},
            }
        )
        try:
            return self._ensure(args)
        except errors.DevenvError as error:
            return errors.as_result(error)
        except ProgramFailed as error:
            return errors.as_result(errors.DevenvError("node_image_failed", str(error)))

    def _ensure(self, args: dict[str, Any]) -> dict[str, Any]:
        if self._task.check_mode and bundles.find(args["version"]) is None:
            return {"changed": True, "image": "", "store": "", "stores": {}}
        bundle = bundles.require(args["version"])
        recipe = node_image.recipe_of(args)
        archives = {str(node): Path(str(path)) for node, path in args["archives"].items()}
        cache = paths.cache()
        reference = node_image.image_reference(recipe, bundle.digest)
        store = node_image.store_path(cache, bundle.digest)
        if self._task.check_mode:
            changed = not image_exists(reference) or not store.is_dir()
            further = False
        else:
            cache.mkdir(parents=True, exist_ok=True, mode=0o700)
            made = node_image.ensure_image(recipe, bundle.digest, bundle.bin, cache, progress.say)
            filled = node_image.ensure_store(reference, bundle.digest, bundle.images(), cache, progress.say)
            further = False
            for archive in sorted(set(archives.values())):
                further |= node_image.extend_store(reference, bundle.digest, archive, cache, progress.say)
            changed = made or filled
        stores = {node: str(node_image.extended_path(cache, bundle.digest, one)) for node, one in archives.items()}
        return {"changed": changed or further, "image": reference, "store": str(store), "stores": stores}
