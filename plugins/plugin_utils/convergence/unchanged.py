"""Detect whether an environment is unchanged since the last complete run of cluster.yml (docs/design/unchanged.md)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.convergence import inputs
from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, program
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory, state
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.types import NetworkPlan
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client, clusters, labels
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.objects import ApplySet
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import registry
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import RUNNING
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import remote
from ansible_collections.devenv.lab.plugins.plugin_utils.validation import node_checks
from ansible_collections.devenv.lab.plugins.plugin_utils.validation import run as validation

FILE = "unchanged.json"
TEXT = "nothing has changed since the last up"
# Sets of objects that stages apply.
SETS = ("addons",)
# Seconds for each answer. If something is slower, the stages run and report it.
PATIENCE = 5.0

Fingerprint = dict[str, str]


def record(folder: Path, resolved: Profile, run_dir: Path) -> bool:
    """Record the environment after the run with the directory ``run_dir``; return whether a record exists now."""
    given = inputs.fingerprint(folder, resolved)
    complete = given is not None and given["run"] == run_dir.name
    observed = observe(folder, resolved) if complete else None
    if observed is None:
        (folder / FILE).unlink(missing_ok=True)
        return False
    files.write(folder / FILE, json.dumps({"given": given, "found": observed}, indent=1, sort_keys=True) + "\n")
    return True


def is_unchanged(folder: Path, resolved: Profile) -> bool:
    """Return whether a run for the profile ``resolved`` would change nothing; False also if that is unknown."""
    recorded = files.read_json(folder / FILE, dict) or {}
    given = inputs.fingerprint(folder, resolved) if recorded else None
    return given is not None and recorded["given"] == given and recorded["found"] == observe(folder, resolved)


def observe(folder: Path, resolved: Profile) -> Fingerprint | None:
    """Return the fingerprints of all parts; None if a part differs from what the stages leave, or does not answer."""
    try:
        network = state.read_network(folder)
        names = [str(node["name"]) for node in resolved["nodes"]]
        if network is None or sorted(network["nodes"]) != sorted(names):
            return None
        hostvars = inventory.to_json(inventory.build(resolved, network, folder))["_meta"]["hostvars"]
        # First, because ssh would wait for a stopped node.
        provided = _provider(folder.name, resolved, network)
        if provided is None:
            return None
        tasks: list[Callable[[], Fingerprint | None]] = [
            partial(_nodes, hostvars),
            *(partial(_cluster, cluster) for cluster in clusters.from_hostvars(names, hostvars)),
        ]
        with ThreadPoolExecutor(len(tasks)) as pool:
            parts = [provided, *pool.map(lambda task: task(), tasks)]
    except (DevenvError, client.ApiFailure, program.ProgramFailed, OSError, KeyError):
        return None
    present = [part for part in parts if part is not None]
    return {key: text for part in present for key, text in part.items()} if len(present) == len(parts) else None


def _provider(name: str, resolved: Profile, network: NetworkPlan) -> Fingerprint | None:
    provider = registry.of(resolved)
    expected = {node: RUNNING for node, entry in network["nodes"].items() if "host" not in entry}
    if {machine.node: machine.state for machine in provider.machines(name)} != expected:
        return None
    return {f"host: {key}": text for key, text in provider.fingerprint(name, network).items()}


def _nodes(hostvars: Mapping[str, Mapping[str, Any]]) -> Fingerprint | None:
    source = remote.program(node_checks.REPORT, "main", {"part": "fingerprint", "timeout": int(PATIENCE)})
    targets = [remote.target(node, variables, patience=int(PATIENCE)) for node, variables in hostvars.items()]
    answers = remote.ask_all(targets, source, PATIENCE)
    if any(answer.trouble for answer in answers.values()):
        return None
    return {f"{node}: {key}": text for node, answer in answers.items() for key, text in answer.data.items()}


def _cluster(cluster: clusters.Cluster) -> Fingerprint | None:
    with client.Api(client.read_access(cluster.kubeconfig), timeout=PATIENCE) as api:
        if not labels.is_applied(cluster, api):
            return None
        objects = {key: digest for name in SETS for key, digest in ApplySet(api, name).fingerprint().items()}
    if not validation.still_passes(cluster):
        return None
    return {f"{cluster.name}: {key}": digest for key, digest in objects.items()}
