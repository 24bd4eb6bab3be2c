"""devenv snapshot: save, list and remove snapshots. `devenv up --snapshot NAME` creates an environment from one."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import catalogue

from devenv import operations
from devenv.cli import options as given
from devenv.cli import output
from devenv.cli.run_options import Run, run_options
from devenv.environments import names

app = typer.Typer(help="Save an environment's state and start new ones from it.", no_args_is_help=True)

Snapshot = Annotated[
    str, typer.Argument(metavar="SNAPSHOT", help="Name of the snapshot.", autocompletion=given.complete_snapshot)
]


@app.command("save")
@run_options()
def save(
    run: Run,
    snapshot: Annotated[str, typer.Argument(metavar="SNAPSHOT", help="Name of the new snapshot.")],
    name: given.Name = None,
    cluster: given.Cluster = None,
    force: Annotated[bool, typer.Option("--force", help="Save the cluster even if it is not healthy.")] = False,
) -> None:
    """Save a running environment: objects, app data, extra images.

    Extra images are those that are not in the bundle. The snapshot does not
    contain keys, certificates and tokens of the cluster. It contains
    secrets of apps, and only you can read it. Containers that write to
    saved directories are frozen while those are read.

    With --cluster, the snapshot contains only this cluster and its nodes,
    and so does an environment created from it.
    """
    result = operations.save_snapshot(names.existing(name), snapshot, run.options(), force=force, cluster=cluster)
    saved = f"cluster {cluster} of {result.name}" if cluster else result.name
    run.done(result, f"saved {saved} as {snapshot}", f"use it: devenv up --snapshot {snapshot}")


@app.command("list")
def list_(as_json: given.Json = False, form: given.Format = None) -> None:
    """List the snapshots."""
    output.document(given.form(as_json, form), catalogue.rows(paths.home()), _list_text)


def _list_text(rows: list[dict[str, Any]]) -> str:
    shown = [{**row, "nodes": len(row["nodes"]), "size": output.size(row["bytes"])} for row in rows]
    return output.table(shown, "name", "profile", "kubernetes", "nodes", "size", "made", "environment", "state")


@app.command("rm")
def remove(snapshot: Snapshot) -> None:
    """Remove a snapshot. Environments created from it are not affected."""
    catalogue.remove(paths.home(), snapshot)
    output.say(f"removed the snapshot {snapshot}")
