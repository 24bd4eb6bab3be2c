"""Files of the source `release`, from configs/downloads.yml: official places, or mirrors with the same layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.versions import BASE, Versions
from ansible_collections.devenv.lab.plugins.plugin_utils.core import data, paths

FILE = paths.CONFIGS / "downloads.yml"


@dataclass(frozen=True)
class Item:
    """A published file: ``target`` in the bundle, or an archive with ``members`` (path in it -> path in the bundle).

    ``sums`` is the URL of its checksum, ``part`` the optional part of the bundle that it belongs to.
    """

    url: str
    sums: str
    version: str
    target: str
    members: Mapping[str, str]
    part: str
    place: str

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


def official() -> dict[str, str]:
    """Return the base URL of each place."""
    return dict(data.read(FILE)["places"])


def items(versions: Versions, places: Mapping[str, str], arch: str) -> list[Item]:
    """Return every file of a release below the base URLs of ``places``, kubeadm first."""
    items = []
    for row in data.read(FILE)["files"]:
        version, targets = getattr(versions, row["version"]), row["targets"]
        url = f"{places[row['place']].rstrip('/')}/{row['path'].format(version=version, arch=arch)}"
        target, members = (targets, {}) if isinstance(targets, str) else ("", targets)
        members = {inside.format(arch=arch): path for inside, path in members.items()}
        items.append(Item(url, url + row["sums"], version, target, members, row.get("part", BASE), row["place"]))
    return items
