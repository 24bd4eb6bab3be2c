"""devenv bundle: programs and images that a Kubernetes version needs, in one folder with digests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from devenv import errors
from devenv.cli import options as given
from devenv.cli import output

app = typer.Typer(
    help="Programs and images for a Kubernetes version: have them here, carry them to a machine without a network.",
    no_args_is_help=True,
)

Version = Annotated[
    str | None, typer.Argument(metavar="[VERSION]", help="Kubernetes version; devenv's own by default.")
]


@app.command("list")
def list_(as_json: given.Json = False, form: given.Format = None) -> None:
    """List the bundles on this machine."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import store

    rows = [
        {
            "bundle": one.name,
            "kubernetes": one.manifest.kubernetes,
            "source": one.manifest.source,
            "created": one.manifest.created,
            "parts": sorted(one.manifest.parts),
            "bytes": one.size,
            "files": len(one.manifest.files),
            "images": [image.name for image in one.manifest.images],
            "path": str(one.path),
        }
        for one in store.list_bundles()
    ]
    columns = {
        "bundle": "BUNDLE",
        "kubernetes": "KUBERNETES",
        "source": "SOURCE",
        "size": "SIZE",
        "created": "CREATED",
        "path": "PATH",
    }
    output.document(
        given.form(as_json, form),
        rows,
        lambda found: output.table([{**row, "size": output.size(row["bytes"])} for row in found], columns),
    )


@app.command()
def build(
    version: Version = None,
    source: Annotated[
        str, typer.Option("--source", metavar="SOURCE", help="auto, cache, directory, release or modules.")
    ] = "auto",
    directory: Annotated[
        Path | None,
        typer.Option("--directory", metavar="DIR", help="For the source directory: a folder or an archive."),
    ] = None,
    mirrors: Annotated[
        list[str] | None,
        typer.Option(
            "--mirror",
            metavar="PLACE=URL",
            help="For the source release: kubernetes, helm, containerd, cni, registry, docker. May be repeated.",
        ),
    ] = None,
    parts: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="PART",
            help="An optional part to add: helm, metrics, storage or all. May be repeated. `devenv up` adds what its "
            "profile needs.",
        ),
    ] = None,
    as_json: given.Json = False,
) -> None:
    """Have a bundle: take the one that is there, or make it.

    auto takes the first source that works, says which, and why the others did not.
    """
    from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import downloads, sources, versions

    places = downloads.official()
    options = sources.Options(directory=directory, places={**places, **_mirrors(mirrors, set(places))})
    chosen = versions.PARTS if parts and "all" in parts else parts or ()
    bundle, made, notes = sources.ensure(version, source, parts=chosen, options=options, progress=output.say)
    found = {"path": str(bundle.path) if bundle else None, "made": made, "notes": notes}
    output.document(
        "json" if as_json else "text",
        found,
        lambda one: "\n".join([*one["notes"], one["path"], f"changed={int(one['made'])}"]),
    )


def _mirrors(values: list[str] | None, known: set[str]) -> dict[str, str]:
    found = {}
    for value in values or []:
        place, equals, url = value.partition("=")
        if not equals or place not in known or not url.startswith(("http://", "https://")):
            raise errors.UsageError(
                f"{value!r} is not PLACE=URL", where="--mirror", advice=f"places: {', '.join(sorted(known))}"
            )
        found[place] = url.rstrip("/")
    return found


@app.command()
def export(
    target: Annotated[Path, typer.Argument(metavar="FILE", help="A .tar or .tar.gz to write, or a folder for it.")],
    version: Version = None,
) -> None:
    """Write a bundle to one archive, which import takes on a machine with no network."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import archive, sources

    output.data(str(archive.export(sources.in_cache(version), target, output.say)))


@app.command("import")
def import_(archive: Annotated[Path, typer.Argument(metavar="FILE", help="An archive that export wrote.")]) -> None:
    """Take an exported bundle in; every file is checked against the manifest."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import archive as archives

    bundle, new = archives.import_archive(archive, progress=output.say)
    output.data(f"{bundle.path}\nchanged={int(new)}")


@app.command()
def verify(version: Version = None) -> None:
    """Hash every file of a bundle against its manifest. Ends with 12 when one is missing or wrong."""
    from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import sources

    bundle = sources.verified(version)
    output.data(f"{bundle.path}: {len(bundle.manifest.files)} files are what the manifest says")
