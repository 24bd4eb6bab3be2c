"""Run `ansible-test sanity` on the built and installed archive, without containers.

ansible-test refuses a checkout, keeps its virtual environments in the home folder and downloads get-pip.py first. So it
runs on a scratch copy with its own home folder in the cache, where get-pip.py is replaced by a script that uses the
interpreter's own pip. Arguments are passed to ansible-test.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import collection_archive
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths

# ansible-test runs this file to install pip into a virtual environment, with the arguments of get-pip.py.
GET_PIP = """\
import subprocess
import sys

arguments = [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]
subprocess.run([sys.executable, "-m", "ensurepip", "--default-pip"], check=True)
sys.exit(subprocess.run([sys.executable, "-m", "pip", "install", *arguments]).returncode)
"""


def pip_versions() -> set[str]:
    """Return the versions of pip that this ansible-test may request, from its source."""
    spec = find_spec("ansible_test")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    source = Path(spec.submodule_search_locations[0]) / "_internal" / "python_requirements.py"
    return set(re.findall(r"pip='([0-9.]+)'", source.read_text()))


def pip_settings(env: Mapping[str, str] = os.environ) -> str:
    """Return pip's environment variables as a configuration file, since ansible-test does not pass them on."""
    rows = [
        f"{name.removeprefix('PIP_').lower().replace('_', '-')} = {value}"
        for name, value in sorted(env.items())
        if name.startswith("PIP_") and name != "PIP_CONFIG_FILE" and value
    ]
    if proxy := env.get("https_proxy") or env.get("HTTPS_PROXY"):
        rows.append(f"proxy = {proxy}")
    return "\n".join(["[global]", *rows, ""])


def seed(home: Path) -> None:
    """Prepare the home folder of ansible-test."""
    scripts = home / ".ansible" / "test" / "cache"
    scripts.mkdir(parents=True, exist_ok=True)
    for version in pip_versions():
        (scripts / f"get_pip_{version.replace('.', '_')}.py").write_text(GET_PIP)
    settings = home / ".config" / "pip" / "pip.conf"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.touch(mode=0o600)
    settings.write_text(pip_settings())


def main(arguments: list[str]) -> int:
    # May be removed at any time.
    home = paths.cache().with_name("devenv-checks") / "ansible-test"
    seed(home)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    with tempfile.TemporaryDirectory(prefix="devenv-sanity-") as scratch:
        tree = Path(scratch)
        collection = collection_archive.install(collection_archive.build(tree), tree)
        argv = [collection_archive.program("ansible-test"), "sanity", "--local", "--python", python, "--color", "no"]
        env = collection_archive.plain_environment(home)
        return subprocess.run([*argv, *arguments], cwd=collection, env=env, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
