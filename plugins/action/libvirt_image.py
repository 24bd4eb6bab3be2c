# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Controller side of the virtual machines' image: see plugins/modules/libvirt_image.py for its documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import store as bundles
from ansible_collections.devenv.lab.plugins.plugin_utils.core import errors, paths, progress
from ansible_collections.devenv.lab.plugins.plugin_utils.core.program import ProgramFailed
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.libvirt import image as libvirt_image
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import image as node_image


class ActionModule(ActionBase):
    """Make the image that virtual machines boot from, and the disk of images, unless the caches hold them."""

    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset(("version", "suite", "mirror", "packages", "masked", "files", "hook", "store", "kvm"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _ignored, args = self.validate_argument_spec(
            argument_spec={
                "version": {"type": "str", "required": True},
                **node_image.RECIPE,
                "hook": {"type": "path", "required": True},
                "store": {"type": "str", "default": ""},
                "kvm": {"type": "str", "default": "auto", "choices": ["auto", "never"]},
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
            return {"changed": True, "image": "", "images_disk": "", "kvm": False}
        bundle = bundles.require(args["version"])
        recipe = node_image.recipe_of(args)
        cache, hook = paths.cache(), Path(args["hook"])
        image = libvirt_image.image_of(recipe, hook, bundle.digest, cache)
        store = Path(args["store"]) if args["store"] else None
        disk = libvirt_image.images_disk(store, cache) if store else None
        found = {"image": str(image.path), "images_disk": str(disk or "")}
        if self._task.check_mode:
            missing = not image.path.is_dir() or (disk is not None and not disk.is_file())
            return {"changed": missing, **found, "kvm": bool(libvirt_image.kvm_known(cache).usable)}
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = libvirt_image.ensure_image(recipe, hook, bundle.digest, bundle.bin, cache, progress.say)
        if store is not None:
            made = libvirt_image.ensure_images_disk(store, cache, progress.say) or made
        return {"changed": made, **found, "kvm": args["kvm"] == "auto" and _kvm(image, cache)}


def _kvm(image: libvirt_image.Image, cache: Path) -> bool:
    """Whether to use KVM; said, since an emulated node is many times slower."""
    found = libvirt_image.prove_kvm(image, cache, progress.say)
    progress.say(f"KVM: {found.words}")
    return bool(found.usable)
