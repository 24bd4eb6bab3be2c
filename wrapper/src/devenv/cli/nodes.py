"""devenv node: nodes of an environment that come, go and are made anew."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from devenv.cli import options as given
from devenv.cli import output
from devenv.cli.run_options import RunOptions, run_options

app = typer.Typer(
    help="Add, remove and replace nodes of an environment.",
    no_args_is_help=True,
)

Nodes = Annotated[list[str], typer.Argument(metavar="NODE...", help="Which nodes.", autocompletion=given.complete_node)]
Add = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NODE...]", help="Names: master-N or worker-N. Without any, the next worker."),
]
Own = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A key of the new nodes, e.g. memory=4GiB or labels.pipe=true. May be repeated.",
    ),
]


@app.callback()
def _app() -> None:
    """Add, remove and replace nodes of an environment."""


@app.command("list")
def list_(name: given.Name = None, as_json: given.Json = False, form: given.Format = None) -> None:
    """List the nodes of an environment, those that are about to leave it included."""
    from devenv.environments import names
    from devenv.environments import status as environment_status

    columns = {
        "name": "NODE",
        "group": "GROUP",
        "cluster": "CLUSTER",
        "container": "CONTAINER",
        "kubernetes": "KUBERNETES",
        "leaving": "LEAVES",
        "addresses": "ADDRESSES",
    }

    def text(rows: list[dict[str, Any]]) -> str:
        return output.table([{**row, "leaving": "yes" if row["leaving"] else ""} for row in rows], columns)

    output.document(given.form(as_json, form), environment_status.nodes(names.existing(name)), text)


@app.command()
@run_options(check=True)
def add(common: RunOptions, nodes: Add = None, changes: Own = None, name: given.Name = None) -> None:
    """Add nodes to an environment: the profile that it keeps gets them, then all is as in up.

    A later up that names a profile without them removes them again.
    """
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import node_changes

    own = given.overrides(changes)
    _up(lambda old: node_changes.added(old, nodes or [], own), common, name)


@app.command()
@run_options(check=True)
def remove(common: RunOptions, nodes: Nodes, name: given.Name = None) -> None:
    """Remove nodes: their pods move away, they leave the cluster and etcd, then their machines end.

    The last control plane node of a cluster is refused (exit code 14): devenv down ends the environment.
    """
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import node_changes

    _up(lambda old: node_changes.removed(old, nodes), common, name)


@app.command()
@run_options()
def replace(common: RunOptions, nodes: Nodes, name: given.Name = None) -> None:
    """Make nodes anew, with their name and address: dead, damaged or well.

    Of a node that still answers, pods move away first. What would cost etcd its majority is refused (exit code 14). A
    node whose container is gone needs no command of its own: up makes it anew.
    """
    from devenv import operations
    from devenv.environments import names

    with common.running() as run:
        result = operations.replace_nodes(names.existing(name), nodes, common.options(), run.watcher)
        run.done(result, [f"made anew: {', '.join(nodes)}"])


@app.command("change-address")
@run_options()
def change_address(
    common: RunOptions,
    node: Annotated[
        str | None, typer.Argument(metavar="[NODE]", help="Which node.", autocompletion=given.complete_node)
    ] = None,
    address: Annotated[
        str | None,
        typer.Option("--address", metavar="ADDRESS", help="The new address; by default the next that is free."),
    ] = None,
    name: given.Name = None,
) -> None:
    """Give the only node of a cluster another address of the environment's subnet, with all that follows from it.

    Certificates, etcd, kubelet, kubeconfig; pods keep theirs. A cluster of several nodes is refused (exit code 14).
    """
    from devenv import operations
    from devenv.environments import names
    from devenv.environments import nodes as environment_nodes

    with common.running() as run:
        result = operations.change_address(names.existing(name), node, address or "", common.options(), run.watcher)
        told = ", ".join(environment_nodes.addresses_of(result.name, node))
        run.done(result, [f"{result.name} is at {told} now"])


def _up(change: Any, common: RunOptions, name: str | None) -> None:
    """Run up with the environment's own profile, changed."""
    from devenv import operations
    from devenv.environments import names, target
    from devenv.environments import nodes as environment_nodes

    with common.running() as run:
        existing = names.existing(name)
        goal = target.resolve(None, existing, change(environment_nodes.profile_of(existing)))
        result = operations.up(goal, common.options(), run.watcher)
        have = ", ".join(node["name"] for node in (goal.resolved["nodes"] if goal.resolved else []))
        run.done(result, [] if common.check else [f"{goal.name} has {have}"])
