"""Load images into the container runtime of nodes: stream an archive to all nodes at once over ssh, then check each."""

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
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import remote
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh.remote import Target

# containerd's namespace of kubelet's images.
CTR = "ctr -n k8s.io images"
CUT = "--- devenv ---"

_ROW = re.compile(
    r"(?P<ref>\S+)\s+\S+\s+(?P<digest>sha256:[0-9a-f]+)\s+(?P<status>\w+) .*\s(?P<unpacked>true|false)\s*"
)
_ID = re.compile(r"(sha256:)?[0-9a-f]{12,64}")
_INDEX_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


@dataclass(frozen=True)
class Loaded:
    """An archive's images on one node: reference to digest. ``changed``: an image was missing or different before."""

    node: str
    images: Mapping[str, str]
    changed: bool


def canonical(reference: str) -> str:
    """Return the full form of an image reference, as containerd stores it: registry, path and tag.

    Rules: https://github.com/distribution/reference (normalize.go): the default registry is ``docker.io``, where a
    single word means ``library/``.
    """
    first, slash = reference.partition("/")[:2]
    if not slash or not (re.search(r"[.:]", first) or first == "localhost"):
        reference = f"docker.io/{reference}" if slash else f"docker.io/library/{reference}"
    last = reference.rpartition("/")[2]
    return reference if ":" in last or "@" in last else f"{reference}:latest"


def aliases(names: Sequence[str], given: str = "") -> dict[str, str]:
    """Return the names besides ``names`` by which pods find the images of an archive, each with its name there.

    A name without a registry means docker.io to a pod, but ``localhost/`` to podman and buildah, which name the image.
    ``given`` is the name by which the user loaded a single image.
    """
    found = {canonical(name.removeprefix("localhost/")): name for name in names if name.startswith("localhost/")}
    if given and len(names) == 1 and "@" not in given and not _ID.fullmatch(given):
        found[canonical(given)] = names[0]
    return {alias: name for alias, name in found.items() if alias not in names}


def script(further: Mapping[str, str]) -> str:
    """Return the shell code that imports an archive from stdin on a node, and gives its images ``further`` names."""
    tags = [f"{CTR} tag --force {shlex.quote(name)} {shlex.quote(alias)} >&2" for alias, name in further.items()]
    steps = [f"{CTR} check", f"echo '{CUT}'", f"{CTR} import - >&2", *tags, f"echo '{CUT}'", f"{CTR} check"]
    return " && ".join(steps)


def names_in(archive: Path) -> list[str]:
    """Return the canonical names of the images in an archive in docker's or OCI's form (plain, gzip, bzip2 or xz).

    Raises DevenvError ``image_archive_invalid`` for any other file, and if no image has a name.
    """
    documents = _documents(archive)
    names = _docker_names(documents.get("manifest.json")) or list(_oci_images(documents.get("index.json")))
    if not names:
        raise DevenvError("image_archive_invalid", "contains no image with a name", where=str(archive))
    return names


def digests_in(archive: Path) -> dict[str, str]:
    """Return the digests of the images in an archive in OCI's form by canonical name.

    Raises DevenvError ``image_archive_invalid`` for a file that is not a tar archive.
    """
    return _oci_images(_documents(archive).get("index.json"))


def _documents(archive: Path) -> dict[str, Any]:
    documents: dict[str, Any] = {}
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                name = member.name.removeprefix("./")
                if name in ("manifest.json", "index.json") and member.isfile():
                    stream = tar.extractfile(member)
                    documents[name] = json.load(stream) if stream else None
    except (OSError, tarfile.TarError, EOFError, ValueError) as error:
        # tarfile's message lists every compression that it tried.
        unknown = isinstance(error, tarfile.ReadError) and "\n" in str(error)
        message = "is not a tar archive" if unknown else f"cannot be read: {error}"
        raise DevenvError("image_archive_invalid", message, where=str(archive)) from error
    return documents


def _docker_names(manifest: Any) -> list[str]:
    entries = manifest if isinstance(manifest, list) else []
    tags = [tag for entry in entries if isinstance(entry, dict) for tag in entry.get("RepoTags") or []]
    return [canonical(str(tag)) for tag in tags]


def _oci_images(index: Any) -> dict[str, str]:
    entries = index.get("manifests") if isinstance(index, dict) else None
    images = {}
    for entry in entries if isinstance(entries, list) else []:
        notes = entry.get("annotations") if isinstance(entry, dict) else None
        given = [notes[key] for key in _INDEX_NAMES if notes.get(key)] if isinstance(notes, dict) else []
        if given:
            images[canonical(str(given[0]))] = str(entry.get("digest", ""))
    return images


def parse_check(text: str) -> dict[str, str]:
    """Return reference and digest of the images that ``ctr images check`` reports as complete and unpacked."""
    rows = (_ROW.fullmatch(line) for line in text.splitlines())
    return {r["ref"]: r["digest"] for r in rows if r and r["status"] == "complete" and r["unpacked"] == "true"}


def load(
    archive: Path,
    targets: Sequence[Target],
    *,
    further: Mapping[str, str] | None = None,
    timeout: float = 600,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Loaded]:
    """Stream ``archive`` to all ``targets`` at the same time; return the images of each, in their order. ``further``
    are names that its images get in addition (see `aliases`).

    Raises DevenvError ``image_archive_invalid``, and ``image_load_failed`` with the names of all nodes that lack an
    image afterwards, or have another one under its name. ``timeout`` in seconds applies to each node.
    """
    tags = further or {}
    names = [*names_in(archive), *tags]
    if not targets:
        return []
    progress(f"{', '.join(names)} to {len(targets)} nodes")
    with ThreadPoolExecutor(max_workers=len(targets)) as pool:
        results = list(pool.map(lambda target: _load_one(archive, target, names, script(tags), timeout), targets))
    loaded = [result for result in results if isinstance(result, Loaded)]
    errors = [result for result in results if isinstance(result, str)] + _differences(names, loaded)
    if errors:
        raise DevenvError("image_load_failed", "; ".join(errors), where=str(archive))
    return loaded


def lacking(digests: Mapping[str, str], targets: Sequence[Target], timeout: float = 60) -> list[Target]:
    """Return the targets that do not have every image of ``digests`` (reference to digest), complete and unpacked,
    including those that do not answer.
    """

    def has_all(target: Target) -> bool:
        try:
            answer = remote.execute(target, _command(target, f"{CTR} check"), timeout=timeout, check=False)
        except (program.ProgramFailed, OSError):
            return False
        return digests.items() <= parse_check(answer.stdout).items()

    with ThreadPoolExecutor(max_workers=max(1, len(targets))) as pool:
        return [target for target, complete in zip(targets, pool.map(has_all, targets), strict=True) if not complete]


def _load_one(archive: Path, target: Target, names: Iterable[str], code: str, timeout: float) -> Loaded | str:
    """Return the node's images afterwards, or an error message."""
    try:
        with archive.open("rb") as stream:
            answer = remote.execute(target, _command(target, code), stdin=stream, timeout=timeout, check=False)
    except (program.ProgramFailed, OSError) as error:
        return f"{target.name}: {error}"
    parts = answer.stdout.split(f"{CUT}\n")
    if answer.code != 0 or len(parts) != 3:
        return f"{target.name}: {_last_error(answer.stderr) or f'ssh ended with code {answer.code}'}"
    before, after = parse_check(parts[0]), parse_check(parts[2])
    missing = [name for name in names if name not in after]
    if missing:
        return f"{target.name} lacks {', '.join(missing)}"
    return Loaded(target.name, {name: after[name] for name in names}, any(before.get(n) != after[n] for n in names))


def _command(target: Target, script: str) -> str:
    """Return the command that runs ``script`` as root on the node."""
    become = target.python[:-1]
    return shlex.join([*become, "sh", "-c", script]) if become else script


def _last_error(text: str) -> str:
    """Return the last line of the error output, without containerd's deprecation warnings."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and "level=warning" not in line]
    return lines[-1][-400:] if lines else ""


def _differences(names: Iterable[str], loaded: Sequence[Loaded]) -> list[str]:
    texts = []
    for name in names:
        if len({result.images[name] for result in loaded}) > 1:
            digests = ", ".join(f"{result.node} has {result.images[name]}" for result in loaded)
            texts.append(f"{name} differs: {digests}")
    return texts
