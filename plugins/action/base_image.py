"""Build, list and remove base images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import base_images, node_recipe


class ActionModule(Action, ActionBase):
    SELECT = "action"
    PROGRAM_REASON = "node_image_failed"
    REQUIRED_IF = (("action", "build", ("name", "node")), ("action", "remove", ("name",)))

    def _build(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        home, name = paths.home(), args["name"]
        former = base_images.read(home, name).digest if name in base_images.names(home) else ""
        rootfs = Path(args["rootfs"]) if args["rootfs"] else None
        sources = {target: Path(source) for target, source in args["files"].items()}
        with base_images.staged(home, name, args["packages"], sources, rootfs, keep=not self.check) as image:
            recipe = base_images.recipe_of(image, node_recipe.recipe_of(args["node"]))
            built = not self.check and base_images.provider().build_base_image(recipe, self.progress)
        using = base_images.users(home, name) if former not in ("", image.digest) else []
        if using:
            self.progress(f"existing nodes keep the former {name}: devenv node replace ({', '.join(using)})")
        return {"changed": built or former != image.digest, "digest": image.digest, "environments": using}

    def _list(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        return {"changed": False, "base_images": base_images.rows(paths.home())}

    def _remove(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        home, name = paths.home(), args["name"]
        if self.check:
            return {"changed": True, "images": [item.what for item in base_images.removable(home, name)]}
        return {"changed": True, "images": base_images.remove(home, name)}
