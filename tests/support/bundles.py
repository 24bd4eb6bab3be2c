"""Small bundles for tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import manifest, store, versions
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.manifest import Image, Manifest
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.store import Bundle

FILES = {
    "bin/kubectl": b"kubectl " * 4000,
    "bin/helm": b"helm",
    "bin/crictl": b"crictl",
    "cni/ptp": b"ptp",
    "images/pause.tar": b"image",
}


def create(cache: Path, source: str = "modules", **changes: bytes) -> Bundle:
    """Create a small bundle in the cache with the folder name of a real one."""
    base = store.root(cache)
    content = {**FILES, **{path.replace("_", "/", 1): data for path, data in changes.items()}}
    with store.locked(base), store.building(base) as temp:
        for path, data in content.items():
            (temp / path).parent.mkdir(exist_ok=True)
            (temp / path).write_bytes(data)
            (temp / path).chmod(0o755 if not path.startswith("images") else 0o644)
        chosen = versions.resolve()
        rows = Manifest(
            kubernetes=chosen.kubernetes,
            arch=versions.architecture(),
            source=source,
            inputs=versions.inputs(chosen, source, versions.architecture()),
            created="2026-01-01T00:00:00Z",
            files=tuple(_described(temp, path) for path in content),
            images=(Image("registry.k8s.io/pause:3.10.2", "sha256:" + "0" * 64, "images/pause.tar"),),
            packages={"curl": "7.88"},
        )
        return store.publish(temp, base, rows)


def _described(folder: Path, path: str) -> manifest.File:
    """Return a file's row; crictl is a part of its own."""
    part = Path(path).name if Path(path).name in versions.ALWAYS else ""
    return replace(manifest.describe(folder, path, "1", "a test"), part=part)
