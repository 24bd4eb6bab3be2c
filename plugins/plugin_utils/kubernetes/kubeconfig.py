"""The environment's own kubeconfig, made from the one that kubeadm leaves on a control plane node."""

from __future__ import annotations

import hashlib
from pathlib import Path

import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import files
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.core.net import bracketed
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client

DEFAULT_CLUSTER = "main"


def context_name(environment: str, cluster: str) -> str:
    """Name of the context, the cluster and the user: ``devenv-<environment>``, other clusters than ``main``
    appended."""
    return f"devenv-{environment}" if cluster == DEFAULT_CLUSTER else f"devenv-{environment}-{cluster}"


def server_url(address: str, port: int = 6443) -> str:
    """Return the URL of an API at an IP address or host name."""
    return f"https://{bracketed(address)}:{port}"


def rewrite(text: str, *, name: str, server: str, where: str = "admin.conf") -> str:
    """Return a kubeconfig with one cluster, user and context, all called ``name``, that reaches ``server``.

    Credentials are those of the current context in ``text``. A comment above has the digest of its source, by which
    ``is_made_of`` recognises it. Raises DevenvError ``kubeconfig_invalid``, also for what could not be used from
    another machine.
    """
    client.parse_access(text, where)
    document = yaml.safe_load(text)
    context = next(c["context"] for c in document["contexts"] if c["name"] == document["current-context"])
    cluster = next(c["cluster"] for c in document["clusters"] if c["name"] == context["cluster"])
    user = next(u["user"] for u in document["users"] if u["name"] == context["user"])
    kept = ("client-certificate-data", "client-key-data", "token")
    authority = cluster["certificate-authority-data"]
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"certificate-authority-data": authority, "server": server}}],
        "users": [{"name": name, "user": {key: user[key] for key in kept if key in user}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    made = yaml.safe_dump(config, sort_keys=False, width=1 << 30)
    return f"{_heading(digest(text), made)}\n{made}"


def digest(text: str) -> str:
    """Return ``sha256:<hexadecimal>`` of a text, as the module node_status returns it for a node's kubeconfig."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def is_made_of(state: Path, cluster: str, source: str, server: str) -> bool:
    """Return whether the file in the state folder is whole, comes from the kubeconfig with the digest ``source``, and
    reaches ``server``: then there is nothing to fetch.
    """
    path = path_of(state, cluster)
    try:
        heading, made = path.read_text().partition("\n")[::2]
        private = path.stat().st_mode & 0o777 == 0o600
    except (OSError, UnicodeDecodeError):
        return False
    linked = cluster != DEFAULT_CLUSTER or _link_is_right(state, cluster)
    return private and linked and heading == _heading(source, made) and f"\n    server: {server}\n" in made


def _heading(source: str, made: str) -> str:
    return f"# Digests of its source and of what follows: {source} {digest(made)}"


def path_of(state: Path, cluster: str) -> Path:
    """Return the path of the kubeconfig of ``cluster`` in the state folder."""
    return state / "clusters" / cluster / "kubeconfig"


def is_current(state: Path, cluster: str, content: str) -> bool:
    """Return whether file, mode and link are already as ``write`` would leave them."""
    path = path_of(state, cluster)
    try:
        same = path.read_text() == content and path.stat().st_mode & 0o777 == 0o600
    except (OSError, UnicodeDecodeError):
        return False
    return same and (cluster != DEFAULT_CLUSTER or _link_is_right(state, cluster))


def write(state: Path, cluster: str, content: str) -> bool:
    """Write it (mode 0600) and, for the default cluster, the link ``<state>/kubeconfig``. Return whether anything
    changed."""
    changed = files.write(path_of(state, cluster), content, 0o600)
    if cluster != DEFAULT_CLUSTER or _link_is_right(state, cluster):
        return changed
    link = state / "kubeconfig"
    temporary = state / ".kubeconfig.link"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(_target(cluster))
    try:
        temporary.replace(link)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DevenvError(
            "kubeconfig_invalid", f"cannot be replaced by a link: {error.strerror}", where=str(link)
        ) from error
    return True


def _target(cluster: str) -> str:
    # Relative, so that the state folder may be moved.
    return f"clusters/{cluster}/kubeconfig"


def _link_is_right(state: Path, cluster: str) -> bool:
    link = state / "kubeconfig"
    return link.is_symlink() and str(link.readlink()) == _target(cluster)
