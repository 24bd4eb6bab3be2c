"""Ensure, verify, export or import a bundle, on the controller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import archive, downloads, sources, store
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.store import Bundle
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action


class ActionModule(Action, ActionBase):
    SELECT = "state"
    REQUIRED_IF = (("state", "exported", ("archive",)), ("state", "imported", ("archive",)))

    def _present(self, args: dict[str, Any], _vars: dict[str, Any]) -> dict[str, Any]:
        bundle, changed, notes = sources.ensure(
            args["version"] or None,
            args["source"],
            parts=args["parts"],
            options=_options(args),
            progress=self.progress,
            check=self.check,
        )
        return _result(bundle, changed, notes)

    def _verified(self, args: dict[str, Any], _vars: dict[str, Any]) -> dict[str, Any]:
        bundle = sources.verified(args["version"] or None)
        return _result(bundle, False, [f"verified: {len(bundle.manifest.files)} files"])

    def _exported(self, args: dict[str, Any], _vars: dict[str, Any]) -> dict[str, Any]:
        bundle = sources.in_cache(args["version"] or None)
        target = Path(args["archive"])
        if archive.is_export_of(target, bundle):
            return {**_result(bundle, False, [f"already exported: {target}"]), "archive": str(target)}
        if not self.check:
            target = archive.export(bundle, target, self.progress)
        return {**_result(bundle, True, [f"exported: {target}"]), "archive": str(target)}

    def _imported(self, args: dict[str, Any], _vars: dict[str, Any]) -> dict[str, Any]:
        source = Path(args["archive"])
        if self.check:
            manifest = archive.peek(source)
            cached = store.find(manifest.kubernetes)
            changed = cached is None or cached.digest != manifest.digest or bool(cached.lacks(manifest.parts))
            return _result(cached, changed, [])
        bundle, changed = archive.import_archive(source, progress=self.progress)
        return _result(bundle, changed, [f"imported: {bundle.path}"])


def _options(args: dict[str, Any]) -> sources.Options:
    places = {name: args[f"{name}_url"] for name in downloads.official()}
    return sources.Options(directory=Path(args["directory"]) if args["directory"] else None, places=places)


def _result(bundle: Bundle | None, changed: bool, notes: list[str]) -> dict[str, Any]:
    """Return the task's result. Without a bundle, which check mode may lack, the fact is an empty mapping."""
    fact = {}
    if bundle:
        fact = {
            "path": str(bundle.path),
            "digest": bundle.digest,
            "kubernetes": bundle.manifest.kubernetes,
            "source": bundle.manifest.source,
            "parts": sorted(bundle.manifest.parts),
            "images": [
                {"name": image.name, "digest": image.digest, "path": str(bundle.path / image.path), "part": part}
                for part in ("", *sorted(bundle.manifest.parts))
                for image in bundle.manifest.images_of([part])
            ],
        }
    return {"changed": changed, "bundle": fact, "notes": notes, "ansible_facts": {"devenv_bundle": fact}}
