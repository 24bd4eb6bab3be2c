"""devenv certs: certificates of the clusters."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from devenv.cli import options as given
from devenv.cli import output
from devenv.cli.run_options import Run, run_options
from devenv.environments import access, names
from devenv.runs import playbook

app = typer.Typer(help="Show and renew the certificates of an environment.", no_args_is_help=True)


@app.command("list")
def list_(name: given.Name = None, as_json: given.Json = False, form: given.Format = None) -> None:
    """List the certificates on the nodes, sorted by expiry date."""
    from dataclasses import asdict

    from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
    from ansible_collections.devenv.lab.plugins.plugin_utils.validation import certificates

    from devenv import errors

    chosen = names.existing(name)
    rows = [asdict(row) for row in certificates.query(access.hosts(chosen))]
    if rows and all(row["trouble"] for row in rows):
        troubles = "; ".join(f"{row['node']}: {row['trouble']}" for row in rows)
        raise errors.from_logic(DevenvError("nodes_silent", f"no node of {chosen} answers: {troubles}"))
    output.document(given.form(as_json, form), rows, _text)


def _text(rows: list[dict[str, Any]]) -> str:
    shown = [{**row, "path": row["trouble"], "days": ""} if row["trouble"] else row for row in rows]
    return output.table(shown, "node", "days", "end", "path=CERTIFICATE")


@app.command()
@run_options()
def renew(
    run: Run,
    within: Annotated[
        str | None, typer.Option("--within", metavar="DAYS", help="Only if one expires within this time, e.g. 30d.")
    ] = None,
    name: given.Name = None,
) -> None:
    """Renew the certificates of the control plane nodes, one by one.

    Then fetches the kubeconfig again. kubelet renews its own certificates
    automatically. The CAs stay as they are.
    """
    limit = {"devenv_within": given.days(within) * 86400} if within else {}
    result = playbook.run("certificates", names.existing(name), limit, run.options())
    run.done(result, f"{result.name}: devenv certs list shows the new expiry dates")
