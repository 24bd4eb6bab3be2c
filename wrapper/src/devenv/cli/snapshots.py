"""Commands about snapshots: save, list, rm. `devenv up --snapshot NAME` starts an environment from one."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from devenv.cli import options as given
from devenv.cli import output
from devenv.cli.run_options import RunOptions, run_options

app = typer.Typer(help="Save what an environment holds, and start the next one from it.", no_args_is_help=True)


@app.callback()
def _snapshot() -> None:
    """Save what an environment holds, and start the next one from it: devenv up --snapshot NAME"""


Snapshot = Annotated[
    str,
    typer.Argument(metavar="SNAPSHOT", help="Name of the snapshot.", autocompletion=given.complete_snapshot),
]


@app.command("save")
@run_options()
def save(
    common: RunOptions,
    snapshot: Annotated[str, typer.Argument(metavar="SNAPSHOT", help="Name to save it under.")],
    name: given.Name = None,
    force: Annotated[bool, typer.Option("--force", help="Save a cluster that is not healthy, too.")] = False,
) -> None:
    """Save the environment while it runs: objects, data of apps, images beyond the bundle.

    Keys, certificates and tokens of the cluster are not kept. Secrets of apps are: the snapshot is private to you.
    Containers that write to saved folders are frozen while those are read.
    """
    from devenv import operations
    from devenv.environments import names

    with common.running() as run:
        result = operations.save_snapshot(names.existing(name), snapshot, common.options(), run.watcher, force=force)
        run.done(result, [f"{result.name} is saved as {snapshot}", f"use it: devenv up --snapshot {snapshot}"])


@app.command("list")
def list_(as_json: given.Json = False, form: given.Format = None) -> None:
    """List the snapshots."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
    from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import catalogue

    output.document(given.form(as_json, form), catalogue.rows(paths.home()), _list_text)


def _list_text(rows: list[dict[str, Any]]) -> str:
    columns = {
        "name": "NAME", "profile": "PROFILE", "kubernetes": "KUBERNETES", "nodes": "NODES", "size": "SIZE",
        "made": "MADE", "environment": "ENVIRONMENT", "state": "STATE",
    }  # fmt: skip
    shown = [{**row, "nodes": len(row["nodes"]), "size": output.size(row["bytes"])} for row in rows]
    return output.table(shown, columns)


@app.command("rm")
def remove(snapshot: Snapshot) -> None:
    """Remove a snapshot. Environments that were made from it stay as they are."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
    from ansible_collections.devenv.lab.plugins.plugin_utils.snapshots import catalogue

    from devenv.environments import names

    with names.translated():
        catalogue.remove(paths.home(), snapshot)
    output.say(f"the snapshot {snapshot} is gone")
