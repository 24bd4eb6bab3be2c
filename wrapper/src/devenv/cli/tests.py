"""devenv test: run tests that use hosts and clusters."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from devenv import errors
from devenv.cli import options as given
from devenv.cli import output, process

app = typer.Typer(help="Run test suites, also in a container.", no_args_is_help=True)


@app.callback()
def _test() -> None:
    # Without a callback, Typer would turn the only command into the group.
    """Run test suites, also in a container."""


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def run(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PYTEST_ARGUMENT...]", help="Options and paths, or a command: python -m pytest ..."),
    ] = None,
    container: Annotated[bool, typer.Option("--container", help="Run in a container of the project.")] = False,
    requirements: Annotated[
        Path | None,
        typer.Option("--requirements", metavar="FILE", help="Packages of the container; requirements.txt by default."),
    ] = None,
    base: Annotated[
        str, typer.Option("--base", metavar="IMAGE", help="Image of the container; Debian by default.")
    ] = "",
    mount: Annotated[
        list[str] | None,
        typer.Option(
            "--mount", metavar="SOURCE[:TARGET[:OPTIONS]]", help="Share a path with the container. Repeatable."
        ),
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build the image of the container again.")] = False,
) -> None:
    """Run pytest as pytest_automation_infra's scripts do, with its plugins.

    Example: devenv test run tests --sf="-p pytest_devops_infra --install"

    Each test gets a process of its own. Machines come from the service in
    --provisioner or HABERTEST_PROVISIONER, else from
    ~/.local/hardware.yaml, else they are nodes of this machine. Options of
    devenv come first, and end with the first word that is not an option.
    Exits with pytest's code. Needs the package devenv-lab-compat.
    """
    from devenv.testing.launcher import command

    typed = [*(words or []), *given.after_dashes(context)]
    if container:
        _run_in_container(typed, requirements, base, mount or [], rebuild=rebuild)
        return
    others = {"--requirements": requirements, "--base": base, "--mount": mount, "--rebuild": rebuild}
    given.refuse("without --container", others)
    if importlib.util.find_spec("pytest_subprocessor") is None:
        raise errors.UsageError("the plugins of test run are missing", advice="pip install devenv-lab-compat")
    process.replace(command.of(typed, os.environ, sys.executable))


def _run_in_container(
    words: list[str], requirements: Path | None, base: str, mounts: list[str], *, rebuild: bool
) -> None:
    from devenv.testing.installers import project
    from devenv.testing.launcher import command, container

    with errors.translated():
        folder = Path.cwd()
        declared = project.read(folder / project.FILE).get("container", {})
        chosen = container.Container.of(folder, declared, requirements, base, mounts)
        image = container.ensure_image(chosen, output.say, rebuild=rebuild)
        inside = command.of(words, os.environ, "python3")
        terminal = sys.stdin.isatty() and sys.stdout.isatty()
        process.replace(container.command(chosen, image, inside, os.environ, terminal=terminal))
