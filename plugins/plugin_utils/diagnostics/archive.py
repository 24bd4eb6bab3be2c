"""One archive of what an environment knows of itself: its nodes, its clusters, this host, its runs.

``<name>.tar.gz`` (0600) holds one folder: ``index.txt`` and ``index.json`` (what was asked, what came, what did not
and why), ``nodes/<node>/``, ``clusters/<cluster>/``, ``host/`` and ``runs/`` with the state folder's own words. Parts
do not depend on each other; one that does not answer is a line of the index. Every text goes through ``redact``; files
that are secrets are not read.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import queue
import re
import secrets
import tarfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.core.redact import redact
from ansible_collections.devenv.lab.plugins.plugin_utils.diagnostics import cluster
from ansible_collections.devenv.lab.plugins.plugin_utils.diagnostics import host as gather_host
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory, runs, state
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import registry
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import Provider
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import remote

PROGRAM = "node.archive"
TIMEOUT = 60.0
RUNS = 3
STATE_FILES = ("profile.yml", "network.yml", "inventory.yml", "ledger.jsonl", "lock")
# A run's own archive of an earlier gather is not taken into the next one.
ENDINGS = (".tar.gz", ".tgz")

Put = Callable[[str, bytes], None]


@dataclass
class Part:
    """What became of one part: ``trouble`` is empty when it gave all."""

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
        """A line for each part that did not give all."""
        return [f"{part.name}: {part.trouble}" for part in self.parts if part.trouble]


@dataclass(frozen=True)
class Source:
    """What is asked: the state folder, nodes with their ssh variables, the kubeconfig of each cluster."""

    name: str
    state: Path
    hosts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    kubeconfigs: Mapping[str, Path] = field(default_factory=dict)
    providers: Sequence[Provider] = ()


def source_of(folder: Path) -> Source:
    """The Source of a state folder; one that knows no nodes yet gives none. Raises DevenvError ``state_broken``."""
    resolved = state.read_profile(folder)
    if resolved is None:
        return Source(folder.name, folder, providers=registry.every())
    built = inventory.build(resolved, state.read_network(folder), folder)
    paths = {str(host["devenv_cluster"]): Path(host["devenv_kubeconfig"]) for host in built["hosts"].values()
             if host["devenv_cluster"]}  # fmt: skip
    return Source(folder.name, folder, built["hosts"], paths, [registry.of(resolved)])


def archive_path(wanted: str, name: str, now: datetime | None = None) -> Path:
    """Where the archive goes: ``wanted`` is a file (.tar.gz, .tgz), or a folder; by default the working directory.

    Raises DevenvError ``gather_output`` for a file of another kind.
    """
    when = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    own = f"gather-{name}-{when}.tar.gz"
    path = Path(wanted).expanduser() if wanted else Path()
    if not wanted or wanted.endswith("/") or path.is_dir():
        return (path / own).absolute()
    if not path.name.endswith(ENDINGS):
        raise DevenvError("gather_output", "neither a folder nor a name that ends in .tar.gz", where=wanted)
    return path.absolute()


def collect(
    source: Source,
    output: Path,
    *,
    timeout: float = TIMEOUT,
    progress: Callable[[str], None] = lambda text: None,
) -> Gathered:
    """Write the archive ``output`` within about ``timeout`` seconds, whatever answers.

    Raises DevenvError ``gather_failed`` when it cannot be written.
    """
    writer = _Writer(output, timeout, progress)
    try:
        return writer.write(source)
    except OSError as error:
        raise DevenvError("gather_failed", f"{error.strerror}", where=str(error.filename or output)) from None


class _Writer:
    """Takes what the parts give, each in a thread of its own, and writes it, redacted, in this one."""

    def __init__(self, output: Path, timeout: float, progress: Callable[[str], None]) -> None:
        self._output = output
        self._progress = progress
        self._deadline = time.monotonic() + timeout
        self._began = datetime.now(UTC)
        self._queue: queue.Queue[tuple[str, str, bytes]] = queue.Queue(maxsize=64)
        self._parts: dict[str, Part] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._secrets: set[str] = set()
        self._over = threading.Event()

    def write(self, source: Source) -> Gathered:
        self._output.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._output.with_name(f".{self._output.name}.{secrets.token_hex(4)}")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as stream, tarfile.open(fileobj=stream, mode="w:gz", compresslevel=6) as tar:
                self._fill(tar, source)
            os.replace(temporary, self._output)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
            raise
        finally:
            self._over.set()
        return Gathered(self._output, tuple(self._parts.values()))

    def _fill(self, tar: tarfile.TarFile, source: Source) -> None:
        self._secrets = known_secrets(source.state)
        apis = {name: _access(path) for name, path in source.kubeconfigs.items()}
        for access in apis.values():
            if isinstance(access, client.Access):
                # First, so that what an application logs of its own password is found.
                self._secrets |= cluster.secret_values(access)
        self._start("runs", lambda put: _put_all(put, run_files(source.state)))
        self._start("host", lambda put: gather_host.collect(source.name, source.providers, put))
        for name, variables in source.hosts.items():
            self._start(f"nodes/{name}", self._node(name, variables))
        for name, access in apis.items():
            self._start(f"clusters/{name}", _cluster(access))
        top = self._output.name.removesuffix(".gz").removesuffix(".tar").removesuffix(".tgz")
        told = ""
        while self._alive() and time.monotonic() < self._deadline:
            told = self._tell(told)
            self._take(tar, top)
        self._rest(tar, top)
        for name, text in self._index(source).items():
            _add(tar, f"{top}/{name}", text.encode())

    # -- parts --

    def _start(self, name: str, work: Callable[[Put], str]) -> None:
        part = self._parts[name] = Part(name)
        began = time.monotonic()

        def put(path: str, data: bytes) -> None:
            while not self._over.is_set():
                with contextlib.suppress(queue.Full):
                    self._queue.put((name, path, data), timeout=0.5)
                    return
            raise TimeoutError("the time is over")

        def run() -> None:
            try:
                trouble = work(put)
            except Exception as error:  # whatever it is, it is this part's alone
                trouble = f"{type(error).__name__}: {error}"
            part.seconds = round(time.monotonic() - began, 2)
            if not self._over.is_set():
                part.trouble = redact(trouble, self._secrets)

        self._threads[name] = threading.Thread(target=run, daemon=True)
        self._threads[name].start()

    def _node(self, name: str, variables: Mapping[str, Any]) -> Callable[[Put], str]:
        def work(put: Put) -> str:
            # Written and read within the time that is left, with some of it for what was on its way.
            left = max(2.0, self._deadline - time.monotonic() - 2)

            def read(stream: IO[bytes]) -> None:
                _put_all(put, members(stream))

            one = remote.target(name, variables, own_connection=True, patience=int(min(10, left)))
            return remote.call(
                one,
                remote.program(PROGRAM, "main", {"timeout": int(left)}),
                read,
                left,
            )

        return work

    # -- writing --

    def _alive(self) -> bool:
        return any(thread.is_alive() for thread in self._threads.values()) or not self._queue.empty()

    def _tell(self, told: str) -> str:
        waiting = [name for name, thread in self._threads.items() if thread.is_alive()]
        text = f"waiting for {', '.join(waiting[:6])}{' ...' * (len(waiting) > 6)}" if waiting else told
        if text != told:
            self._progress(text)
        return text

    def _take(self, tar: tarfile.TarFile, top: str, wait: float = 0.2) -> bool:
        try:
            part, path, data = self._queue.get(timeout=wait) if wait else self._queue.get_nowait()
        except queue.Empty:
            return False
        text = clean(data, self._secrets)
        _add(tar, f"{top}/{part}/{safe(path)}", text)
        self._parts[part].files += 1
        self._parts[part].bytes += len(text)
        return True

    def _rest(self, tar: tarfile.TarFile, top: str) -> None:
        """What came in time; whoever is not done by now is cut off."""
        late = [name for name, thread in self._threads.items() if thread.is_alive()]
        self._over.set()
        while self._take(tar, top, wait=0):
            pass
        for name in late:
            self._parts[name].trouble = "cut off: the time is over"

    def _index(self, source: Source) -> dict[str, str]:
        rows = [vars(part) for part in self._parts.values()]
        head = {"environment": source.name, "began": self._began.isoformat(timespec="seconds")}
        lines = [f"{key}: {value}" for key, value in head.items()]
        for part in self._parts.values():
            came = f"{part.files} files, {part.bytes} bytes in {part.seconds} s"
            lines.append(f"{part.name}: {came}" + (f"; {part.trouble}" if part.trouble else ""))
        document = json.dumps({**head, "parts": rows}, indent=1)
        return {"index.txt": "\n".join(lines) + "\n", "index.json": document + "\n"}


def _put_all(put: Put, found: Iterable[tuple[str, bytes]]) -> str:
    for path, data in found:
        put(path, data)
    return ""


def _cluster(access: client.Access | DevenvError) -> Callable[[Put], str]:
    if isinstance(access, DevenvError):
        text = str(access)
        return lambda put: text
    return lambda put: cluster.collect(access, put)


def _access(path: Path) -> client.Access | DevenvError:
    try:
        return client.read_access(path)
    except DevenvError as error:
        return error


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(data), int(time.time()), 0o600
    tar.addfile(info, io.BytesIO(data))


def members(stream: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Files of a gzipped tar that is read as it comes. Raises tarfile.TarError, EOFError, OSError where it breaks
    off.
    """
    with tarfile.open(fileobj=stream, mode="r|gz") as tar:
        for member in tar:
            content = tar.extractfile(member)
            if content is not None:
                yield member.name, content.read()


def safe(path: str) -> str:
    """``path`` as a relative one that stays where it is put."""
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    return "/".join(re.sub(r"[\x00-\x1f]", "_", part) for part in parts) or "_"


def clean(data: bytes, values: Iterable[str]) -> bytes:
    """A text without secrets; of what is no text, its size alone."""
    if b"\0" in data[:4096]:
        return f"{len(data)} bytes that are no text were left out\n".encode()
    return redact(data.decode(errors="replace"), values).encode()


# --- this environment's own ------------------------------------------------------------------------------------------


def known_secrets(folder: Path) -> set[str]:
    """The secrets that stand in the state folder, piece by piece as they could appear in a text."""
    found: set[str] = set()
    for path in [*folder.glob("ssh/**/*"), *folder.glob("clusters/*/*")]:
        if not path.is_file() or path.is_symlink() or path.suffix == ".pub" or path.name == "known_hosts":
            continue
        try:
            found |= secrets_in(path.read_text(errors="replace"))
        except OSError:
            continue
    return found


def secrets_in(text: str) -> set[str]:
    """Lines of private keys, data of client keys, tokens and certificate keys of a text."""
    found = set(re.findall(r"client-key-data:\s*(\S{16,})", text))
    found |= set(re.findall(r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b|(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])", text))
    for block in re.findall(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(.*?)-----END", text, re.DOTALL):
        found |= {line.strip() for line in block.splitlines() if len(line.strip()) >= 40}
    return found


def run_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Records of the newest runs, and what the state folder says of the environment; no secret of it."""
    for name in STATE_FILES:
        path = folder / name
        if path.is_file():
            yield f"state/{name}", path.read_bytes()
    for path in sorted(folder.glob("clusters/*/validated.json")):
        yield f"state/{path.relative_to(folder)}", path.read_bytes()
    for run in runs.folders(folder)[-RUNS:]:
        for path in sorted(run.iterdir()):
            if path.is_file() and not path.name.endswith(ENDINGS) and not path.name.startswith("."):
                yield f"{run.name}/{path.name}", path.read_bytes()
