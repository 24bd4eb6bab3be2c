"""Images of podman's local store."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import store


@contextmanager
def built(name: str) -> Iterator[str]:
    """Create an image with one small program that exits at once, as a user builds ``name``; remove it at the end.

    podman stores a name without a registry as ``localhost/NAME``.
    """
    bundle = store.find()
    assert bundle
    packed = subprocess.run(["tar", "-C", str(bundle.path / "cni"), "-c", "loopback"], check=True, capture_output=True)
    command = ["podman", "import", "--quiet", "--change", 'ENTRYPOINT ["/loopback"]', "-", name]
    subprocess.run(command, check=True, input=packed.stdout, capture_output=True)
    try:
        yield name
    finally:
        subprocess.run(["podman", "rmi", f"localhost/{name}"], check=True, capture_output=True)
