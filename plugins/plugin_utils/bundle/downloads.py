"""Where the source `release` downloads from: configs/downloads.yml, or mirrors with the same layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.versions import BASE, Versions
from ansible_collections.devenv.lab.plugins.plugin_utils.core import data, paths

FILE = paths.CONFIGS / "downloads.yml"


@dataclass(frozen=True)
class Item:
    """A published file; ``members`` maps paths inside an archive to paths in the bundle (empty: the file itself).
    ``part`` is the optional part of the bundle that it belongs to.
    """

    url: str
    sums: str
    version: str
    target: str = ""
    members: tuple[tuple[str, str], ...] = ()
    part: str = BASE
    place: str = ""

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


def official() -> dict[str, str]:
    """Return the base URL of each place."""
    return dict(data.read(FILE)["places"])


def items(versions: Versions, places: Mapping[str, str], arch: str) -> list[Item]:
    """Return every file of a release below the base URLs of ``places``, kubeadm first."""
    found = []
    for row in data.read(FILE)["files"]:
        version, targets = getattr(versions, row["version"]), row["targets"]
        url = f"{places[row['place']].rstrip('/')}/{row['path'].format(version=version, arch=arch)}"
        single = targets if isinstance(targets, str) else ""
        members = () if single else tuple((inside.format(arch=arch), path) for inside, path in targets.items())
        found.append(Item(url, url + row["sums"], version, single, members, row.get("part", BASE), row["place"]))
    return found
