"""The tarball of a Gravity cluster, on the controller: is it the one that is meant, and what is in its manifest?

A tarball is read once: its manifest and the program `gravity` are kept in the cache, by the tarball's digest. Of
app.yaml (``cluster.gravitational.io/v2``) are used metadata, installer.flavors and nodeProfiles.
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
# What a group of ours is to Gravity.
SERVICE_ROLES = {"control_plane": "master", "workers": "node"}
_BLOCK = 1 << 20
# Of a manifest; the program may be large.
_MOST = 1 << 20


@dataclass(frozen=True)
class Application:
    """What a manifest says. ``flavors``: node profile and count by flavor, ``roles``: service role by node profile
    (empty: Gravity decides), both in the manifest's order; ``fixed``: profiles that cannot be added later.
    """

    name: str
    version: str
    flavors: Mapping[str, Sequence[tuple[str, int]]]
    default_flavor: str
    roles: Mapping[str, str]
    fixed: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What is to be installed: a flavor of one node, and the node profile of each node."""

    version: str
    flavor: str
    types: Mapping[str, str]


def parse(text: str, where: str = MANIFEST) -> Application:
    """A manifest. Raises DevenvError gravity_tarball for what is none."""
    try:
        found = yaml.safe_load(text)
        flavors = found["installer"]["flavors"]
        return Application(
            name=str(found["metadata"]["name"]),
            version=str(found["metadata"]["resourceVersion" if "version" not in found["metadata"] else "version"]),
            flavors={
                str(one["name"]): tuple((str(node["profile"]), int(node["count"])) for node in one["nodes"])
                for one in flavors["items"]
            },
            default_flavor=str(flavors.get("default") or ""),
            roles={str(one["name"]): _service_role(one) for one in found["nodeProfiles"]},
            fixed=tuple(str(one["name"]) for one in found["nodeProfiles"] if one.get("expandPolicy") == "fixed"),
        )
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise DevenvError("gravity_tarball", f"{where} is no manifest of a cluster: {error!r}") from None


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
    """The folder with app.yaml and the program of ``tarball``, made when it is not there. The tarball's digest is
    taken anew only when the file looks like another one. Raises DevenvError gravity_tarball.
    """
    path = Path(tarball).expanduser()
    folder = cache / "gravity" / sha256
    try:
        about = path.stat()
    except OSError as error:
        raise DevenvError("gravity_tarball", f"{path}: {error.strerror}") from None
    seen = {"path": str(path), "size": about.st_size, "changed": about.st_mtime_ns}
    record = folder / "tarball.json"
    if files.read_json(record, dict) == seen:
        return folder
    # Several environments may begin at once with the same tarball.
    with files.exclusive(cache / "gravity.lock"):
        if files.read_json(record, dict) == seen:
            return folder
        digest = _digest(path)
        if digest != sha256:
            raise DevenvError("gravity_tarball", f"{path} has the digest {digest}, the profile wants {sha256}")
        _take_out(path, folder)
        files.write(record, json.dumps(seen) + "\n")
    return folder


def _digest(path: Path) -> str:
    hasher = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(_BLOCK), b""):
            hasher.update(block)
    return hasher.hexdigest()


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
    raise DevenvError("gravity_tarball", f"{path} has no {' and no '.join(sorted(missing))}: no tarball of a cluster")


def application(folder: Path) -> Application:
    """What the manifest in ``folder`` (of `unpacked`) says."""
    text = (folder / MANIFEST).read_text(errors="replace")[:_MOST]
    return parse(text, str(folder / MANIFEST))


# --- what is to be installed -----------------------------------------------------------------------------------------


def plan(found: Application, nodes: Sequence[Mapping[str, Any]], flavor: str = "") -> Plan:
    """``nodes``: name, group and, where it says one, node_type of a cluster's nodes, masters first.

    Raises DevenvError gravity_input, before anything changes, for what Gravity would refuse later or do otherwise.
    """
    chosen = flavor or _single(found)
    if chosen not in found.flavors:
        raise _wrong(f'flavor "{chosen}" is not of the manifest; it has {", ".join(found.flavors) or "none"}')
    count = sum(number for profile, number in found.flavors[chosen])
    if count != 1:
        raise _wrong(
            f'flavor "{chosen}" installs {count} nodes at once and waits for all of them; take one of a single node, '
            "further nodes join it"
        )
    first = found.flavors[chosen][0][0]
    types: dict[str, str] = {}
    for place, node in enumerate(nodes):
        role = SERVICE_ROLES[node["group"]]
        wanted = str(node.get("node_type") or "") or (first if role == "master" else _first_worker(found))
        if wanted not in found.roles:
            raise _wrong(f"{node['name']}: the manifest has no node profile {wanted}; it has {', '.join(found.roles)}")
        if found.roles[wanted] not in ("", role):
            raise _wrong(f"{node['name']}: the node profile {wanted} makes a {found.roles[wanted]}, wanted a {role}")
        if place and wanted in found.fixed:
            raise DevenvError("gravity_fixed", f"{node['name']}: the node profile {wanted} cannot be added later")
        types[node["name"]] = wanted
    return Plan(found.version, chosen, types)


def _single(found: Application) -> str:
    """The default flavor when it is one of a single node, else the first that is."""
    single = [name for name, nodes in found.flavors.items() if sum(number for profile, number in nodes) == 1]
    if found.default_flavor in single or not single:
        return found.default_flavor
    return single[0]


def _first_worker(found: Application) -> str:
    for name, role in found.roles.items():
        if role == "node" and name not in found.fixed:
            return name
    raise _wrong("the manifest has no node profile for workers (serviceRole: node)")


def _wrong(text: str) -> DevenvError:
    return DevenvError("gravity_input", text)
