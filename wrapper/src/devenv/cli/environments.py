"""Commands that look at an environment or hand it to something else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from devenv import errors
from devenv.cli import options as given
from devenv.cli import output

Node = Annotated[
    str | None,
    typer.Argument(metavar="[NODE]", help="Which node; the only one by default.", autocompletion=given.complete_node),
]


def status(name: given.Name = None, as_json: given.Json = False, form: given.Format = None) -> None:
    """Show an environment: its nodes, whether the API answers, how the last run went."""
    from devenv.environments import names
    from devenv.environments import status as environment_status

    output.document(given.form(as_json, form), environment_status.status(names.existing(name)), _status_text)


def _status_text(found: dict[str, Any]) -> str:
    about = f"{found['profile'] or 'no profile'}, Kubernetes {found['kubernetes'] or '-'}"
    lines = [f"{found['name']}: {found['state']}  ({about})"]
    if found["busy"]:
        lines.append(f"at work: {found['busy']}")
    lines.append(f"API: {found['api']}")
    if found["failure"]:
        lines.append(f"last run failed: {found['failure'].get('message', '')}")
    columns = {
        "name": "NODE",
        "group": "GROUP",
        "container": "CONTAINER",
        "kubernetes": "KUBERNETES",
        "addresses": "ADDRESSES",
    }
    return "\n".join([*lines, output.table(found["nodes"], columns)])


def list_(as_json: given.Json = False, form: given.Format = None) -> None:
    """List the environments of this machine, orphans included.

    An orphan has nodes and no state folder: devenv down -n NAME removes it.
    """
    from devenv.environments import status as environment_status

    columns = {
        "name": "NAME",
        "state": "STATE",
        "running": "RUNNING",
        "nodes": "NODES",
        "profile": "PROFILE",
        "kubernetes": "KUBERNETES",
        "home": "HOME",
    }
    output.document(
        given.form(as_json, form), environment_status.environments(), lambda rows: output.table(rows, columns)
    )


def inventory(name: given.Name = None, as_json: given.Json = False, form: given.Format = None) -> None:
    """Print the inventory, as plain ansible -i takes it."""
    from devenv.environments import access, names

    chosen = names.existing(name)
    if given.form(as_json, form, ("yaml", "json"), "yaml") == "yaml":
        output.data(access.inventory_path(chosen).read_text())
    else:
        output.data(output.to_text(access.inventory(chosen), "json"))


def kubeconfig(
    name: given.Name = None,
    path: Annotated[bool, typer.Option("--path", help="Print its path instead of its content.")] = False,
    merge: Annotated[
        bool, typer.Option("--merge", help="Put its entries into your own kubeconfig (KUBECONFIG, or ~/.kube/config).")
    ] = False,
    unmerge: Annotated[bool, typer.Option("--unmerge", help="Take them out again; down does so too.")] = False,
) -> None:
    """Print the environment's kubeconfig.

    It stands in the environment's own file. --merge only adds or replaces the entries named devenv-NAME in yours: the
    current context stays, and down takes them out again.
    """
    from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
    from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import kubeconfig_merge as files

    from devenv.environments import access, names

    if path + merge + unmerge > 1:
        raise errors.UsageError("--path, --merge and --unmerge exclude each other")
    if unmerge:
        chosen = names.choose(name)
        output.say(f"removed devenv-{chosen} from: {_listed(files.unmerge(paths.environment(chosen)))}")
        return
    chosen = names.existing(name)
    source = access.kubeconfig(chosen)
    if merge:
        output.say(f"changed: {_listed(files.merge(source))}")
        output.say(f"use it: kubectl --context devenv-{chosen} get nodes")
    else:
        output.data(str(source) if path else source.read_text())


def _listed(paths: list[Path]) -> str:
    return ", ".join(str(path) for path in paths) or "nothing"


def env(name: given.Name = None, as_json: given.Json = False, form: given.Format = None) -> None:
    """Print variables for a shell: eval "$(devenv env)"

    KUBECONFIG, KUBECACHEDIR, DEVENV_NAME, ANSIBLE_INVENTORY, and PATH with the bundle's kubectl (and helm, if it
    has helm) in front.
    """
    from devenv.environments import access, names

    output.document(given.form(as_json, form), access.variables(names.existing(name)), access.exports)


def ssh(context: typer.Context, node: Node = None, name: given.Name = None) -> None:
    """Open a shell on a node, or run a command there: devenv ssh master-0 -- crictl ps

    One word goes to the node's shell as it is ("journalctl | tail"); several words keep their meaning.
    """
    from devenv.environments import access, names

    _replace(access.ssh_command(names.existing(name), node, given.rest(context)))


def exec_(context: typer.Context, name: given.Name = None) -> None:
    """Run a command of this host with the environment's variables: devenv exec -- kubectl get nodes"""
    from devenv.environments import access, names

    command = given.rest(context)
    if not command:
        raise errors.UsageError("which command?", advice="devenv exec -- kubectl get nodes")
    _replace(list(command), {**os.environ, **access.variables(names.existing(name))})


def _replace(argv: list[str], env: dict[str, str] | None = None) -> None:
    """Become the program: its exit code, terminal and signals are then its own."""
    try:
        os.execvpe(argv[0], argv, env or dict(os.environ))
    except OSError as error:
        raise errors.UsageError(f"cannot run {argv[0]}: {error.strerror}") from None


def forward(
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="[NAMESPACE/]SERVICE[:PORT]")],
    ports: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PORT]", help="[LOCAL:]PORT, by number or name; every TCP port by default."),
    ] = None,
    name: given.Name = None,
    address: Annotated[
        str, typer.Option("--address", metavar="ADDRESS", help="Listen on this address of this host.")
    ] = "127.0.0.1",
    cluster: Annotated[str, typer.Option("--cluster", metavar="CLUSTER", help="Which cluster.")] = "main",
    as_json: given.Json = False,
) -> None:
    """Reach a Service from this host, until Ctrl-C: devenv forward shop/web 8080:http

    Over the API, so it works in every address family, and needs no NodePort. Each line says where a port is reached.
    When the pod behind it goes, forwarding goes on with another one.
    """
    from devenv.environments import access, names
    from devenv.environments import port_forward as forwarding

    target, requests = forwarding.parse_target(service), [forwarding.parse_port(port) for port in ports or []]
    listen = forwarding.check_address(address)
    chosen = names.existing(name)

    def told(found: list[forwarding.Forward]) -> None:
        for item in found:
            output.data(json.dumps(item.document()) if as_json else item.line())
        output.say("forwarding until Ctrl-C")

    forwarding.serve(
        access.kubeconfig(chosen, cluster),
        forwarding.program(access.variables(chosen)),
        target,
        requests,
        listen,
        told,
        output.say,
    )


def logs(
    node: Annotated[
        str | None,
        typer.Argument(metavar="[NODE]", help="The journal of this node.", autocompletion=given.complete_node),
    ] = None,
    name: given.Name = None,
    runs: Annotated[bool, typer.Option("--runs", help="List the runs, the newest last.")] = False,
    run: Annotated[
        str | None, typer.Option("--run", metavar="ID", help="The log of this run; the newest by default.")
    ] = None,
    path: Annotated[bool, typer.Option("--path", help="Print the log's path instead of its content.")] = False,
    unit: Annotated[
        str | None, typer.Option("--unit", "-u", metavar="UNIT", help="With NODE: of this unit only, e.g. kubelet.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="With NODE: go on as lines come.")] = False,
    lines: Annotated[int, typer.Option("--lines", metavar="N", help="With NODE: the last N lines.", min=1)] = 200,
    as_json: given.Json = False,
) -> None:
    """Print the log of the newest run, or a node's journal.

    Logs of an environment that is gone are kept, ten runs of each.
    """
    from devenv.environments import access, names
    from devenv.runs import history

    chosen = names.choose(name)
    if node is not None:
        words = ["journalctl", "--no-pager", f"--lines={lines}"]
        words += [*(["--follow"] if follow else []), *([f"--unit={unit}"] if unit else [])]
        _replace(access.ssh_command(names.existing(chosen), node, words, root=True))
    if runs:
        columns = {
            "run": "RUN",
            "began": "BEGAN",
            "command": "COMMAND",
            "exit": "EXIT",
            "changed": "CHANGED",
            "seconds": "SECONDS",
        }
        output.document("json" if as_json else "text", history.runs(chosen), lambda rows: output.table(rows, columns))
        return
    log = history.log_of(chosen, run)
    output.data(str(log) if path else log.read_text(errors="replace"))
