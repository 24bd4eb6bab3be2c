"""Commands for this machine (doctor, prune, version) and image load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from devenv import errors
from devenv.cli import options as given
from devenv.cli import output
from devenv.cli.run_options import Run, run_options


def doctor(
    show_all: Annotated[bool, typer.Option("--all", help="Show the passed checks too; --json always does.")] = False,
    fix: Annotated[
        bool, typer.Option("--fix", help="Raise kernel limits that are too low, until the next boot.")
    ] = False,
    as_json: given.Json = False,
) -> None:
    """Check this machine; print what is wrong and how to fix it.

    Changes nothing without --fix, which `devenv prune --host` undoes. Exits
    with 9 if a requirement of every environment is missing.
    """
    from dataclasses import asdict

    from ansible_collections.devenv.lab.plugins.plugin_utils.host import limits
    from ansible_collections.devenv.lab.plugins.plugin_utils.providers import preflight

    for line in limits.raise_limits() if fix else ():
        output.say(f"{line} (devenv prune --host restores it)")
    probes = [asdict(probe) for probe in preflight.doctor()]
    output.document(given.form(as_json), probes, lambda rows: _doctor_text(rows, show_all))
    if any(probe["required"] and not probe["ok"] for probe in probes):
        raise typer.Exit(9)


def _doctor_text(probes: list[dict[str, Any]], show_all: bool) -> str:
    rows = [
        {**probe, "state": "ok" if probe["ok"] else "MISSING" if probe["required"] else "advice"} for probe in probes
    ]
    shown = [row for row in rows if show_all or not row["ok"]]
    lines = [output.table(shown, "state=", "name=PROBE", "seen", "needed"), ""] if shown else []
    for title, required in (("run before the first environment:", True), ("run if you need it:", False)):
        fixes = dict.fromkeys(row["fix"] for row in rows if not row["ok"] and row["required"] is required)
        lines += [title, *(f"  {fix}" for fix in fixes), ""] if fixes else []
    counts = {state: sum(row["state"] == state for row in rows) for state in ("ok", "MISSING", "advice")}
    lines.append(f"{len(rows)} checks: {counts['ok']} ok, {counts['MISSING']} missing, {counts['advice']} advised")
    return "\n".join(lines)


def prune(
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="KIND",
            help="Only this kind: bundle, toolchain, node-image, image-store, virtual-machines, gravity, history, "
            "rest. Repeatable.",
        ),
    ] = None,
    host: Annotated[
        bool, typer.Option("--host", help="Restore this machine's kernel limits instead: what doctor --fix changed.")
    ] = False,
    expired: Annotated[
        bool, typer.Option("--expired", help="Remove the expired environments instead (up --ttl).")
    ] = False,
    timer: Annotated[
        Path | None,
        typer.Option("--timer", metavar="DIR", help="Write a systemd timer for --expired to DIR instead."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed; remove nothing.")] = False,
    as_json: given.Json = False,
) -> None:
    """Remove caches and old logs: bundles, images, history.

    Keeps what an environment uses. Everything else is rebuilt when it is
    needed, which takes minutes.

    --timer /etc/systemd/system writes devenv-prune.service and
    devenv-prune.timer, which run --expired every ten minutes.
    """
    if timer:
        others = {"--only": only, "--host": host, "--expired": expired, "--dry-run": dry_run, "--json": as_json}
        given.refuse("with --timer", others)
        _write_timer(timer)
        return
    if expired:
        given.refuse("with --expired", {"--only": only, "--host": host})
        _prune_expired(dry_run=dry_run, as_json=as_json)
        return
    from dataclasses import asdict

    from devenv.environments import prune as pruning

    if host:
        given.refuse("with --host", {"--only": only})
        output.document(given.form(as_json), {"restored": pruning.host(dry_run=dry_run)}, _restored_text)
        return
    invalid = [kind for kind in only or [] if kind not in pruning.kinds()]
    if invalid:
        raise errors.UsageError(
            f"{invalid[0]!r} is not a valid kind", where="--only", advice=f"one of: {', '.join(pruning.kinds())}"
        )
    items = pruning.items(only or pruning.kinds())
    if not dry_run:
        for item in items:
            if not item.used:
                output.say(f"removing {item.kind} {item.what}")
                pruning.remove(item)
    removed = "would be removed" if dry_run else "removed"
    rows = [
        {
            **asdict(item),
            "size": output.size(item.bytes),
            "state": f"kept: used by {item.used}" if item.used else removed,
        }
        for item in items
    ]
    output.document(given.form(as_json), rows, _prune_text)


def _restored_text(values: dict[str, list[str]]) -> str:
    return "\n".join(values["restored"] or ["nothing on this machine was changed"])


def _write_timer(folder: Path) -> None:
    from devenv.environments import expired

    for path in expired.write_units(folder):
        output.data(str(path))
    output.say("enable it: systemctl daemon-reload && systemctl enable --now devenv-prune.timer")
    output.say("undo it: systemctl disable --now devenv-prune.timer, then remove both files")


def _prune_expired(*, dry_run: bool, as_json: bool) -> None:
    from devenv import operations
    from devenv.environments import expired

    environments = expired.expired()
    removed = "would be removed" if dry_run else "removed"
    if not dry_run:
        operations.down_all(environments)
    rows = [{"environment": name, "state": removed} for name in environments]
    output.document(
        given.form(as_json),
        rows,
        lambda rows: output.table(rows, "environment", "state") if rows else "no environment has expired",
    )


def _prune_text(rows: list[dict[str, Any]]) -> str:
    total = output.size(sum(row["bytes"] for row in rows if not row["used"]))
    return f"{output.table(rows, 'kind', 'size', 'state', 'what')}\ntotal: {total}"


def version(as_json: given.Json = False) -> None:
    """Print the versions of devenv, Kubernetes and Ansible."""
    from importlib import metadata

    from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import versions
    from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths

    from devenv import __version__

    default, supported = versions.known()
    values = {
        "devenv": __version__,
        "kubernetes": default,
        "kubernetes_versions": supported,
        "ansible_core": metadata.version("ansible-core"),
        "ansible_runner": metadata.version("ansible-runner"),
        "collection": str(paths.COLLECTION),
    }
    output.document(given.form(as_json), values, _version_text)


def _version_text(values: dict[str, Any]) -> str:
    return "\n".join(
        f"{key.replace('_', ' '):<20} {', '.join(value) if isinstance(value, list) else value}"
        for key, value in values.items()
    )


image = typer.Typer(help="Load local images into the nodes.", no_args_is_help=True)


@image.callback()
def _image() -> None:
    # Without a callback, Typer would turn the only command into the group.
    """Load local images into the nodes."""


@image.command("load")
@run_options(artifacts=False)
def image_load(
    run: Run,
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Image in podman's local store, or an archive (FILE.tar).")
    ],
    name: given.Name = None,
) -> None:
    """Load images into the container runtime of every node.

    All nodes in parallel. Fails if a node lacks an image at the end. Nodes
    that are added or replaced later get the images, too.
    """
    from devenv import operations
    from devenv.environments import names

    result = operations.load_images(names.existing(name), images, run.options())
    run.done(result, f"{', '.join(images)}: loaded into every node of {result.name}")
