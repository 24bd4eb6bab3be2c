"""A registry with its own CA that requires a password: pods use its images without imagePullSecrets."""

from __future__ import annotations

import functools
import json
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import oci, store
from doubles import official
from support import tls
from support.commands import Typed
from support.seen import inside
from support.waits import until

pytestmark = [pytest.mark.cluster, pytest.mark.nightly]

PASSWORD = "s3cret-of-the-registry"
# `htpasswd -B` of it.
HASH = "$2b$06$x.wsGZwQPi8rZXHaouIviO9iG1H9p7H5XWU9ET9hUnFxfSFdnVwfW"


def own_address() -> str:
    """Return an address of this host that nodes reach: that of the way to other machines."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        way.connect(("198.51.100.1", 9))
        return str(way.getsockname()[0])


@pytest.fixture
def private(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A registry with an image; yields its host and port, and the image's name. Its files are in ``tmp_path``."""
    (archive,) = store.require("").path.glob("images/pause.tar")
    with official.registry(tmp_path) as plain:
        official.push(archive, plain)
    address = own_address()
    tls.self_signed(tmp_path / "key.pem", tmp_path / "ca.pem", address=address)
    (tmp_path / "users").write_text(f"ci:{HASH}\n")
    (tmp_path / "password").write_text(PASSWORD)
    with socket.create_server((address, 0)) as free:
        host = f"{address}:{free.getsockname()[1]}"
    config = yaml.safe_load((tmp_path / "config.yml").read_text())
    config["http"] = {
        "addr": host,
        "secret": "x",
        "tls": {"certificate": str(tmp_path / "ca.pem"), "key": str(tmp_path / "key.pem")},
    }
    config["auth"] = {"htpasswd": {"realm": "lab", "path": str(tmp_path / "users")}}
    (tmp_path / "private.yml").write_text(yaml.safe_dump(config))
    argv = ["docker-registry", "serve", str(tmp_path / "private.yml")]
    with (tmp_path / "private.log").open("wb") as log:
        child = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        (image,) = oci.read(archive)
        yield host, image.name.partition("/")[2]
    finally:
        child.terminate()
        child.wait(10)


def _is_in(log: Path, pattern: re.Pattern[str]) -> bool:
    return pattern.search(log.read_text()) is not None


def test_pods_use_a_registry_with_a_ca_and_a_password(
    user: Typed, new_name: Callable[[str], str], private: tuple[str, str], tmp_path: Path
) -> None:
    host, image = private
    access = {"ca": str(tmp_path / "ca.pem"), "user": "ci", "password_file": str(tmp_path / "password")}
    mirrors = {"mirrored.example.com": [f"https://{host}"]}
    profile = {"extends": "aio", "registry": {"hosts": {host: access}, "mirrors": mirrors}}
    (tmp_path / "mine.yml").write_text(yaml.safe_dump(profile))
    name = new_name("registry")
    done = user.devenv("up", "--profile", str(tmp_path / "mine.yml"), "--name", name, "-v")
    try:
        for pod, source in (("direct", host), ("mirrored", "mirrored.example.com")):
            user.kubectl(name, "run", pod, f"--image={source}/{image}", "--image-pull-policy=Always")
        for pod in ("direct", "mirrored"):
            user.kubectl(name, "wait", f"pod/{pod}", "--for=condition=Ready", "--timeout=120s")
        assert PASSWORD not in done.stdout + done.stderr
        assert inside(f"{name}-master-0", "stat", "-c", "%a", "/var/lib/kubelet/config.json").strip() == "600"
        # The registry has served both, after it refused a request without the password.
        log = tmp_path / "private.log"
        for served in (f"/v2/{image} HTTP", f"/v2/{image}?ns=mirrored.example.com HTTP"):
            pattern = re.compile(re.escape(served.replace(":", "/manifests/", 1)) + r'\S*" 200 ')
            assert until(functools.partial(_is_in, log, pattern))
        assert '" 401 ' in log.read_text()
        state = user.home / "environments" / name
        files = [path for path in state.rglob("*") if path.is_file() and "/nodes/" not in str(path)]
        assert not [path for path in files if PASSWORD in path.read_text(errors="replace")]
        assert json.loads(user.devenv("status", "--name", name, "--json").stdout)
    finally:
        user.devenv("down", "--name", name)
