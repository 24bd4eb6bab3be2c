"""The environment's kubeconfig, created from the one that kubeadm writes on a control plane node."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import files
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.core.net import bracketed
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client, default_cluster


def context_name(environment: str, cluster: str) -> str:
    """Return the name of context, cluster and user: ``devenv-<environment>``, with the cluster's name unless it is
    ``main``.
    """
    return f"devenv-{environment}" if cluster == default_cluster.NAME else f"devenv-{environment}-{cluster}"


def server_url(address: str, port: int = 6443) -> str:
    """Return the URL of an API at an IP address or host name."""
    return f"https://{bracketed(address)}:{port}"


def rewrite(text: str, *, name: str, server: str, where: str = "admin.conf") -> str:
    """Return a kubeconfig with one cluster, user and context, all called ``name``, for the API at ``server``.

    Its credentials are those of the current context in ``text``. A comment at the top has the digest of the source, by
    which ``is_made_of`` recognizes it. Raises DevenvError ``kubeconfig_invalid``, also for credentials that cannot be
    used from another machine.
    """
    access = client.parse_access(text, where)
    pem = {"client-certificate-data": access.certificate, "client-key-data": access.key}
    user = {key: _encoded(value) for key, value in pem.items() if value}
    user |= {"token": access.token} if access.token else {}
    cluster = {"certificate-authority-data": _encoded(access.authority), "server": server}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    body = yaml.safe_dump(config, sort_keys=False, width=1 << 30)
    return f"{_heading(digest(text), body)}\n{body}"


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def digest(text: str) -> str:
    """Return ``sha256:<hexadecimal>`` of a text, in the form in which the module node_status reports a kubeconfig."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _heading(source: str, body: str) -> str:
    return f"# Digests of its source and of what follows: {source} {digest(body)}"


def path_of(state: Path, cluster: str) -> Path:
    """Return the path of the kubeconfig of ``cluster`` in the state directory."""
    return state / "clusters" / cluster / "kubeconfig"


def of_clusters(state: Path, only: Sequence[str] = ()) -> dict[str, Path]:
    """Return the existing kubeconfigs by the name of their cluster, or those named in ``only``. Raises DevenvError
    ``cluster_unknown`` if one of these, or any, does not exist.
    """
    existing = {path.parent.name: path for path in sorted(state.glob("clusters/*/kubeconfig"))}
    missing = [name for name in only if name not in existing]
    if missing or not existing:
        message = f"no kubeconfig of cluster {', '.join(missing)}" if missing else "no kubeconfig of any cluster"
        listed = ", ".join(existing) or "none"
        raise DevenvError("cluster_unknown", message, advice=f"Clusters with a kubeconfig: {listed}.", where=str(state))
    return {name: path for name, path in existing.items() if not only or name in only}


def usual(clusters: Sequence[str]) -> str:
    """Return ``main``, or else the only one of ``clusters``. Raises DevenvError ``cluster_unknown``."""
    if name := default_cluster.of(clusters):
        return name
    raise DevenvError("cluster_unknown", f"several clusters exist: {', '.join(clusters)}", advice="Name one of them.")


def is_made_of(state: Path, cluster: str, source: str, server: str) -> bool:
    """Return whether the file in the state directory is intact, comes from the kubeconfig with the digest ``source``,
    and points to ``server``, so that it need not be fetched.
    """
    heading, body = _read(state, cluster).partition("\n")[::2]
    return heading == _heading(source, body) and f"\n    server: {server}\n" in body


def is_current(state: Path, cluster: str, content: str) -> bool:
    """Return whether ``write`` would change nothing."""
    return _read(state, cluster) == content


def _read(state: Path, cluster: str) -> str:
    """Return the content of the file; an empty text if it is unreadable or its mode or link is not that of `write`."""
    path = path_of(state, cluster)
    try:
        text, mode = path.read_text(), path.stat().st_mode & 0o777
    except (OSError, UnicodeDecodeError):
        return ""
    return text if mode == 0o600 and _is_linked(state, cluster) else ""


def write(state: Path, cluster: str, content: str) -> bool:
    """Write the file (mode 0600) and, for the default cluster, the link ``<state>/kubeconfig``. Return whether anything
    changed.
    """
    changed = files.write(path_of(state, cluster), content, 0o600)
    if _is_linked(state, cluster):
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
    # Relative, so that the state directory can be moved.
    return f"clusters/{cluster}/kubeconfig"


def _is_linked(state: Path, cluster: str) -> bool:
    """Return whether the link exists; clusters other than the default one need none."""
    link = state / "kubeconfig"
    return cluster != default_cluster.NAME or (link.is_symlink() and str(link.readlink()) == _target(cluster))
