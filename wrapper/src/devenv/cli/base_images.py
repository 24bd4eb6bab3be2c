"""devenv base-image: build, list and remove variants of the node image, which nodes name with the key base_image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import base_images

from devenv import errors, operations
from devenv.cli import options as given
from devenv.cli import output
from devenv.cli.run_options import Run, run_options

app = typer.Typer(help="Build, list and remove images for single nodes.", no_args_is_help=True)

Image = Annotated[
    str, typer.Argument(metavar="IMAGE", help="Name of the base image.", autocompletion=given.complete_base_image)
]


@app.command("build")
@run_options(artifacts=False)
def build(
    run: Run,
    image: Image,
    packages: Annotated[
        list[str] | None, typer.Option("--package", metavar="PACKAGE", help="A Debian package to add. Repeatable.")
    ] = None,
    sources: Annotated[
        list[str] | None,
        typer.Option("--file", metavar="FILE:PATH", help="A file to add, and its path on the node. Repeatable."),
    ] = None,
    rootfs: Annotated[
        Path | None,
        typer.Option("--rootfs", metavar="TAR", help="Start from this root filesystem instead of Debian packages."),
    ] = None,
) -> None:
    """Build a base image: the node image with more packages and files.

    Nodes get it with the key base_image of a profile, hosts of tests with
    base_image. An image with the same content is built only once. A name
    that exists gets the new content; existing nodes keep the former one.
    """
    result = operations.build_base_image(image, packages or [], _targets(sources or []), rootfs, run.options())
    run.done(result, f"built {image}", f"use it: devenv up --set nodes.worker-0.base_image={image}")


def _targets(values: list[str]) -> dict[str, Path]:
    """Return the files of ``FILE:PATH`` by path on the node. Raises UsageError."""
    sources = {}
    for value in values:
        source, colon, target = value.rpartition(":")
        if not colon or not source or not target:
            raise errors.UsageError(
                f"{value!r} is not FILE:PATH", where="--file", advice="--file ./lab.conf:/etc/lab.conf"
            )
        sources[target] = Path(source)
    return sources


@app.command("list")
def list_(as_json: given.Json = False, form: given.Format = None) -> None:
    """List the base images, with the environments that use them."""
    with errors.translated():
        rows = base_images.rows(paths.home())
    output.document(given.form(as_json, form), rows, _list_text)


def _list_text(rows: list[dict[str, Any]]) -> str:
    shown = [
        {
            **row,
            "content": " ".join([*row["packages"], *row["files"], *(["rootfs"] if row["rootfs"] else [])]),
            "size": output.size(row["bytes"]) if row["images"] else "not built",
            "environments": " ".join(row["environments"]) or "-",
        }
        for row in rows
    ]
    return output.table(shown, "name", "digest", "size", "made", "environments", "content")


@app.command("rm")
def remove(image: Image) -> None:
    """Remove a base image. Refuses one that a node of an environment has."""
    with errors.translated():
        base_images.remove(paths.home(), image)
    output.say(f"removed the base image {image}")
