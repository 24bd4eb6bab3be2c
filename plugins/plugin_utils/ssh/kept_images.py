"""Archives of the images that a user loaded, for nodes that are added or recreated later.

``images/<key>.tar`` of the state directory with ``<key>.json``: the digest of each name, and further names of images.
The key depends on the names, so that a newer archive replaces an older one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, program

FOLDER = "images"


@dataclass(frozen=True)
class KeptImages:
    """One archive; ``aliases`` maps further names to names in the archive."""

    archive: Path
    digests: Mapping[str, str]
    aliases: Mapping[str, str]


def keep(folder: Path, archive: Path, digests: Mapping[str, str], aliases: Mapping[str, str], *, move: bool) -> None:
    """Keep an archive that every node has now; ``move``: the caller does not need it any more."""
    place = folder / FOLDER
    files.make_private(place, folder)
    key = hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()[:16]
    unfinished, target = place / f".{key}.making", place / f"{key}.tar"
    if move:
        shutil.move(archive, unfinished)
    else:
        # A copy: its owner may write to the archive again. It shares the data where the filesystem supports that.
        program.run(["cp", "--reflink=auto", str(archive), str(unfinished)], timeout=600)
    # The description last, and again for the same key: its time orders the archives.
    target.with_suffix(".json").unlink(missing_ok=True)
    os.replace(unfinished, target)
    files.write(target.with_suffix(".json"), json.dumps({"digests": dict(digests), "aliases": dict(aliases)}))


def kept(folder: Path) -> list[KeptImages]:
    """Return the archives, the oldest first: a newer image of the same name replaces an older one."""
    found: list[tuple[int, KeptImages]] = []
    for path in (folder / FOLDER).glob("[!.]*.json"):
        described: dict[str, Any] | None = files.read_json(path, dict)
        if described and path.with_suffix(".tar").is_file():
            images = KeptImages(path.with_suffix(".tar"), described["digests"], described["aliases"])
            found.append((path.stat().st_mtime_ns, images))
    return [images for _time, images in sorted(found, key=lambda item: item[0])]
