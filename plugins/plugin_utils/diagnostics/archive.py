"""Write one archive of an environment's diagnostics: its nodes, its clusters, this host, its runs.

``<name>.tar.gz`` (0600) contains one directory: ``index.txt`` and ``index.json`` (each part, with its errors),
``nodes/<node>/``, ``clusters/<cluster>/``, ``host/``, and ``runs/`` with records of runs and files of the state
directory. Parts are independent; a part that fails is one line of the index. All text is redacted; secret files are
not read.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import wait
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.core.redact import redact
from ansible_collections.devenv.lab.plugins.plugin_utils.diagnostics import cluster, host
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory, runs, state
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import registry
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import Provider
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import remote

PROGRAM = "node.archive"
TIMEOUT = 60.0
RUNS = 3
STATE_FILES = ("profile.yml", "network.yml", "inventory.yml", "ledger.jsonl", "lock")
# Archives of earlier gathers in run folders are left out.
ENDINGS = (".tar.gz", ".tgz")

Put = Callable[[str, bytes], None]


@dataclass
class Part:
    """A part of the archive. ``trouble`` states what is missing and why; empty if the part is complete."""

    name: str
    files: int = 0
    bytes: int = 0
    seconds: float = 0.0
    trouble: str = ""


@dataclass(frozen=True)
class Gathered:
    """The archive and its parts."""

    path: Path
    parts: tuple[Part, ...]

    @property
    def troubles(self) -> list[str]:
        """One line per incomplete part."""
        return [f"{part.name}: {part.trouble}" for part in self.parts if part.trouble]


@dataclass(frozen=True)
class Source:
    """What is gathered: the state directory, nodes with their ssh variables, the kubeconfig of each cluster."""

    name: str
    state: Path
    hosts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    kubeconfigs: Mapping[str, Path] = field(default_factory=dict)
    providers: Sequence[Provider] = ()


def source_of(folder: Path) -> Source:
    """Return the Source of a state directory; no profile means no nodes. Raises DevenvError ``state_broken``."""
    resolved = state.read_profile(folder)
    if resolved is None:
        return Source(folder.name, folder, providers=registry.every())
    hosts = inventory.build(resolved, state.read_network(folder), folder)["hosts"]
    paths = {
        str(variables["devenv_cluster"]): Path(variables["devenv_kubeconfig"])
        for variables in hosts.values()
        if variables["devenv_cluster"]
    }
    return Source(folder.name, folder, hosts, paths, [registry.of(resolved)])


def archive_path(output: str, name: str, now: datetime | None = None) -> Path:
    """Return the path of the archive. ``output`` is a file (.tar.gz, .tgz) or a folder, by default the working folder.

    Raises DevenvError ``gather_output`` for a file with another suffix.
    """
    path = Path(output).expanduser() if output else Path()
    if not output or output.endswith("/") or path.is_dir():
        when = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
        return (path / f"gather-{name}-{when}.tar.gz").absolute()
    if not path.name.endswith(ENDINGS):
        raise DevenvError("gather_output", "neither a directory nor a name that ends in .tar.gz", where=output)
    return path.absolute()


def collect(
    source: Source,
    output: Path,
    *,
    timeout: float = TIMEOUT,
    progress: Callable[[str], None] = lambda text: None,
) -> Gathered:
    """Write the archive ``output`` within about ``timeout`` seconds, with all parts that answer by then.

    Raises DevenvError ``gather_failed`` when it cannot be written.
    """
    began = datetime.now(UTC)
    deadline = time.monotonic() + timeout
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
            temporary = Path(folder) / output.name
            temporary.touch(mode=0o600)
            top = output.name.removesuffix(".gz").removesuffix(".tar").removesuffix(".tgz")
            with tarfile.open(temporary, "w:gz", compresslevel=6) as tar:
                collection = _start_parts(source, _Collection(tar, top, known_secrets(source.state)), deadline)
                collection.wait(deadline, progress)
                collection.write_index(source.name, began)
            os.replace(temporary, output)
    except OSError as error:
        raise DevenvError("gather_failed", f"{error.strerror}", where=str(error.filename or output)) from None
    return Gathered(output, tuple(collection.parts.values()))


def _start_parts(source: Source, collection: _Collection, deadline: float) -> _Collection:
    accesses = {name: client.usable_access(path) for name, path in source.kubeconfigs.items()}
    for access in accesses.values():
        if isinstance(access, client.Access):
            # First, so that a password in an application's log is recognized.
            collection.secrets |= cluster.secret_values(access)
    collection.start("runs", lambda put: _put_all(put, run_files(source.state)))
    collection.start("host", lambda put: host.collect(source.name, source.providers, put))
    for name, variables in source.hosts.items():
        collection.start(f"nodes/{name}", _node_work(name, variables, deadline))
    for name, access in accesses.items():
        collection.start(f"clusters/{name}", _cluster_work(access))
    return collection


def _node_work(name: str, variables: Mapping[str, Any], deadline: float) -> Callable[[Put], str]:
    def work(put: Put) -> str:
        # The node's program ends 2 s before the deadline, so that its last output still arrives.
        seconds = max(2.0, deadline - time.monotonic() - 2)
        target = remote.target(name, variables, own_connection=True, patience=int(min(10, seconds)))
        program = remote.program(PROGRAM, "main", {"timeout": int(seconds)})
        return remote.call(target, program, lambda stream: _put_all(put, members(stream)), seconds)

    return work


def _cluster_work(access: client.Access | DevenvError) -> Callable[[Put], str]:
    if isinstance(access, DevenvError):
        return lambda put: str(access)
    return lambda put: cluster.collect(access, put)


def _put_all(put: Put, files: Iterable[tuple[str, bytes]]) -> None:
    for path, data in files:
        put(path, data)


class _Collection:
    """The parts of an archive: each runs in its own thread and adds its files to the archive, redacted."""

    def __init__(self, tar: tarfile.TarFile, top: str, secrets: set[str]) -> None:
        self.parts: dict[str, Part] = {}
        self.secrets = secrets
        self._tar, self._top = tar, top
        self._running: set[str] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._error: OSError | None = None

    def start(self, name: str, work: Callable[[Put], str | None]) -> None:
        """Run ``work`` in a thread; it returns what is missing from its part and why, if anything."""
        part = self.parts[name] = Part(name)
        began = time.monotonic()

        def put(path: str, data: bytes) -> None:
            text = clean(data, self.secrets)
            with self._lock:
                if self._closed:
                    raise TimeoutError("timed out")
                self._add(f"{name}/{safe(path)}", text)
                part.files += 1
                part.bytes += len(text)

        def run() -> None:
            try:
                trouble = work(put)
            except DevenvError as error:
                trouble = str(error)
            except Exception as error:  # a failure of any kind concerns this part only
                trouble = f"{type(error).__name__}: {error}"
            with self._lock:
                if not self._closed:
                    part.seconds = round(time.monotonic() - began, 2)
                    part.trouble = redact(trouble or "", self.secrets)
                    self._running.remove(name)

        self._running.add(name)
        threading.Thread(target=run, daemon=True).start()

    def wait(self, deadline: float, progress: Callable[[str], None]) -> None:
        """Wait until all parts have ended or ``deadline`` has passed. Raises OSError if a file could not be written."""
        report = wait.on_change(progress)

        def is_complete() -> bool:
            with self._lock:
                running = [name for name in self.parts if name in self._running]
            if running:
                report(f"waiting for {', '.join(running[:6])}{' ...' * (len(running) > 6)}")
            return not running

        wait.until(is_complete, deadline)
        with self._lock:
            self._closed = True
        for name in self._running:
            self.parts[name].trouble = "timed out"
        if self._error:
            raise self._error

    def write_index(self, environment: str, began: datetime) -> None:
        """Add ``index.txt`` and ``index.json``."""
        head = {"environment": environment, "began": began.isoformat(timespec="seconds")}
        lines = [f"{key}: {value}" for key, value in head.items()]
        for part in self.parts.values():
            size = f"{part.files} files, {part.bytes} bytes in {part.seconds} s"
            lines.append(f"{part.name}: {size}" + (f"; {part.trouble}" if part.trouble else ""))
        document = json.dumps({**head, "parts": [vars(part) for part in self.parts.values()]}, indent=1)
        self._add("index.txt", "".join(f"{line}\n" for line in lines).encode())
        self._add("index.json", f"{document}\n".encode())

    def _add(self, name: str, data: bytes) -> None:
        info = tarfile.TarInfo(f"{self._top}/{name}")
        info.size, info.mtime, info.mode = len(data), int(time.time()), 0o600
        try:
            self._tar.addfile(info, io.BytesIO(data))
        except OSError as error:
            self._error = self._error or error
            raise


def members(stream: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a gzipped tar stream. Raises tarfile.TarError, EOFError or OSError where it is truncated."""
    with tarfile.open(fileobj=stream, mode="r|gz") as tar:
        for member in tar:
            content = tar.extractfile(member)
            if content is not None:
                yield member.name, content.read()


def safe(path: str) -> str:
    """Return ``path`` as a relative path without ``..`` and control characters."""
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    return "/".join(re.sub(r"[\x00-\x1f]", "_", part) for part in parts) or "_"


def clean(data: bytes, values: Iterable[str]) -> bytes:
    """Return text without secrets; binary data is replaced by its size."""
    if b"\0" in data[:4096]:
        return f"{len(data)} bytes of binary data were left out\n".encode()
    return redact(data.decode(errors="replace"), values).encode()


def known_secrets(folder: Path) -> set[str]:
    """Return the secrets in the state directory, split into pieces as they could appear in a text."""
    values: set[str] = set()
    for path in [*folder.glob("ssh/**/*"), *folder.glob("clusters/*/*")]:
        if not path.is_file() or path.is_symlink() or path.suffix == ".pub" or path.name == "known_hosts":
            continue
        with contextlib.suppress(OSError):
            values |= _secrets_in(path.read_text(errors="replace"))
    return values


def _secrets_in(text: str) -> set[str]:
    """Return the lines of private keys, the data of client keys, the tokens and the certificate keys in a text."""
    values = set(re.findall(r"client-key-data:\s*(\S{16,})", text))
    values |= set(re.findall(r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b|(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])", text))
    for block in re.findall(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(.*?)-----END", text, re.DOTALL):
        values |= {line.strip() for line in block.splitlines() if len(line.strip()) >= 40}
    return values


def run_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the records of the newest runs and the state directory's files that contain no secrets."""
    for path in [*(folder / name for name in STATE_FILES), *sorted(folder.glob("clusters/*/validated.json"))]:
        if path.is_file():
            yield f"state/{path.relative_to(folder)}", path.read_bytes()
    for run in runs.folders(folder)[-RUNS:]:
        for path in sorted(run.iterdir()):
            if path.is_file() and not path.name.endswith(ENDINGS) and not path.name.startswith("."):
                yield f"{run.name}/{path.name}", path.read_bytes()
