"""devenv node: list, add, remove and replace nodes, and change the address of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import node_changes
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.types import Profile

from devenv import operations
from devenv.cli import options as given
from devenv.cli import output
from devenv.cli.run_options import Run, run_options
from devenv.environments import access, names, target

app = typer.Typer(help="Add, remove and replace nodes of an environment.", no_args_is_help=True)

Nodes = Annotated[
    list[str], typer.Argument(metavar="NODE...", help="Names of the nodes.", autocompletion=given.complete_node)
]
NewNodes = Annotated[
    list[str] | None, typer.Argument(metavar="[NODE...]", help="master-N or worker-N; by default the next worker.")
]
Keys = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="E.g. memory=4GiB or labels.pipe=true. Repeatable."),
]


@app.command("list")
def list_(name: given.Name = None, as_json: given.Json = False, form: given.Format = None) -> None:
    """List the nodes of an environment, including those to be removed."""
    from devenv.environments import status

    def text(rows: list[dict[str, Any]]) -> str:
        shown = [{**row, "leaving": "yes" if row["leaving"] else ""} for row in rows]
        columns = ("name=NODE", "group", "cluster", "container", "kubernetes", "leaving=LEAVES", "addresses")
        return output.table(shown, *columns)

    output.document(given.form(as_json, form), status.nodes(names.existing(name)), text)


@app.command()
@run_options(check=True)
def add(run: Run, nodes: NewNodes = None, changes: Keys = None, name: given.Name = None) -> None:
    """Add nodes to the stored profile of an environment, then run up.

    A later up with a profile that lacks these nodes removes them again.
    """
    keys = given.overrides(changes)
    _up(lambda stored: node_changes.added(stored, nodes or [], keys), run, name)


@app.command()
@run_options(check=True)
def remove(run: Run, nodes: Nodes, name: given.Name = None) -> None:
    """Drain nodes, remove them from the cluster and etcd, and delete them.

    The last control plane node of a cluster is refused (exit code 14);
    devenv down removes the environment.
    """
    _up(lambda stored: node_changes.removed(stored, nodes), run, name)


@app.command()
@run_options()
def replace(run: Run, nodes: Nodes, name: given.Name = None) -> None:
    """Recreate nodes, even dead ones, with their names and addresses.

    A node that still answers is drained first. A replacement that would
    cost etcd its quorum is refused (exit code 14). A node whose container is
    missing does not need this command: up recreates it.
    """
    result = operations.replace_nodes(names.existing(name), nodes, run.options())
    run.done(result, f"recreated {', '.join(nodes)}")


@app.command("change-address")
@run_options()
def change_address(
    run: Run,
    node: given.Node = None,
    address: Annotated[
        str, typer.Option("--address", metavar="ADDRESS", help="The new address; by default the next free one.")
    ] = "",
    name: given.Name = None,
) -> None:
    """Give the only node of a cluster another address in its subnet.

    Updates certificates, etcd, kubelet and the kubeconfig; pods keep their
    addresses. A cluster of several nodes is refused (exit code 14).
    """
    run.done(operations.change_address(names.existing(name), node, address, run.options()))


def _up(changes: Callable[[Profile], Mapping[str, Any]], run: Run, name: str | None) -> None:
    """Run up with the changed stored profile of the environment."""
    environment = names.existing(name)
    goal = target.resolve(None, environment, changes(access.profile(environment)))
    result = operations.up(goal, run.options())
    run.done(result, f"the nodes of {goal.name} are {', '.join(node['name'] for node in goal.resolved['nodes'])}")
