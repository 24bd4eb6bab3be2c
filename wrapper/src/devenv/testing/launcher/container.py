"""The container of `devenv test run --container`: its image, and the command line that runs the tests in it.

The image has the project's requirements, installed by pip with the settings of this machine. It is named by a digest of
everything that it is built from, and built once. Base, variables and mounts: configs/test_container.yml.
"""

from __future__ import annotations

import ast
import configparser
import getpass
import hashlib
import io
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import data, files, paths, program
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.host import limits

from devenv import errors

REPOSITORY = "localhost/devenv-test"
PREFIX = "HABERTEST_"
# Variables that name files.
FILES = ("HABERTEST_SSL_CERT", "HABERTEST_SSL_KEY", "HABERTEST_SSL_CA")
CERTIFICATES = "/etc/ssl/certs"
VENV = "/opt/tests"
SECONDS = 1800
PROCESSES = 30000
_PIP_VARIABLE = ":env:"


@dataclass(frozen=True)
class Container:
    """``project``: the working directory, which the container shares; ``base``: an image, or empty for Debian;
    ``mounts``: SOURCE[:TARGET[:OPTIONS]].
    """

    project: Path
    requirements: Path
    base: str = ""
    mounts: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, project: Path, declared: Mapping[str, Any], requirements: Path | None, base: str, mounts: Sequence[str]
    ) -> Container:
        """Return the container that a project declares (the key ``container``), changed by options. Raises UsageError
        without a requirements file.
        """
        path = project / (requirements or declared.get("requirements", "requirements.txt"))
        if not path.is_file():
            raise errors.UsageError(
                f"{path} does not exist; it lists the packages of the tests", where="--requirements"
            )
        return cls(project, path, base or declared.get("base", ""), (*declared.get("mounts", ()), *mounts))


# --- image ------------------------------------------------------------------------------------------------------------


def ensure_image(container: Container, report: Callable[[str], None], *, rebuild: bool = False) -> str:
    """Return the name of the image, which is built if it is missing. Raises DevenvError ``test_image_failed``."""
    try:
        with files.exclusive(paths.cache() / "test-image.lock"):
            base = container.base or _debian(report)
            reference = f"{REPOSITORY}:{digest(container, base)}"
            if rebuild or not _exists(reference):
                report(f"test image: install {container.requirements}")
                _build(container, base, reference)
            return reference
    except FileNotFoundError as error:
        raise DevenvError("test_image_failed", f"{error.filename} is not installed on this machine") from None
    except program.ProgramFailed as failure:
        raise DevenvError("test_image_failed", f"the container image for tests could not be built: {failure}") from None


def digest(container: Container, base: str) -> str:
    """Return 12 hex digits that change with the base and the requirements, files that they name included."""
    parts = [base, containerfile(container, base)]
    parts += [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in inputs(container.requirements)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def inputs(requirements: Path) -> list[Path]:
    """Return a requirements file and the files that its lines name, such as further ones (``-r``) and wheels."""
    found: dict[Path, None] = {}
    remaining = [requirements.resolve()]
    while remaining:
        path = remaining.pop()
        if path in found:
            continue
        found[path] = None
        if path.suffix not in (".whl", ".gz", ".zip"):
            remaining += [file.resolve() for file in _named(path) if file.is_file()]
    return sorted(found)


def _named(requirements: Path) -> Iterator[Path]:
    for line in requirements.read_text().splitlines():
        for word in line.partition(" #")[0].replace("=", " ").split():
            name = word.removeprefix("file://").removeprefix("-r").removeprefix("-c").partition("[")[0]
            if name and not name.startswith("-"):
                yield requirements.parent / name


def containerfile(container: Container, base: str) -> str:
    """Return the recipe of the image. pip runs in the folder of the requirements, to which local paths are relative."""
    folder, name = container.requirements.parent, container.requirements.name
    install = f"{VENV}/bin/python -m pip install --no-cache-dir --disable-pip-version-check --requirement"
    return (
        f"FROM {base}\n"
        f"RUN --mount=type=secret,id=pip,target=/etc/pip.conf python3 -m venv {VENV} && "
        f"cd {shlex.quote(str(folder))} && {install} {shlex.quote(name)}\n"
        f"ENV PATH={VENV}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
    )


def _build(container: Container, base: str, reference: str) -> None:
    folder = container.requirements.parent
    with tempfile.TemporaryDirectory(prefix="devenv-test-image-") as context:
        recipe, settings = Path(context, "Containerfile"), Path(context, "pip.conf")
        recipe.write_text(containerfile(container, base))
        # It may contain passwords, so it is a secret of the build and no part of the image.
        settings.touch(0o600)
        settings.write_text(_pip_settings())
        words = ["--quiet", "--no-cache", "--tag", reference, "--network=host", f"--secret=id=pip,src={settings}"]
        words += [f"--volume={folder}:{folder}:ro"]
        words += [f"--volume={CERTIFICATES}:{CERTIFICATES}:ro"] if Path(CERTIFICATES).is_dir() else []
        program.run([_program(), "build", *words, "--file", str(recipe), context], timeout=SECONDS)


def _pip_settings() -> str:
    """Return the settings of this machine's pip, from files and variables, as one file."""
    pip = shutil.which("pip3") or shutil.which("pip")
    listed = program.run([pip, "config", "list"], check=False).stdout if pip else ""
    sections: dict[str, dict[str, str]] = {}
    # Variables, which are listed as :env:, precede files.
    for line in sorted(listed.splitlines(), key=lambda line: line.startswith(_PIP_VARIABLE)):
        key, equals, value = line.partition("=")
        section, _, name = key.replace(_PIP_VARIABLE, "global").rpartition(".")
        if equals and section:
            sections.setdefault(section, {})[name] = ast.literal_eval(value)
    parser = configparser.RawConfigParser()
    parser.read_dict(sections)
    text = io.StringIO()
    parser.write(text)
    return text.getvalue()


def _debian(report: Callable[[str], None]) -> str:
    recipe = _settings()["debian"]
    name = hashlib.sha256(repr(sorted(recipe.items())).encode()).hexdigest()[:12]
    reference = f"{REPOSITORY}-debian:{name}"
    if _exists(reference):
        return reference
    report(f"test image: Debian {recipe['suite']}")
    with tempfile.TemporaryDirectory(prefix="devenv-test-root-") as folder:
        # mmdebstrap must be able to enter the folder as another user while it unpacks.
        os.chmod(folder, 0o755)
        archive = os.path.join(folder, "root.tar")
        packages = f"--include={','.join(recipe['packages'])}"
        program.run(["mmdebstrap", "--variant=minbase", packages, recipe["suite"], archive], timeout=SECONDS)
        program.run([_program(), "import", "--quiet", archive, reference], timeout=SECONDS)
    return reference


def _exists(reference: str) -> bool:
    return program.run([_program(), "image", "exists", reference], check=False).code == 0


def _settings() -> dict[str, Any]:
    settings: dict[str, Any] = data.read(paths.CONFIGS / "test_container.yml")
    return settings


def _program() -> str:
    return str(_settings()["program"])


# --- command line -----------------------------------------------------------------------------------------------------


def command(
    container: Container, image: str, words: Sequence[str], env: Mapping[str, str], *, terminal: bool
) -> list[str]:
    """Return the command line that runs ``words`` in the container, with the network and the processes of this host:
    leases of environments name their users by process id.
    """
    options = ["--rm", "--interactive", "--network=host", "--pid=host", "--security-opt=label=disable"]
    # The defaults are higher than what every host permits.
    files_open = limits.open_files()
    options += [f"--ulimit=nofile={files_open}:{files_open}", f"--ulimit=nproc={PROCESSES}:{PROCESSES}"]
    options += [f"--workdir={container.project}", *_user(env), *(["--tty"] if terminal else [])]
    passed = sorted(name for name in env if name.startswith(PREFIX) or name in _settings()["variables"])
    options += [f"--env={name}" for name in passed]
    options += [f"--env={name}={path}" for name, path in (("DEVENV_HOME", paths.home(env)), ("HOME", _home(env)))]
    options += [f"--volume={mount}" for mount in mounts(container, env)]
    return [_program(), "run", *options, image, *words]


def mounts(container: Container, env: Mapping[str, str]) -> list[str]:
    """Return the mounts: the project, declared ones, and files that tests use, by target. Raises UsageError for a
    declared one that does not exist.
    """
    home = _home(env)
    implied = [_expanded(path, home) for path in _settings()["mounts"]]
    implied += [Path(env[name]) for name in FILES if env.get(name)] + [paths.cache(env) / "bundle"]
    by_target = {str(path): f"{path}:{path}:ro" for path in implied if path.exists()}
    for path in (paths.home(env), container.project):
        if path.exists():
            by_target[str(path)] = f"{path}:{path}"
    for mount in container.mounts:
        text, _, rest = mount.partition(":")
        source = container.project / _expanded(text, home)
        if not source.exists():
            raise errors.UsageError(f"{source} does not exist", where=f"--mount {mount}")
        target, _, flags = rest.partition(":")
        by_target[target or str(source)] = ":".join(filter(None, (str(source), target or str(source), flags)))
    return list(by_target.values())


def _expanded(path: str, home: Path) -> Path:
    return home / path[2:] if path.startswith("~/") else Path(path)


def _home(env: Mapping[str, str]) -> Path:
    return paths.user_home(env)


def _user(env: Mapping[str, str]) -> list[str]:
    """Return the options for a user other than root, who owns the files that the tests write."""
    if os.geteuid() == 0:
        return []
    entry = f"{getpass.getuser()}:*:{os.geteuid()}:{os.getegid()}::{_home(env)}:/bin/sh"
    return ["--userns=keep-id", f"--passwd-entry={entry}"]
