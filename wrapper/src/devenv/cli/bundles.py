"""devenv bundle: binaries and images that a Kubernetes version needs, in one directory with digests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import archive as archives
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import downloads, sources, store, versions

from devenv import errors
from devenv.cli import options as given
from devenv.cli import output

app = typer.Typer(help="Build, export and import binaries and images of Kubernetes.", no_args_is_help=True)

Version = Annotated[
    str | None, typer.Argument(metavar="[VERSION]", help="Kubernetes version; by default devenv's default version.")
]


@app.command("list")
def list_(as_json: given.Json = False, form: given.Format = None) -> None:
    """List the bundles on this machine."""
    rows = [
        {
            "bundle": bundle.name,
            "kubernetes": bundle.manifest.kubernetes,
            "source": bundle.manifest.source,
            "created": bundle.manifest.created,
            "parts": sorted(bundle.manifest.parts),
            "bytes": bundle.size,
            "files": len(bundle.manifest.files),
            "images": [image.name for image in bundle.manifest.images],
            "path": str(bundle.path),
        }
        for bundle in store.list_bundles()
    ]
    output.document(given.form(as_json, form), rows, _list_text)


def _list_text(rows: list[dict[str, Any]]) -> str:
    shown = [{**row, "size": output.size(row["bytes"])} for row in rows]
    return output.table(shown, "bundle", "kubernetes", "source", "size", "created", "path")


@app.command()
def build(
    version: Version = None,
    source: Annotated[
        str, typer.Option("--source", metavar="SOURCE", help="auto, cache, directory, release or modules.")
    ] = "auto",
    directory: Annotated[
        Path | None, typer.Option("--directory", metavar="DIR", help="A directory or archive, for --source directory.")
    ] = None,
    mirrors: Annotated[
        list[str] | None,
        typer.Option(
            "--mirror",
            metavar="PLACE=URL",
            help="For the source release: kubernetes, helm, containerd, cni, crictl, registry, docker. Repeatable.",
        ),
    ] = None,
    parts: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="PART",
            help="Add an optional part: helm, metrics, storage or all. Repeatable.",
        ),
    ] = None,
    as_json: given.Json = False,
) -> None:
    """Build a bundle, unless it exists.

    The source auto uses the first source that works, and reports which one
    it used and why the others failed. devenv up adds the optional parts that
    its profile needs.
    """
    given.refuse(f"with --source {source}", {"--directory": directory if source != "directory" else None})
    given.refuse(f"with --source {source}", {"--mirror": mirrors if source not in ("auto", "release") else None})
    places = downloads.official()
    options = sources.Options(directory=directory, places={**places, **_mirrors(mirrors, set(places))})
    chosen = versions.PARTS if parts and "all" in parts else parts or ()
    bundle, made, notes = sources.ensure(version, source, parts=chosen, options=options, progress=output.say)
    result = {"path": str(bundle.path) if bundle else None, "made": made, "notes": notes}
    output.document(given.form(as_json), result, _build_text)


def _build_text(result: dict[str, Any]) -> str:
    return "\n".join([*result["notes"], result["path"], f"changed={int(result['made'])}"])


def _mirrors(values: list[str] | None, places: set[str]) -> dict[str, str]:
    mirrors = {}
    for value in values or []:
        place, equals, url = value.partition("=")
        if not equals or place not in places or not url.startswith(("http://", "https://")):
            raise errors.UsageError(
                f"{value!r} is not PLACE=URL", where="--mirror", advice=f"places: {', '.join(sorted(places))}"
            )
        mirrors[place] = url.rstrip("/")
    return mirrors


@app.command()
def export(
    target: Annotated[
        Path, typer.Argument(metavar="FILE", help="The archive (.tar or .tar.gz), or a directory for it.")
    ],
    version: Version = None,
) -> None:
    """Write a bundle to an archive for a machine without a network."""
    output.data(str(archives.export(sources.in_cache(version), target, output.say)))


@app.command("import")
def import_(archive: Annotated[Path, typer.Argument(metavar="FILE", help="An exported archive.")]) -> None:
    """Import a bundle; checks every file against the manifest."""
    bundle, new = archives.import_archive(archive, progress=output.say)
    output.data(f"{bundle.path}\nchanged={int(new)}")


@app.command()
def verify(version: Version = None) -> None:
    """Verify the digest of every file of a bundle.

    Exits with 12 if a file is missing or wrong.
    """
    bundle = sources.verified(version)
    output.data(f"{bundle.path}: {len(bundle.manifest.files)} files match the manifest")
