"""devenv certs: certificates of the clusters."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from devenv.cli import options as given
from devenv.cli import output
from devenv.cli.run_options import RunOptions, run_options

app = typer.Typer(help="Show and renew the certificates of an environment.", no_args_is_help=True)


@app.callback()
def _app() -> None:
    """Show and renew the certificates of an environment."""


@app.command("list")
def list_(name: given.Name = None, as_json: given.Json = False, form: given.Format = None) -> None:
    """List the certificates on the nodes and when they end, the first to end at the top."""
    from dataclasses import asdict

    from ansible_collections.devenv.lab.plugins.plugin_utils.validation import certificates

    from devenv.environments import access, names

    chosen = names.existing(name)
    with names.translated():
        found = [asdict(row) for row in certificates.query(access.hosts(chosen))]
    output.document(given.form(as_json, form), found, _text)


def _text(rows: list[dict[str, Any]]) -> str:
    columns = {"node": "NODE", "days": "DAYS", "end": "END", "path": "CERTIFICATE"}
    shown = [{**row, "path": row["trouble"], "days": ""} if row["trouble"] else row for row in rows]
    return output.table(shown, columns)


@app.command()
@run_options()
def renew(
    common: RunOptions,
    within: Annotated[
        str | None,
        typer.Option("--within", metavar="DAYS", help="Only where a certificate ends within so many days, e.g. 30d."),
    ] = None,
    name: given.Name = None,
) -> None:
    """Renew the certificates of all control plane nodes, one node after the other, and fetch the kubeconfig again.

    kubelet renews its own by itself. The authorities stay as they are.
    """
    from devenv.environments import names
    from devenv.runs import playbook

    with common.running() as run:
        limit = {"devenv_within": given.days(within) * 86400} if within else {}
        result = playbook.run("certificates", names.existing(name), limit, common.options(), run.watcher)
        run.done(result, [f"{result.name}: devenv certs list shows the new ends"])
