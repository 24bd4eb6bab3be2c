"""The environment's ssh key and the host keys of its nodes, below ``ssh/`` of its state directory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, program
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError


def ensure(folder: Path) -> Path:
    """Create ``ssh/`` (0700) with the environment's key pair ``id_ed25519`` and the directory ``cp`` of control
    sockets, if missing. Return the private key's path.
    """
    files.make_private(folder / "ssh" / "cp", folder)
    return _ensure_key(folder / "ssh" / "id_ed25519", f"devenv-{folder.name}")


def ensure_hosts(folder: Path, nodes: Iterable[str]) -> dict[str, Path]:
    """Create the files of each node's sshd in ``ssh/hosts/<node>/``: a host key pair, and the environment's public key
    as ``authorized_keys``. The keys exist before the node, so known_hosts is complete and host key checking stays on.
    Return the private host keys' paths by node.
    """
    public_key = ensure(folder).with_suffix(".pub").read_text()
    keys = {}
    for node in nodes:
        place = folder / "ssh" / "hosts" / node
        files.make_private(place, folder)
        keys[node] = _ensure_key(place / "ssh_host_ed25519_key", node)
        files.write(place / "authorized_keys", public_key)
    return keys


def node_addresses(network: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the addresses in network.yml by node, including leaving nodes: commands run on them over ssh."""
    return {name: list(node["addresses"].values()) for name, node in network["nodes"].items()}


def write_known_hosts(folder: Path, addresses: Mapping[str, Sequence[str]]) -> bool:
    """Write ``ssh/known_hosts`` for nodes and their addresses (without prefix lengths); return whether it changed."""
    lines = []
    for node, places in addresses.items():
        kind, key = (folder / "ssh" / "hosts" / node / "ssh_host_ed25519_key.pub").read_text().split()[:2]
        lines.append(f"{','.join([node, *places])} {kind} {key}\n")
    return files.write(folder / "ssh" / "known_hosts", "".join(lines))


def _ensure_key(path: Path, comment: str) -> Path:
    public = path.with_name(f"{path.name}.pub")
    if path.exists() and public.exists():
        return path
    # A killed run can have left one of the two.
    path.unlink(missing_ok=True)
    public.unlink(missing_ok=True)
    try:
        program.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)], timeout=30)
    except FileNotFoundError:
        raise DevenvError("ssh_keygen_failed", "the program ssh-keygen is not installed") from None
    except program.ProgramFailed as error:
        raise DevenvError("ssh_keygen_failed", str(error)) from None
    return path
