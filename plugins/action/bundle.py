# Copyright: (c) 2026, devenv maintainers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Have, check, write out or take in a bundle: see plugins/modules/bundle.py for its documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from ansible.plugins.action import ActionBase
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import archive, downloads, sources, store
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.store import Bundle
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action, Spec


class ActionModule(Action, ActionBase):
    """Works on the controller; the result holds the bundle's place, digest and images."""

    SELECT = "state"
    SPEC: ClassVar[Spec] = {
        "state": {"type": "str", "default": "present", "choices": ["present", "verified", "exported", "imported"]},
        "version": {"type": "str", "default": ""},
        "source": {"type": "str", "default": "auto", "choices": list(sources.SOURCES)},
        "parts": {"type": "list", "elements": "str", "default": []},
        "directory": {"type": "path", "default": ""},
        "archive": {"type": "path", "default": ""},
        **{f"{name}_url": {"type": "str", "default": url} for name, url in downloads.official().items()},
    }
    REQUIRED_IF = (("state", "exported", ("archive",)), ("state", "imported", ("archive",)))

    def _present(self, args: dict[str, Any], _vars: dict[str, Any]) -> dict[str, Any]:
        bundle, changed, notes = sources.ensure(
            args["version"] or None,
            args["source"],
            parts=args["parts"],
            options=_options(args),
            progress=self.say,
            check=self.check,
        )
        return _result(bundle, changed, notes)

    def _verified(self, args: dict[str, Any], _vars: dict[str, Any]) -> dict[str, Any]:
        bundle = sources.verified(args["version"] or None)
        return _result(bundle, False, [f"verified: {len(bundle.manifest.files)} files"])

    def _exported(self, args: dict[str, Any], _vars: dict[str, Any]) -> dict[str, Any]:
        bundle = sources.in_cache(args["version"] or None)
        target = Path(args["archive"])
        if archive.holds(target, bundle):
            return {**_result(bundle, False, [f"is there: {target}"]), "archive": str(target)}
        if not self.check:
            target = archive.export(bundle, target, self.say)
        return {**_result(bundle, True, [f"exported: {target}"]), "archive": str(target)}

    def _imported(self, args: dict[str, Any], _vars: dict[str, Any]) -> dict[str, Any]:
        source = Path(args["archive"])
        if self.check:
            manifest = archive.peek(source)
            there = store.find(manifest.kubernetes)
            new = there is None or there.digest != manifest.digest or bool(there.lacks(manifest.parts))
            return _result(there, new, [])
        bundle, changed = archive.import_archive(source, progress=self.say)
        return _result(bundle, changed, [f"imported: {bundle.path}"])


def _options(args: dict[str, Any]) -> sources.Options:
    places = {name: args[f"{name}_url"] for name in downloads.official()}
    return sources.Options(directory=Path(args["directory"]) if args["directory"] else None, places=places)


def _result(bundle: Bundle | None, changed: bool, notes: list[str]) -> dict[str, Any]:
    """The task's result. In check mode there may be no bundle yet: the fact is then an empty mapping."""
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
