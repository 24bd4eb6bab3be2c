"""Remove the objects from a saved etcd database that are useful only to the saved cluster."""

from __future__ import annotations

import http.client
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import etcd, rules
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import stored_objects as stored
from ansible_collections.devenv.lab.plugins.plugin_utils.validation import probe_pods

REGISTRY = "/registry/"


def clean(
    programs: etcd.Programs, saved: Path, target: Path, scratch: Path, nodes: Sequence[str],
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, int]:  # fmt: skip
    """Write the database ``saved`` (of etcdctl) to ``target`` without the objects that only the saved cluster needs.

    ``nodes`` are the names of the Node objects to keep; ``scratch`` is a private temporary folder. Returns the numbers
    of objects that were kept, changed and removed. Raises DevenvError ``snapshot_failed``, ``snapshot_encrypted``.
    """
    data = scratch / "data"
    etcd.restore(programs.etcdutl, saved, data, "saved", "unix://peer:0", "saved=unix://peer:0", "saved")
    try:
        with etcd.running(programs.etcd, data) as store:
            puts, deletions = edits(store, nodes)
            progress(f"etcd: {len(puts)} objects reset, {len(deletions)} removed")
            store.change(puts, deletions)
            kept = len(store.keys(REGISTRY))
            store.compact()
    except (OSError, http.client.HTTPException) as error:
        raise DevenvError("snapshot_failed", f"etcd with the saved data failed: {error}") from error
    except ValueError as error:
        raise DevenvError("snapshot_failed", f"the saved data has an unexpected format: {error}") from error
    shutil.copyfile(data / "member" / "snap" / "db", target)
    os.chmod(target, 0o600)
    shutil.rmtree(data)
    return {"kept": kept, "changed": len(puts), "removed": len(deletions)}


def edits(store: etcd.Store, nodes: Sequence[str]) -> tuple[dict[str, bytes], list[str]]:
    """Return the values to write and the keys to remove.

    Raises ValueError for an object in an unknown format, DevenvError ``snapshot_encrypted``.
    """
    deletions = [
        *rules.load()["etcd"]["keys"],
        # Objects of the last validation may still exist.
        *(key for key in store.keys(REGISTRY) if rules.is_dropped(key) or f"/{probe_pods.NAMESPACE}" in key),
    ]
    puts: dict[str, bytes] = {}
    for key, value in store.items("/registry/minions/"):
        if key.rpartition("/")[2] in nodes:
            puts[key] = stored.fresh_node(value)
        else:
            deletions.append(key)
    for key, value in store.items("/registry/pods/"):
        pod = stored.fresh_pod(value)
        if pod is None:
            deletions.append(key)
        elif pod != value:
            puts[key] = pod
    for key, value in store.items("/registry/secrets/"):
        if value.startswith(b"k8s:enc:"):
            raise DevenvError(
                "snapshot_encrypted", "Secrets are encrypted in etcd, with a key that is not part of a snapshot"
            )
        secret = None if key in deletions else stored.fresh_secret(value)
        if secret is not None:
            puts[key] = secret
    for prefix in ("/registry/endpointslices/", "/registry/services/endpoints/"):
        deletions += [key for key, value in store.items(prefix) if rules.is_derived(value)]
    removed = dict.fromkeys(deletions)
    return {key: value for key, value in puts.items() if key not in removed}, list(removed)
