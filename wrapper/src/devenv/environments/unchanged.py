"""Whether an environment still is what the last `up` left: asked of nodes and API in about a second, without Ansible.

An `up` that came to its end notes what it was given and what it left, in ``settled.json``. While the same is wanted, no
other run came after it, and everything that stages decide by reads the same, one more run would change nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import store
from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, paths, program
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import state
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client, clusters, labels
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.objects import ApplySet
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import registry
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import record
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import remote
from ansible_collections.devenv.lab.plugins.plugin_utils.validation import node_checks, report
from ansible_collections.devenv.lab.plugins.plugin_utils.validation import run as validate

from devenv import errors
from devenv.environments import access, status

NOTE = "settled.json"
# The sets of objects that stages look after.
SETS = ("addons",)
# Who does not answer within these seconds is asked by the stages, which say more.
PATIENCE = 5.0
# Parts of the collection that say what a run does.
_PARTS = ("plugins", "roles", "playbooks", "configs", "inventories")

Facts = dict[str, str]


def note(name: str, resolved: Mapping[str, Any] | None, run_dir: Path | None) -> None:
    """Note how the run with the folder ``run_dir`` left the environment; nothing where that cannot be told."""
    folder = paths.environment(name)
    given = _given(folder, resolved)
    ours = given is not None and run_dir is not None and given["run"] == run_dir.name
    found = look(name, resolved) if ours and resolved else None
    if found is None:
        (folder / NOTE).unlink(missing_ok=True)
    else:
        files.write(folder / NOTE, json.dumps({"given": given, "found": found}, indent=1, sort_keys=True) + "\n")


def still(name: str, resolved: Mapping[str, Any] | None) -> bool:
    """Whether an `up` of the profile ``resolved`` would find nothing to do; False as well where that is not known."""
    folder = paths.environment(name)
    try:
        noted = json.loads((folder / NOTE).read_text())
    except (OSError, ValueError):
        return False
    given = _given(folder, resolved)
    return bool(resolved and given and noted.get("given") == given and noted.get("found") == look(name, resolved))


def _given(folder: Path, resolved: Mapping[str, Any] | None) -> Facts | None:
    """What a run goes by; None while one is under way or has left something to finish."""
    known = state.read(folder)
    if not resolved or known.profile != dict(resolved) or known.run_dir is None or known.holder is not None:
        return None
    if (folder / record.FILE).exists() or resolved["kubernetes"]["engine"] != "kubeadm":
        return None
    bundle = store.find(str(resolved["kubernetes"]["version"]))
    return {
        "run": known.run_dir.name,
        "profile": _digest(json.dumps(resolved, sort_keys=True)),
        "network": _digest(json.dumps(known.network, sort_keys=True)),
        "bundle": bundle.digest if bundle else "",
        "files": _digest("".join(f"{path} {path.read_text()}\n" for path in _written(folder))),
        "collection": _digest(_listing(paths.COLLECTION)),
    }


def _written(folder: Path) -> list[Path]:
    """Files of the state folder that runs write back when somebody changes them."""
    names = ("kubeconfig", "clusters/*/kubeconfig", "inventory.yml", "ssh/known_hosts", "ssh/*.pub")
    return sorted(path for name in names for path in folder.glob(name))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _listing(collection: Path) -> str:
    """Name, size and time of every file that says what a run does: reading them all would cost more than it tells."""
    lines = []
    for part in _PARTS:
        for path in sorted((collection / part).rglob("*")):
            if path.suffix != ".pyc" and path.is_file():
                known = path.stat()
                lines.append(f"{path.relative_to(collection)} {known.st_size} {known.st_mtime_ns}")
    return "\n".join(lines)


def look(name: str, resolved: Mapping[str, Any]) -> Facts | None:
    """Everything that stages decide by, as texts; None when something is not as it has to be or does not answer."""
    try:
        data = access.inventory(name)["all"]
        hostvars = {host: {**data.get("vars", {}), **(own or {})} for host, own in data["hosts"].items()}
        wanted = [str(node["name"]) for node in resolved["nodes"]]
        # First, for a node that does not run makes ssh wait.
        provided = _provider(name, resolved, wanted)
        if provided is None:
            return None
        tasks: list[Callable[[], Facts | None]] = [
            lambda: _nodes(wanted, hostvars),
            *(partial(_cluster, cluster) for cluster in clusters.from_hostvars(wanted, hostvars)),
        ]
        with ThreadPoolExecutor(len(tasks)) as pool:
            parts = [provided, *pool.map(lambda task: task(), tasks)]
    except (
        errors.Error,
        DevenvError,
        client.ApiError,
        client.ApiUnreachable,
        program.ProgramFailed,
        OSError,
        KeyError,
    ):
        return None
    found: Facts = {}
    for part in parts:
        if part is None:
            return None
        found |= part
    return found


def _provider(name: str, resolved: Mapping[str, Any], wanted: list[str]) -> Facts | None:
    states = status.node_states(name)
    if any(states.get(node) != "running" for node in wanted) or len(states) != len(wanted):
        return None
    network = state.read_network(paths.environment(name)) or {}
    return {f"host: {key}": text for key, text in registry.of(resolved).fingerprint(name, network).items()}


def _nodes(wanted: list[str], hostvars: Mapping[str, Mapping[str, Any]]) -> Facts | None:
    source = remote.program(node_checks.REPORT, "main", {"part": "settled", "timeout": int(PATIENCE)})
    targets = [remote.target(node, hostvars[node], patience=int(PATIENCE)) for node in wanted]
    answers = remote.ask_all(targets, source, PATIENCE)
    if any(answer.trouble for answer in answers.values()):
        return None
    return {f"{node}: {key}": text for node, answer in answers.items() for key, text in answer.data.items()}


def _cluster(cluster: clusters.Cluster) -> Facts | None:
    if report.needs_probes("auto", changed=False, record=report.record_of(cluster)):
        return None
    with client.Api(client.read_access(cluster.kubeconfig), timeout=PATIENCE) as api:
        labelled = labels.apply(cluster, api, timeout=0, check=True)
        if labelled.changed or labelled.absent:
            return None
        objects = {key: digest for one in SETS for key, digest in ApplySet(api, one).fingerprint().items()}
    if validate.run(cluster, probes="auto", changed=False, timeout=0, domain="cluster.local", check=True).failure:
        return None
    return {f"{cluster.name}: {key}": digest for key, digest in objects.items()}
