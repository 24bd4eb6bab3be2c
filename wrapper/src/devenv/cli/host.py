"""Commands about this machine: doctor, prune, version; image load."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from devenv import errors
from devenv.cli import options as given
from devenv.cli import output
from devenv.cli.run_options import RunOptions, run_options


def doctor(as_json: given.Json = False) -> None:
    """Look at everything that devenv needs of this machine: what is seen, what is needed, what to type.

    Changes nothing. Ends with 9 when something is missing that no environment can do without.
    """
    from dataclasses import asdict

    from ansible_collections.devenv.lab.plugins.plugin_utils.providers import preflight

    probes = [asdict(probe) for probe in preflight.doctor()]
    output.document("json" if as_json else "text", probes, _doctor_text)
    if any(probe["required"] and not probe["ok"] for probe in probes):
        raise typer.Exit(9)


def _doctor_text(probes: list[dict[str, Any]]) -> str:
    rows = [
        {**probe, "state": "ok" if probe["ok"] else "MISSING" if probe["required"] else "advice"} for probe in probes
    ]
    lines = [output.table(rows, {"state": "", "name": "PROBE", "seen": "SEEN", "needed": "NEEDED"})]
    for title, required in (("to type, before the first environment:", True), ("to type, if the need comes:", False)):
        fixes = dict.fromkeys(probe["fix"] for probe in probes if not probe["ok"] and probe["required"] is required)
        lines += ["", title, *(f"  {fix}" for fix in fixes)] if fixes else []
    return "\n".join(lines)


def prune(
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="KIND",
            help="Only this kind: bundle, toolchain, node-image, image-store, virtual-machines, gravity, history, "
            "rest. May be repeated.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, remove nothing.")] = False,
    as_json: given.Json = False,
) -> None:
    """Remove what is kept to be quick, and old logs: bundles, images, image stores, history.

    What an environment uses stays. Everything else is made again when it is needed, which takes minutes.
    """
    from dataclasses import asdict

    from devenv.environments import prune as pruning

    wrong = [kind for kind in only or [] if kind not in pruning.kinds()]
    if wrong:
        raise errors.UsageError(
            f"{wrong[0]!r} is no kind", where="--only", advice=f"one of: {', '.join(pruning.kinds())}"
        )
    found = pruning.items(only or pruning.kinds())
    if not dry_run:
        for item in found:
            if not item.used:
                output.say(f"removing {item.kind} {item.what}")
                pruning.remove(item)
    rows = [{**asdict(item), "size": output.size(item.bytes), "state": _pruned(item.used, dry_run)} for item in found]
    output.document("json" if as_json else "text", rows, _prune_text)


def _pruned(used: str, dry_run: bool) -> str:
    return f"kept: {used} uses it" if used else "would be removed" if dry_run else "removed"


def _prune_text(rows: list[dict[str, Any]]) -> str:
    total = sum(row["bytes"] for row in rows if not row["used"])
    return "\n".join(
        [
            output.table(rows, {"kind": "KIND", "size": "SIZE", "state": "STATE", "what": "WHAT"}),
            f"total: {output.size(total)}",
        ]
    )


def version(as_json: given.Json = False) -> None:
    """Print versions: devenv, its Kubernetes, Ansible, and where the collection is."""
    from importlib import metadata

    from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import versions
    from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths

    from devenv import __version__

    default, known = versions.known()
    found = {
        "devenv": __version__,
        "kubernetes": default,
        "kubernetes_versions": known,
        "ansible_core": metadata.version("ansible-core"),
        "ansible_runner": metadata.version("ansible-runner"),
        "collection": str(paths.COLLECTION),
    }
    output.document("json" if as_json else "text", found, _version_text)


def _version_text(found: dict[str, Any]) -> str:
    return "\n".join(
        f"{key.replace('_', ' '):<20} {', '.join(value) if isinstance(value, list) else value}"
        for key, value in found.items()
    )


image = typer.Typer(help="Bring local images to the nodes.", no_args_is_help=True)


@image.callback()
def _image() -> None:
    """Bring local images to the nodes."""


@image.command("load")
@run_options(artifacts=False)
def image_load(
    common: RunOptions,
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Image of podman's local store, or an archive (FILE.tar).")
    ],
    name: given.Name = None,
) -> None:
    """Load images into the container runtime of every node, all nodes at once.

    Fails when one node lacks one of them in the end.
    """
    from devenv import operations
    from devenv.environments import names

    with common.running() as run:
        result = operations.load_images(names.existing(name), images, common.options(), run.watcher)
        run.done(result, [f"{', '.join(images)}: on every node of {result.name}"])
