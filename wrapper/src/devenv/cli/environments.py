"""Commands that inspect an environment or give access to it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from devenv import errors
from devenv.cli import options as given
from devenv.cli import output, process
from devenv.environments import access, names


def status(
    name: given.Name = None, cluster: given.Cluster = None, as_json: given.Json = False, form: given.Format = None
) -> None:
    """Show an environment: nodes, API, last run.

    Exits with 15 if the nodes are stopped, with 17 if nodes run but the API
    does not answer, with 16 if a node is missing, stopped or not Ready.
    """
    from devenv.environments import health
    from devenv.environments import status as environment_status

    chosen_form, environment = given.form(as_json, form), environment_status.status(names.existing(name), cluster)
    output.document(chosen_form, environment, _status_text)
    raise typer.Exit(health.EXIT_CODES[environment["health"]])


def _status_text(environment: dict[str, Any]) -> str:
    about = f"{environment['profile'] or 'no profile'}, Kubernetes {environment['kubernetes'] or '-'}"
    lines = [f"{environment['name']}: {environment['state']}  ({about})"]
    if environment["busy"]:
        lines.append(f"busy: {environment['busy']}")
    lines.append(f"API: {environment['api']}")
    if environment["expires"]:
        from devenv.environments import status as environment_status

        lines.append(f"expires: {environment_status.remaining(environment['expires'])} ({environment['expires']})")
    if environment["failure"]:
        lines.append(f"last run failed: {environment['failure'].get('message', '')}")
    if environment["unreadable"]:
        lines.append(_unreadable(environment))
    several = ("cluster",) if len(environment["clusters"]) > 1 else ()
    columns = ("name=NODE", "group", *several, "container", "kubernetes", "addresses")
    return "\n".join([*lines, output.table(environment["nodes"], *columns)])


def _unreadable(row: dict[str, Any]) -> str:
    return f"cannot read the definition of {', '.join(row['unreadable'])}; devenv up writes it again, down removes it"


def list_(as_json: given.Json = False, form: given.Format = None) -> None:
    """List the environments of this machine, including orphans.

    An orphan has nodes but no state directory. devenv down -n NAME removes
    it.
    """
    from devenv.environments import status as environment_status

    def text(rows: list[dict[str, Any]]) -> str:
        shown = [{**row, "expires": environment_status.remaining(row["expires"])} for row in rows]
        columns = ("name", "state", "running", "nodes", "profile", "kubernetes", "expires", "home")
        unreadable = [f"{row['name']}: {_unreadable(row)}" for row in rows if row["unreadable"]]
        return "\n".join([output.table(shown, *columns), *unreadable])

    output.document(given.form(as_json, form), environment_status.environments(), text)


def inventory(name: given.Name = None, as_json: given.Json = False, form: given.Format = None) -> None:
    """Print the static inventory, for plain ansible -i."""
    chosen = names.existing(name)
    if given.form(as_json, form, ("yaml", "json")) == "yaml":
        output.data(access.inventory_path(chosen).read_text())
    else:
        output.data(output.to_text(access.inventory(chosen), "json"))


def kubeconfig(
    name: given.Name = None,
    cluster: given.Cluster = None,
    path: Annotated[bool, typer.Option("--path", help="Print its path instead of its content.")] = False,
    merge: Annotated[bool, typer.Option("--merge", help="Merge all clusters into your own kubeconfig.")] = False,
    switch: Annotated[
        bool, typer.Option("--switch-context", help="With --merge: make the cluster's context the current one.")
    ] = False,
    unmerge: Annotated[bool, typer.Option("--unmerge", help="Undo --merge, as down does.")] = False,
) -> None:
    """Print the kubeconfig of a cluster.

    Each cluster has its own kubeconfig file. --merge only adds or replaces
    the entries named devenv-NAME[-CLUSTER] in yours (KUBECONFIG, or
    ~/.kube/config), of all clusters or of one. The current context changes
    only with --switch-context. down undoes both.
    """
    from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
    from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import kubeconfig_merge as files

    if path + merge + unmerge > 1:
        raise errors.UsageError("--path, --merge and --unmerge are mutually exclusive")
    if switch and not merge:
        raise errors.UsageError("--switch-context has no effect without --merge")
    if unmerge and cluster:
        raise errors.UsageError("--unmerge removes all clusters", advice="omit --cluster")
    if unmerge:
        chosen = names.choose(name)
        output.say(f"removed devenv-{chosen} from: {_listed(files.unmerge(paths.environment(chosen)))}")
        return
    chosen = names.existing(name)
    if merge:
        contexts = access.contexts(chosen, cluster)
        current = access.context(chosen, cluster) if switch else ""
        output.say(f"changed: {_listed(files.merge(list(contexts.values()), switch_to=current))}")
        for context in contexts:
            output.say(f"use it: kubectl{'' if context == current else f' --context {context}'} get nodes")
    else:
        source = access.kubeconfig(chosen, cluster)
        output.data(str(source) if path else source.read_text())


def _listed(paths: list[Path]) -> str:
    return ", ".join(str(path) for path in paths) or "nothing"


def env(
    name: given.Name = None, cluster: given.Cluster = None, as_json: given.Json = False, form: given.Format = None
) -> None:
    """Print variables for a shell: eval "$(devenv env)"

    KUBECONFIG, KUBECACHEDIR, DEVENV_NAME, ANSIBLE_INVENTORY, NO_PROXY and
    no_proxy (your own value and the environment's hosts), and PATH with the
    bundle's kubectl (and helm, if the bundle has it) first. Fails without
    a cluster.
    """
    chosen_form = given.form(as_json, form)
    output.document(chosen_form, access.variables(names.existing(name), cluster, need_cluster=True), access.exports)


def ssh(context: typer.Context, node: given.Node = None, name: given.Name = None) -> None:
    """Open a shell on a node, or run a command: ssh NODE -- CMD

    Example: devenv ssh master-0 -- crictl ps

    A single word is passed to the node's shell unchanged
    ("journalctl | tail"); several words are a command and its arguments.
    """
    process.replace(access.ssh_command(names.existing(name), node, given.after_dashes(context)))


def exec_(context: typer.Context, name: given.Name = None, cluster: given.Cluster = None) -> None:
    """Run a host command with the environment's variables.

    Example: devenv exec -- kubectl get nodes

    The variables are those of devenv env. While there is no cluster,
    KUBECONFIG names a file that does not exist, never your own.
    """
    command = given.after_dashes(context)
    if not command:
        raise errors.UsageError("no command was given", advice="devenv exec -- kubectl get nodes")
    process.replace(list(command), {**os.environ, **access.variables(names.existing(name), cluster)})


def shell(
    name: given.Name = None,
    source: Annotated[
        str | None, typer.Option("--command", "-c", metavar="CODE", help="Run this code instead of a shell.")
    ] = None,
) -> None:
    """Open a Python shell with the environment's hosts and clusters.

    Example: devenv shell -c 'print(clusters.main.kubectl.get_nodes())'

    hosts, clusters and base_config are what tests get, with the names of
    nodes and clusters (a hyphen is an underscore). Uses IPython if it is
    installed. Input that is not a terminal is run as a script.
    """
    from devenv.testing import shell as session

    raise typer.Exit(session.run(names.existing(name), source))


def forward(
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="[NAMESPACE/]SERVICE[:PORT]")],
    ports: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PORT]", help="[LOCAL:]PORT, by number or name; by default every TCP port."),
    ] = None,
    name: given.Name = None,
    address: Annotated[str, typer.Option("--address", metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    cluster: given.Cluster = None,
    as_json: given.Json = False,
) -> None:
    """Forward local ports to a Service until Ctrl-C.

    Example: devenv forward shop/web 8080:http

    Uses the API, so it works in every address family and needs no NodePort.
    Prints one line per port. When the pod behind a port disappears,
    forwarding continues with another one.
    """
    from devenv.environments import port_forward

    target, requests = port_forward.parse_target(service), [port_forward.parse_port(port) for port in ports or []]
    listen = port_forward.check_address(address)
    chosen = names.existing(name)

    def show(forwards: list[port_forward.Forward]) -> None:
        for item in forwards:
            output.data(json.dumps(item.document()) if as_json else item.line())
        output.say("forwarding until Ctrl-C")

    kubeconfig, variables = access.kubeconfig(chosen, cluster), access.variables(chosen, cluster)
    kubectl = port_forward.program(variables)
    port_forward.serve(kubeconfig, kubectl, target, requests, listen, show, output.say, variables)


def logs(
    node: Annotated[
        str | None, typer.Argument(metavar="[NODE]", help="A node.", autocompletion=given.complete_node)
    ] = None,
    name: given.Name = None,
    runs: Annotated[bool, typer.Option("--runs", help="List the runs, the newest last.")] = False,
    run: Annotated[str | None, typer.Option("--run", metavar="ID", help="A run; by default the newest.")] = None,
    path: Annotated[bool, typer.Option("--path", help="Print the log's path instead of its content.")] = False,
    unit: Annotated[str | None, typer.Option("--unit", "-u", metavar="UNIT", help="With NODE: only this unit.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print new lines until the run ends.")] = False,
    lines: Annotated[
        int | None,
        typer.Option("--lines", metavar="N", help="The last N lines; by default 200 of a node, all of a run.", min=1),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --runs: JSON output.")] = False,
) -> None:
    """Print the log of the newest run, or a node's journal.

    Example: devenv logs master-0 --unit kubelet

    --follow prints the log of a running command, also from another
    terminal. The logs of the last ten runs are kept after an environment is
    removed.
    """
    from devenv.runs import history

    of_run = {"--runs": runs, "--run": run, "--path": path, "--json": as_json}
    if node is not None:
        given.refuse("with a node", of_run)
    else:
        given.refuse("without a node", {"--unit": unit})
        given.refuse("without --runs", {"--json": as_json and not runs})
    if runs or path:
        others = {"--run": run, "--path": path} if runs else {}
        given.refuse("with --runs" if runs else "with --path", {**others, "--follow": follow, "--lines": lines})
    chosen = names.choose(name)
    if node is not None:
        words = ["journalctl", "--no-pager", f"--lines={lines or 200}"]
        words += [*(["--follow"] if follow else []), *([f"--unit={unit}"] if unit else [])]
        process.replace(access.ssh_command(names.existing(chosen), node, words, root=True))
    if runs:
        columns = ("run", "began", "command", "exit", "changed", "seconds")
        output.document(given.form(as_json), history.runs(chosen), lambda rows: output.table(rows, *columns))
    elif path:
        output.data(str(history.log_of(chosen, run)))
    else:
        for text in history.log(chosen, run, lines=lines, follow=follow):
            output.data(text)
