"""The operations on an environment. Each function runs one playbook and raises what devenv.errors has for its failure.

The only module of the wrapper that orchestrates: it puts the parts in runs/ and environments/ together.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, paths
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile

from devenv import errors
from devenv.environments import names
from devenv.environments.target import Target
from devenv.runs import playbook
from devenv.runs.playbook import Options, RunResult
from devenv.runs.supervision import Watcher

if TYPE_CHECKING:
    from ansible_collections.devenv.lab.plugins.plugin_utils.upgrades.plan import UpgradePlan

    from devenv.environments.diagnostics import Gathered


def up(
    goal: Target,
    options: Options | None = None,
    watcher: Watcher | None = None,
    *,
    on_failure: str = "keep",
    gather: bool = True,
) -> RunResult:
    """Make the environment what its profile says. No stage runs if all would find nothing to do
    (plugin_utils/convergence/unchanged.py), unless an option needs them.

    With ``on_failure="destroy"`` an environment that this run made is taken down again when it fails; one that was
    there before never is, nor is an interrupted one. With ``gather``, what the nodes know is collected first.
    """
    from ansible_collections.devenv.lab.plugins.plugin_utils.convergence import unchanged

    options, began = options or Options(), time.monotonic()
    # The playbook compares, too; here it takes no start of Ansible.
    quick = options.complete and not options.shown and "devenv_snapshot" not in goal.variables
    if quick and goal.resolved and unchanged.is_unchanged(paths.environment(goal.name), goal.resolved):
        return RunResult(goal.name, seconds=time.monotonic() - began, text=unchanged.TEXT)
    new = not paths.environment(goal.name).exists()
    variables = {**goal.variables, "devenv_full": True} | ({} if gather else {"devenv_gather": False})
    try:
        return playbook.run("cluster", goal.name, variables, options, watcher)
    except errors.Error as error:
        if gather and not options.check:
            from devenv.environments import diagnostics

            diagnostics.after_timeout(goal.name, error, options.artifacts)
        if on_failure == "destroy" and new and paths.environment(goal.name).exists():
            playbook.run("destroy", goal.name, {}, Options(command=options.command), watcher)
            error.log, error.gathered = _moved(goal.name, error.log), _moved(goal.name, error.gathered)
        raise


def _moved(name: str, log: Path | None) -> Path | None:
    """Return where a file of a run is once its environment is gone."""
    return paths.home() / "history" / name / log.parent.name / log.name if log else None


def down(name: str, options: Options | None = None, watcher: Watcher | None = None) -> RunResult:
    """Remove the environment; one that is not there is no error. Without its state folder it is found by labels."""
    names.check_name(name)
    if not paths.environment(name).exists() and not _labelled(name):
        return RunResult(name, text=f"there is no environment {name}")
    return playbook.run("destroy", name, {}, options or Options(), watcher)


def _labelled(name: str) -> bool:
    """Return whether a provider or a DHCP server knows the environment. Raise Error name_taken if it belongs to
    another DEVENV_HOME that still has it.
    """
    from ansible_collections.devenv.lab.plugins.plugin_utils.host import dhcp
    from ansible_collections.devenv.lab.plugins.plugin_utils.providers import registry

    machines, networks = registry.visible(name)
    homes = [*(machine.home for machine in machines), *(network.home for network in networks)]
    for home in homes:
        if home not in ("", str(paths.home())) and (Path(home) / "environments" / name).is_dir():
            raise errors.make(
                f"the environment {name} belongs to {home}", exit_code=11, reason="name_taken",
                advice=f"DEVENV_HOME={shlex.quote(home)} devenv down -n {name}",
            )  # fmt: skip
    return bool(homes or dhcp.servers(name))


GATHER_SECONDS = 60.0


def gather(name: str, output: str = "", options: Options | None = None, watcher: Watcher | None = None) -> Gathered:
    """Write the archive ``output`` (a file .tar.gz, or a folder for one; empty: the working directory).

    ``parts`` of the result names what does not answer. Raises UsageError for another kind of file, StageFailed (20)
    when the archive cannot be written.
    """
    from ansible_collections.devenv.lab.plugins.plugin_utils.diagnostics import archive

    from devenv.environments import diagnostics

    with names.translated():
        path = archive.archive_path(output, name)
    variables = {"devenv_output": str(path), "devenv_timeout": GATHER_SECONDS}
    result = playbook.run("gather", name, variables, options or Options(), watcher)
    return diagnostics.Gathered(path, diagnostics.parts(path), result)


# A user waits for the answer, and a cluster that is ready gives it within seconds.
VALIDATE_SECONDS = 120


def validate(
    name: str,
    options: Options | None = None,
    watcher: Watcher | None = None,
    *,
    junit: Path | None = None,
) -> RunResult:
    """Run every check of the role validate, with real pods, whatever was proved before. ``checks`` of the result, or of
    the error that is raised, has a row a check: ``{cluster, name, ok, seconds, seen, warnings}``.

    ``junit``: file for a document with a case a check. Without a timeout, waits VALIDATE_SECONDS.
    """
    from devenv.environments import access

    variables: dict[str, Any] = {
        "validate_probes": "always",
        "validate_nodes": list(access.hosts(name)),
        "devenv_timeout": VALIDATE_SECONDS,
    }
    if junit:
        variables["validate_junit"] = str(junit.absolute())
    try:
        result = playbook.run("validate", name, variables, options or Options(), watcher)
    except errors.Error as error:
        error.checks = _checks(error.log.parent if error.log else None)
        raise
    return replace(result, checks=_checks(result.run_dir))


def _checks(run_dir: Path | None) -> list[dict[str, Any]]:
    """Return the rows that the stage validate wrote into its run's folder."""
    return (files.read_json(run_dir / "checks.json", list) if run_dir else None) or []


def plan_upgrade(name: str, version: str) -> UpgradePlan:
    """Return what `upgrade` would do. Reads only; raises what the upgrade would be refused with."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import store
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import upgrade_record
    from ansible_collections.devenv.lab.plugins.plugin_utils.upgrades import plan as upgrades

    folder, resolved, new = _upgrade_step(name, version)
    with names.translated():
        begun = upgrade_record.pending(folder)
        nodes = upgrades.node_versions(folder, list(resolved["clusters"]), begun is not None)
        upgrades.require_ready(resolved, nodes, begun is not None)
        return upgrades.plan(name, resolved, new, nodes, begun, store.find(new.kubernetes) is not None)


def upgrade(name: str, version: str, options: Options | None = None, watcher: Watcher | None = None) -> RunResult:
    """Bring the environment to Kubernetes ``version``, or finish that. Refuses at once what cannot be done."""
    new = _upgrade_step(name, version)[2].kubernetes
    return playbook.run("upgrade", name, {"devenv_kubernetes_version": new}, options or Options(), watcher)


def _upgrade_step(name: str, version: str) -> tuple[Path, Profile, Any]:
    """State folder, profile, and what the bundle of the new version holds. Raises Error."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import lock, upgrade_record
    from ansible_collections.devenv.lab.plugins.plugin_utils.upgrades import plan as upgrades

    from devenv.environments import nodes as environment_nodes

    resolved, folder = environment_nodes.profile_of(name), paths.environment(name)
    with names.translated():
        lock.check(folder)
        old = str(resolved["kubernetes"]["version"])
        return folder, resolved, upgrades.check(name, old, version, upgrade_record.pending(folder))


def load_images(
    name: str, images: Sequence[str], options: Options | None = None, watcher: Watcher | None = None
) -> RunResult:
    """Load images of podman's local store, or archives of images, into every node."""
    places = [str(Path(image).absolute()) if Path(image).is_file() else image for image in images]
    return playbook.run("image_load", name, {"devenv_images": places}, options or Options(), watcher)


def save_snapshot(
    name: str,
    snapshot: str,
    options: Options | None = None,
    watcher: Watcher | None = None,
    *,
    force: bool = False,
) -> RunResult:
    """Save the environment ``name`` under the name ``snapshot``; what cannot be named so is refused at once."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import catalogue

    with names.translated():
        catalogue.check_new(paths.home(), snapshot)
    variables = {"devenv_snapshot": snapshot, "devenv_force": force}
    return playbook.run("snapshot", name, variables, options or Options(), watcher)


def replace_nodes(
    name: str, nodes: Sequence[str], options: Options | None = None, watcher: Watcher | None = None
) -> RunResult:
    """Make nodes anew. Raises Error node_unknown, control_plane_last, and what the run fails with."""
    from devenv.environments import nodes as environment_nodes

    environment_nodes.check_removal(name, nodes)
    return playbook.run("replace", name, {"devenv_replace": list(nodes)}, options or Options(), watcher)


def change_address(
    name: str, node: str | None, address: str, options: Options | None = None, watcher: Watcher | None = None
) -> RunResult:
    """Give a node (None: the only one) another address. Raises Error node_unknown, address_many_nodes,
    address_refused.
    """
    from devenv.environments import nodes as environment_nodes

    chosen = environment_nodes.check_address(name, node, address)
    variables = {"devenv_node": chosen, "devenv_address": address}
    return playbook.run("address", name, variables, options or Options(), watcher)
