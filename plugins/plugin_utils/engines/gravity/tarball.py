"""Verify the tarball of a Gravity cluster on the controller and read its manifest.

Each tarball is read once: its manifest and the program `gravity` are cached by the tarball's digest. Of app.yaml
(``cluster.gravitational.io/v2``), metadata, installer.flavors and nodeProfiles are used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import files
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError

PROGRAM = "gravity"
MANIFEST = "app.yaml"
# Gravity's service role of each group.
SERVICE_ROLES = {"control_plane": "master", "workers": "node"}
_BLOCK = 1 << 20
# Largest size of a manifest.
_MOST = 1 << 20


@dataclass(frozen=True)
class Application:
    """The content of a manifest. ``flavors``: node profile and count by flavor, ``roles``: service role by node profile
    (empty: Gravity decides), both in the manifest's order; ``fixed``: node profiles that cannot be added later.
    """

    name: str
    version: str
    flavors: Mapping[str, Sequence[tuple[str, int]]]
    default_flavor: str
    roles: Mapping[str, str]
    fixed: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """The installation: a flavor with one node, and the node profile of each node."""

    version: str
    flavor: str
    types: Mapping[str, str]


def parse(text: str, where: str = MANIFEST) -> Application:
    """Parse a manifest. Raises DevenvError gravity_tarball for any other file."""
    try:
        manifest = yaml.safe_load(text)
        metadata, flavors, profiles = manifest["metadata"], manifest["installer"]["flavors"], manifest["nodeProfiles"]
        return Application(
            name=str(metadata["name"]),
            version=str(metadata["version" if "version" in metadata else "resourceVersion"]),
            flavors={
                str(flavor["name"]): tuple((str(node["profile"]), int(node["count"])) for node in flavor["nodes"])
                for flavor in flavors["items"]
            },
            default_flavor=str(flavors.get("default") or ""),
            roles={str(profile["name"]): _service_role(profile) for profile in profiles},
            fixed=tuple(str(profile["name"]) for profile in profiles if profile.get("expandPolicy") == "fixed"),
        )
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise DevenvError("gravity_tarball", f"{where} is not a manifest of a cluster: {error!r}") from None


def _service_role(profile: Mapping[str, Any]) -> str:
    if profile.get("serviceRole"):
        return str(profile["serviceRole"])
    labels = profile.get("labels") or {}
    for role in ("master", "node"):
        if str(labels.get(f"node-role.kubernetes.io/{role}", "")).lower() == "true":
            return role
    return ""


# --- the file --------------------------------------------------------------------------------------------------------


def unpacked(tarball: str | Path, sha256: str, cache: Path) -> Path:
    """Return the directory with app.yaml and the program of ``tarball``, unpacking it if necessary. The digest is only
    calculated again if path, size or time of the file have changed. Raises DevenvError gravity_tarball.
    """
    path = Path(tarball).expanduser()
    folder = cache / "gravity" / sha256
    try:
        status = path.stat()
    except OSError as error:
        raise DevenvError("gravity_tarball", f"{path}: {error.strerror}") from None
    seen = {"path": str(path), "size": status.st_size, "changed": status.st_mtime_ns}
    record = folder / "tarball.json"
    if files.read_json(record, dict) == seen:
        return folder
    # Several environments can start at once from the same tarball.
    with files.exclusive(cache / "gravity.lock"):
        if files.read_json(record, dict) == seen:
            return folder
        digest = _digest(path)
        if digest != sha256:
            raise DevenvError("gravity_tarball", f"{path} has the digest {digest}, not that of the profile, {sha256}")
        _take_out(path, folder)
        files.write(record, json.dumps(seen) + "\n")
    return folder


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _take_out(path: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    missing = {MANIFEST, PROGRAM}
    try:
        with tarfile.open(path) as archive:
            for entry in archive:
                name = entry.name.removeprefix("./")
                stream = archive.extractfile(entry) if name in missing and entry.isfile() else None
                if stream is None:
                    continue
                new = folder / f"{name}.new"
                with new.open("wb") as target:
                    shutil.copyfileobj(stream, target, _BLOCK)
                new.chmod(0o755 if name == PROGRAM else 0o644)
                os.replace(new, folder / name)
                missing.discard(name)
                if not missing:
                    return
    except (OSError, tarfile.TarError) as error:
        raise DevenvError("gravity_tarball", f"{path}: {error}") from None
    raise DevenvError(
        "gravity_tarball", f"{path} is not the tarball of a cluster: it lacks {' and '.join(sorted(missing))}"
    )


def application(folder: Path) -> Application:
    """Read the manifest in ``folder`` (the result of `unpacked`)."""
    text = (folder / MANIFEST).read_text(errors="replace")[:_MOST]
    return parse(text, str(folder / MANIFEST))


# --- installation ----------------------------------------------------------------------------------------------------


def plan(manifest: Application, nodes: Sequence[Mapping[str, Any]], flavor: str = "") -> Plan:
    """Plan the installation of a cluster's ``nodes``: name, group and optional node_type of each, masters first.

    Raises DevenvError gravity_input, before anything changes, for input that Gravity would reject or change later.
    """
    chosen = flavor or _single(manifest)
    if chosen not in manifest.flavors:
        raise _wrong(f'the manifest has no flavor "{chosen}"; it has {", ".join(manifest.flavors) or "none"}')
    count = sum(number for profile, number in manifest.flavors[chosen])
    if count != 1:
        raise _wrong(
            f'flavor "{chosen}" installs {count} nodes at once and waits for all of them; use one with a single node, '
            "further nodes join it"
        )
    first = manifest.flavors[chosen][0][0]
    types: dict[str, str] = {}
    for place, node in enumerate(nodes):
        role = SERVICE_ROLES[node["group"]]
        name = node["name"]
        profile = str(node.get("node_type") or "") or (first if role == "master" else _first_worker(manifest))
        if profile not in manifest.roles:
            raise _wrong(f"{name}: the manifest has no node profile {profile}; it has {', '.join(manifest.roles)}")
        if manifest.roles[profile] not in ("", role):
            raise _wrong(f"{name}: the node profile {profile} is for a {manifest.roles[profile]}, not a {role}")
        if place and profile in manifest.fixed:
            raise DevenvError("gravity_fixed", f"{name}: the node profile {profile} cannot be added later")
        types[name] = profile
    return Plan(manifest.version, chosen, types)


def _single(manifest: Application) -> str:
    """Return the default flavor if it has a single node, else the first flavor that has."""
    single = [name for name, nodes in manifest.flavors.items() if sum(number for profile, number in nodes) == 1]
    if manifest.default_flavor in single or not single:
        return manifest.default_flavor
    return single[0]


def _first_worker(manifest: Application) -> str:
    for name, role in manifest.roles.items():
        if role == "node" and name not in manifest.fixed:
            return name
    raise _wrong("the manifest has no node profile for workers (serviceRole: node)")


def _wrong(text: str) -> DevenvError:
    return DevenvError("gravity_input", text)
