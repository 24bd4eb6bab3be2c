"""The operations on an environment. Each runs one playbook and raises an exception of devenv.errors if it fails.

The only module of the wrapper that orchestrates: it combines the parts in runs/ and environments/. Imports inside
functions save start-up time, because each command needs only some of them.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, paths
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import (
    lock,
    members,
    network_plan,
    state,
    upgrade_record,
)
from ansible_collections.devenv.lab.plugins.plugin_utils.records import expiry

from devenv import errors
from devenv.environments import access, names
from devenv.environments.target import Target
from devenv.runs import playbook
from devenv.runs.playbook import RunResult
from devenv.runs.runner import NO_OPTIONS, Options

if TYPE_CHECKING:
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile
    from ansible_collections.devenv.lab.plugins.plugin_utils.upgrades.plan import UpgradePlan

    from devenv.environments.diagnostics import Gathered


def up(
    goal: Target,
    options: Options = NO_OPTIONS,
    *,
    on_failure: str = "keep",
    gather: bool = True,
    recreate: bool = False,
) -> RunResult:
    """Converge the environment to its profile. If nothing has changed since the last run
    (plugin_utils/convergence/unchanged.py) and no option needs the stages, no stage runs.

    With ``on_failure="destroy"`` an environment that this run created is removed if the run fails; an environment that
    existed before is kept, and so is an interrupted one. With ``gather``, diagnostics are collected before that.
    ``recreate``: create clusters again, empty, whose data are gone.
    """
    from ansible_collections.devenv.lab.plugins.plugin_utils.convergence import unchanged

    began = time.monotonic()
    # The playbook compares, too. Comparing here saves the start of Ansible.
    quick = options.complete and not options.shown and "devenv_snapshot" not in goal.variables
    if quick and unchanged.is_unchanged(paths.environment(goal.name), goal.resolved):
        if "devenv_ttl" in goal.variables:
            expiry.start(paths.environment(goal.name), str(goal.variables["devenv_ttl"]))
        return RunResult(goal.name, seconds=time.monotonic() - began, text=unchanged.TEXT)
    new = not paths.environment(goal.name).exists()
    variables = {**goal.variables, "devenv_full": True} | ({} if gather else {"devenv_gather": False})
    variables |= {"devenv_recreate": True} if recreate else {}
    try:
        return playbook.run("cluster", goal.name, variables, options)
    except errors.Error as error:
        if gather and not options.check:
            from devenv.environments import diagnostics

            diagnostics.after_timeout(goal.name, error, options.artifacts)
        if on_failure == "destroy" and new and paths.environment(goal.name).exists():
            playbook.run("destroy", goal.name, {}, Options(command=options.command, watcher=options.watcher))
            error.log, error.gathered = _moved(goal.name, error.log), _moved(goal.name, error.gathered)
        raise


def _moved(name: str, path: Path | None) -> Path | None:
    """Return the path of a run's file after its environment is removed."""
    return paths.home() / "history" / name / path.parent.name / path.name if path else None


def down(name: str, options: Options = NO_OPTIONS) -> RunResult:
    """Remove the environment, if it exists. Without a state directory, labels identify its parts."""
    names.check_name(name)
    if not paths.environment(name).exists() and not _labelled(name):
        return RunResult(name, text=f"environment {name} does not exist")
    return playbook.run("destroy", name, {}, options)


def down_all(environments: Sequence[str], options: Options = NO_OPTIONS) -> RunResult:
    """Remove the environments one by one. If some cannot be removed, remove the others, then raise the first Error; its
    message names the remaining ones.
    """
    changed, removed, failed = 0, [], []
    for name in environments:
        try:
            changed += down(name, options).changed
            removed.append(name)
        except errors.Error as error:
            failed.append((name, error))
    if failed:
        first = failed[0][1]
        first.message = f"not removed: {', '.join(name for name, _ in failed)}: {first.message}"
        raise first
    return RunResult(", ".join(removed), changed, text="" if removed else "no environment exists")


@errors.translated()
def extend(name: str, ttl: str, options: Options = NO_OPTIONS) -> RunResult:
    """Let the environment expire the time ``ttl`` later; ``never``: not at all. Raises UsageError."""
    if expiry.parse(ttl) and expiry.read(paths.environment(name)) is None:
        raise errors.UsageError(f"environment {name} does not expire", advice=f"devenv up -n {name} --ttl {ttl}")
    return playbook.run("extend", name, {"devenv_ttl": ttl}, options)


@errors.translated()
def _labelled(name: str) -> bool:
    """Return whether machines, networks or a DHCP server carry the environment's name. Raise Error name_taken if they
    belong to another DEVENV_HOME that still has the environment.
    """
    from ansible_collections.devenv.lab.plugins.plugin_utils.host import dhcp
    from ansible_collections.devenv.lab.plugins.plugin_utils.providers import registry

    machines, networks = registry.known(name)
    homes = [*(machine.home for machine in machines), *(network.home for network in networks)]
    for home in homes:
        if home not in ("", str(paths.home())) and (Path(home) / "environments" / name).is_dir():
            raise errors.make(
                f"environment {name} belongs to {home}", exit_code=11, reason="name_taken",
                advice=f"DEVENV_HOME={shlex.quote(home)} devenv down -n {name}",
            )  # fmt: skip
    return bool(homes or dhcp.servers(name))


GATHER_SECONDS = 60.0


def gather(name: str, output: str = "", options: Options = NO_OPTIONS) -> Gathered:
    """Collect logs and state into the archive ``output`` (a .tar.gz file or a directory; empty: the working directory).

    ``parts`` of the result lists what did not answer. Raises UsageError for another kind of file, StageFailed (20)
    if the archive cannot be written.
    """
    from ansible_collections.devenv.lab.plugins.plugin_utils.diagnostics import archive

    from devenv.environments import diagnostics

    with errors.translated():
        path = archive.archive_path(output, name)
    variables = {"devenv_output": str(path), "devenv_timeout": GATHER_SECONDS}
    result = playbook.run("gather", name, variables, options)
    return diagnostics.Gathered(path, [] if result.partial else diagnostics.parts(path), result)


# A user waits for the result, and a ready cluster passes within seconds.
VALIDATE_SECONDS = 120


def validate(
    name: str, options: Options = NO_OPTIONS, *, cluster: str | None = None, junit: Path | None = None
) -> RunResult:
    """Run every check of the role validate, with real pods, regardless of earlier results. ``checks`` of the result, or
    of the error that is raised, has one row per check: ``{cluster, name, ok, seconds, seen, warnings}``.

    ``cluster``: the only one to validate. ``junit``: file for a JUnit document with one case per check. The default
    timeout is VALIDATE_SECONDS. Raises NotFound for an unknown cluster before it runs.
    """
    variables: dict[str, Any] = {
        "validate_probes": "always",
        "validate_nodes": list(access.hosts(name)),
        "devenv_timeout": VALIDATE_SECONDS,
        **_only(name, cluster),
    }
    given = playbook.check_variables(options)
    if "validate_timeout" in given:
        variables["devenv_timeout"] = float(given["validate_timeout"])
    if junit:
        variables["validate_junit"] = str(junit.absolute())
    try:
        result = playbook.run("validate", name, variables, options)
    except errors.Error as error:
        error.checks = _checks(error.log.parent if error.log else None)
        raise
    return replace(result, checks=_checks(result.run_dir))


def _only(name: str, cluster: str | None) -> dict[str, Any]:
    """Return the playbooks' variable for one cluster; none for all. Raises NotFound."""
    return {} if cluster is None else {"devenv_clusters": [access.cluster(name, cluster)]}


def _checks(run_dir: Path | None) -> list[dict[str, Any]]:
    """Return the rows that the stage validate wrote to its run's directory."""
    return (files.read_json(run_dir / "checks.json", list) if run_dir else None) or []


@errors.translated()
def plan_upgrade(name: str, version: str) -> UpgradePlan:
    """Return what `upgrade` would do. Read-only; raises the error that `upgrade` would refuse with."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import store
    from ansible_collections.devenv.lab.plugins.plugin_utils.upgrades import plan as upgrades

    resolved, new = _upgrade_step(name, version)
    folder = paths.environment(name)
    begun = upgrade_record.pending(folder)
    nodes = upgrades.node_versions(folder, list(resolved["clusters"]), begun is not None)
    upgrades.require_ready(resolved, nodes, begun is not None)
    return upgrades.plan(name, resolved, new, nodes, begun, store.find(new.kubernetes) is not None)


def upgrade(name: str, version: str, options: Options = NO_OPTIONS) -> RunResult:
    """Upgrade the environment to Kubernetes ``version``, or finish an interrupted upgrade. Refuses impossible steps
    before anything changes.
    """
    new = _upgrade_step(name, version)[1].kubernetes
    return playbook.run("upgrade", name, {"devenv_kubernetes_version": new}, options)


@errors.translated()
def _upgrade_step(name: str, version: str) -> tuple[Profile, Any]:
    """Return the environment's profile and the new version's pinned parts. Raises Error."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.upgrades import plan as upgrades

    resolved, folder = access.profile(name), paths.environment(name)
    lock.check(folder)
    old = str(resolved["kubernetes"]["version"])
    return resolved, upgrades.check(name, old, version, upgrade_record.pending(folder))


def load_images(name: str, images: Sequence[str], options: Options = NO_OPTIONS) -> RunResult:
    """Load images of podman's local store, or image archives, into every node."""
    places = [str(Path(image).absolute()) if Path(image).is_file() else image for image in images]
    return playbook.run("image_load", name, {"devenv_images": places}, options)


def save_snapshot(
    name: str, snapshot: str, options: Options = NO_OPTIONS, *, force: bool = False, cluster: str | None = None
) -> RunResult:
    """Save the environment ``name``, or its ``cluster``, as ``snapshot``. Refuses an invalid or existing snapshot name,
    and an unknown cluster, before it runs.
    """
    from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import catalogue

    with errors.translated():
        catalogue.check_new(paths.home(), snapshot)
    variables = {"devenv_snapshot": snapshot, "devenv_force": force, **_only(name, cluster)}
    return playbook.run("snapshot", name, variables, options)


@errors.translated()
def build_base_image(
    name: str,
    packages: Sequence[str],
    sources: Mapping[str, Path],
    rootfs: Path | None = None,
    options: Options = NO_OPTIONS,
) -> RunResult:
    """Build the base image ``name``; ``sources`` maps paths on the node to files here. Refuses invalid content before
    it runs.
    """
    from ansible_collections.devenv.lab.plugins.plugin_utils.providers import base_images

    base_images.check(name, packages, sources, rootfs)
    variables = {
        "devenv_base_image_name": name,
        "devenv_base_image_packages": list(packages),
        "devenv_base_image_files": {target: str(source.absolute()) for target, source in sources.items()},
        "devenv_base_image_rootfs": str(rootfs.absolute()) if rootfs else "",
    }
    return playbook.run_here("base_image_build", variables, options)


@errors.translated()
def replace_nodes(name: str, nodes: Sequence[str], options: Options = NO_OPTIONS) -> RunResult:
    """Recreate nodes. Raises Error node_unknown, control_plane_last, and the failure of the run."""
    members.check_removal(access.profile(name), nodes)
    return playbook.run("replace", name, {"devenv_replace": list(nodes)}, options)


@errors.translated()
def change_address(name: str, node: str | None, address: str, options: Options = NO_OPTIONS) -> RunResult:
    """Give a node (None: the only one) another address (empty: the next free one). ``text`` of the result has the new
    addresses. Raises Error node_unknown, address_many_nodes, address_refused.
    """
    from ansible_collections.devenv.lab.plugins.plugin_utils.providers import base

    resolved, folder = access.profile(name), paths.environment(name)
    network = state.read_network(folder)
    if network is None:
        raise errors.NotFound(f"environment {name} has no nodes yet", advice=f"devenv up -n {name} creates them")
    nodes = [str(item["name"]) for item in resolved["nodes"]]
    if node is None and len(nodes) > 1:
        raise errors.make(f"the nodes are {', '.join(nodes)}", exit_code=14, reason="address_many_nodes")
    chosen = node or nodes[0]
    base.require(str(resolved["provider"]), "change_address")
    members.check_move(resolved, chosen)
    network_plan.move(network, chosen, address)
    result = playbook.run("address", name, {"devenv_node": chosen, "devenv_address": address}, options)
    moved = state.read_network(folder) or network
    return replace(result, text=f"{name} now has the address {', '.join(moved['nodes'][chosen]['addresses'].values())}")
