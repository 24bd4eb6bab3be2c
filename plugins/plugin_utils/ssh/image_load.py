"""Images for the container runtime of nodes: an archive is streamed by ssh to all nodes at once, then each node is
asked."""

from __future__ import annotations

import json
import re
import shlex
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import program
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh.remote import Target

# kubelet's images stand in this namespace of containerd.
CTR = "ctr -n k8s.io images"
CUT = "--- devenv ---"
REMOTE = f"{CTR} check && echo '{CUT}' && {CTR} import - >&2 && echo '{CUT}' && {CTR} check"

_ROW = re.compile(
    r"(?P<ref>\S+)\s+\S+\s+(?P<digest>sha256:[0-9a-f]+)\s+(?P<status>\w+) .*\s(?P<unpacked>true|false)\s*"
)
_INDEX_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


@dataclass(frozen=True)
class Loaded:
    """What one node holds of an archive's images: reference to digest; ``changed``: it did not before."""

    node: str
    images: Mapping[str, str]
    changed: bool


def canonical(reference: str) -> str:
    """The full form of an image reference, as containerd keeps it: registry, path and tag.

    Rules: https://github.com/distribution/reference (normalize.go): no registry means ``docker.io``, one word there
    means ``library/``.
    """
    first, slash = reference.partition("/")[:2]
    if not slash or not (re.search(r"[.:]", first) or first == "localhost"):
        reference = f"docker.io/{reference}" if slash else f"docker.io/library/{reference}"
    last = reference.rpartition("/")[2]
    return reference if ":" in last or "@" in last else f"{reference}:latest"


def names_in(archive: Path) -> list[str]:
    """Canonical names of the images in an archive of docker's or OCI's form (plain, gzip, bzip2 or xz).

    Raises DevenvError ``image_archive_invalid`` for anything else, and when no image of it has a name.
    """
    found: dict[str, Any] = {}
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                if member.name.removeprefix("./") in ("manifest.json", "index.json") and member.isfile():
                    stream = tar.extractfile(member)
                    found[member.name.removeprefix("./")] = json.load(stream) if stream else None
    except (OSError, tarfile.TarError, EOFError, ValueError) as error:
        # tarfile's text names each compression that it tried.
        why = "is no tar archive" if isinstance(error, tarfile.ReadError) and "\n" in str(error) else str(error)
        raise DevenvError("image_archive_invalid", f"cannot be read: {why}", where=str(archive)) from error
    names = _docker_names(found.get("manifest.json")) or _oci_names(found.get("index.json"))
    if not names:
        raise DevenvError("image_archive_invalid", "holds no image that has a name", where=str(archive))
    return names


def _docker_names(manifest: Any) -> list[str]:
    entries = manifest if isinstance(manifest, list) else []
    tags = [tag for entry in entries if isinstance(entry, dict) for tag in entry.get("RepoTags") or []]
    return [canonical(str(tag)) for tag in tags]


def _oci_names(index: Any) -> list[str]:
    entries = index.get("manifests") if isinstance(index, dict) else None
    names = []
    for entry in entries if isinstance(entries, list) else []:
        notes = entry.get("annotations") if isinstance(entry, dict) else None
        given = [notes[key] for key in _INDEX_NAMES if notes.get(key)] if isinstance(notes, dict) else []
        if given:
            names.append(canonical(str(given[0])))
    return names


def parse_check(text: str) -> dict[str, str]:
    """Reference to digest of the images that ``ctr images check`` says are whole and unpacked."""
    rows = (_ROW.fullmatch(line) for line in text.splitlines())
    return {r["ref"]: r["digest"] for r in rows if r and r["status"] == "complete" and r["unpacked"] == "true"}


def load(
    archive: Path,
    targets: Sequence[Target],
    *,
    timeout: float = 600,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Loaded]:
    """Stream ``archive`` to all ``targets`` at the same time; return what each holds, in their order.

    Raises DevenvError ``image_archive_invalid``, and ``image_load_failed`` with the names of all nodes that lack an
    image in the end, or hold another one than the others under its name. ``timeout`` in seconds is for each node.
    """
    names = names_in(archive)
    if not targets:
        return []
    progress(f"{', '.join(names)} to {len(targets)} nodes")
    with ThreadPoolExecutor(max_workers=max(1, len(targets))) as pool:
        results = list(pool.map(lambda one: _load_one(archive, one, names, timeout), targets))
    troubles = [result for result in results if isinstance(result, str)]
    loaded = [result for result in results if isinstance(result, Loaded)]
    troubles += _differences(names, loaded)
    if troubles:
        raise DevenvError("image_load_failed", "; ".join(troubles), where=str(archive))
    return loaded


def lacking(digests: Mapping[str, str], targets: Sequence[Target], timeout: float = 60) -> list[Target]:
    """Return the targets that do not hold every image of ``digests`` (reference to digest), whole and unpacked. One
    that does not answer is among them.
    """

    def holds_all(target: Target) -> bool:
        try:
            answer = program.run([*target.ssh, _command(target, f"{CTR} check")], timeout=timeout, check=False)
        except (program.ProgramFailed, OSError):
            return False
        return digests.items() <= parse_check(answer.stdout).items()

    with ThreadPoolExecutor(max_workers=max(1, len(targets))) as pool:
        return [target for target, holds in zip(targets, pool.map(holds_all, targets), strict=True) if not holds]


def _load_one(archive: Path, one: Target, names: Iterable[str], timeout: float) -> Loaded | str:
    """What the node holds afterwards, or in words why it does not."""
    try:
        with archive.open("rb") as stream:
            answer = program.run([*one.ssh, _command(one, REMOTE)], stdin=stream, timeout=timeout, check=False)
    except (program.ProgramFailed, OSError) as error:
        return f"{one.name}: {error}"
    parts = answer.stdout.split(f"{CUT}\n")
    if answer.code != 0 or len(parts) != 3:
        return f"{one.name}: {_last_words(answer.stderr) or f'ssh ended with code {answer.code}'}"
    before, after = parse_check(parts[0]), parse_check(parts[2])
    missing = [name for name in names if name not in after]
    if missing:
        return f"{one.name} lacks {', '.join(missing)}"
    return Loaded(one.name, {name: after[name] for name in names}, any(before.get(n) != after[n] for n in names))


def _command(one: Target, script: str) -> str:
    """What is run on the node: as root, however that is reached there."""
    above = one.python[:-1]
    return shlex.join([*above, "sh", "-c", script]) if above else script


def _last_words(text: str) -> str:
    """The last line of a program's complaint, without containerd's notices of what it will drop one day."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and "level=warning" not in line]
    return lines[-1][-400:] if lines else ""


def _differences(names: Iterable[str], loaded: Sequence[Loaded]) -> list[str]:
    texts = []
    for name in names:
        digests = {one.images[name] for one in loaded}
        if len(digests) > 1:
            texts.append(f"{name} differs: " + ", ".join(f"{one.node} has {one.images[name]}" for one in loaded))
    return texts
