"""Clusters of the engine gravity, which a double of Gravity (tests/doubles/gravity) creates for real."""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from doubles.gravity import tarball
from support.commands import ROOT, Typed, addresses, shown
from support.seen import inside

pytestmark = pytest.mark.cluster

# Each occurs once, and the run must continue.
FAULTS: list[dict[str, Any]] = [
    {"command": "join", "text": "bad secret token", "times": 1},
    {"command": "join", "text": "can only add one node at a time", "times": 1},
    {"fault": "degraded_after_join", "answers": 2, "times": 1},
]


def profile(folder: Path, extends: str, faults: list[dict[str, Any]] | None = None, **more: Any) -> str:
    """Create a tarball and a profile that uses it; return the profile's path."""
    digest = tarball.make(folder / "lab.tar", faults or [])
    kubernetes = {"engine": "gravity", "gravity": {"tarball": str(folder / "lab.tar"), "sha256": digest}}
    path = folder / "mine.yml"
    path.write_text(yaml.safe_dump({"extends": extends, "kubernetes": kubernetes, **more}))
    return str(path)


def gravity(name: str, node: str, *words: str) -> str:
    return inside(f"{name}-{node}", "gravity", *words)


def members(name: str, node: str = "master-0") -> dict[str, tuple[str, str]]:
    """Return role and status by address, as the cluster itself reports them."""
    nodes = json.loads(gravity(name, node, "status", "--output=json"))["cluster"]["nodes"]
    return {node["advertise_ip"]: (node["role"], node["status"]) for node in nodes}


def labels(user: Typed, name: str) -> dict[str, dict[str, str]]:
    listed = json.loads(user.kubectl(name, "get", "nodes", "-o", "json").stdout)["items"]
    return {item["metadata"]["name"]: item["metadata"]["labels"] for item in listed}


@pytest.fixture
def secretless(user: Typed, environment: str) -> Iterator[None]:
    """Check after the test that no log, record or file of the environment contains the token."""
    yield
    token = gravity(environment, "master-0", "status", "--token")
    assert token
    folder = user.home / "environments" / environment
    # nodes/ has the nodes' own files, including the cluster's data.
    paths = [path for top in folder.iterdir() if top.name != "nodes" for path in (top, *top.rglob("*"))]
    assert len(paths) > 10
    assert [path for path in paths if path.is_file() and token in path.read_text(errors="replace")] == []
    assert token not in inside(f"{environment}-master-0", "sh", "-c", "cat /var/log/devenv/*")


@pytest.mark.nightly
def test_the_life_of_one_node(user: Typed, environment: str, tmp_path: Path, secretless: None) -> None:
    """Create it, re-run, stop and start, change its address; nothing changes without need."""
    path = profile(tmp_path, "aio")
    user.devenv("up", "--profile", path, "--name", environment)
    (address,) = addresses(user, environment)["master-0"]
    assert members(environment) == {address: ("master", "healthy")}
    assert labels(user, environment)[address]["memsql"] == "true"
    assert user.changes("up", "--profile", path, "--name", environment, "--full") == []
    user.devenv("validate", "--name", environment)
    refused = user.devenv("snapshot", "save", "one", "--name", environment, code=None)
    assert "snapshot: not supported by the engine gravity" in refused.stderr
    user.devenv("stop", "--name", environment)
    user.devenv("start", "--name", environment)
    gravity(environment, "master-0", "stop", "--confirm")
    user.devenv("up", "--name", environment)
    user.devenv("node", "change-address", "master-0", "--name", environment)
    (moved,) = addresses(user, environment)["master-0"]
    assert moved != address
    assert members(environment) == {moved: ("master", "healthy")}
    moved_labels = labels(user, environment)
    assert list(moved_labels) == [moved]
    assert moved_labels[moved]["memsql"] == "true", "the new Node lacks the labels of the old one"
    assert user.changes("up", "--name", environment, "--full") == []


def test_a_master_and_two_workers_come_up_despite_faults(
    user: Typed, environment: str, tmp_path: Path, secretless: None
) -> None:
    path = profile(tmp_path, "master-2pipe", FAULTS)
    user.devenv("up", "--profile", path, "--name", environment)
    where = {name: node_addresses[0] for name, node_addresses in addresses(user, environment).items()}
    assert members(environment) == {
        where["master-0"]: ("master", "healthy"),
        where["worker-0"]: ("node", "healthy"),
        where["worker-1"]: ("node", "healthy"),
    }
    assert {labels(user, environment)[where[name]].get("pipe") for name in ("worker-0", "worker-1")} == {"true"}
    log = inside(f"{environment}-worker-0", "cat", "/var/log/devenv/gravity-join.log")
    assert "bad secret token" in log
    assert re.search(r"one node at a time", log)
    assert user.changes("up", "--name", environment, "--full") == []


@pytest.mark.nightly
def test_a_worker_is_removed_and_another_added(user: Typed, environment: str, tmp_path: Path, secretless: None) -> None:
    user.devenv("up", "--profile", profile(tmp_path, "master-2pipe"), "--name", environment)
    where = {name: node_addresses[0] for name, node_addresses in addresses(user, environment).items()}
    user.devenv("node", "remove", "worker-1", "--name", environment)
    assert where["worker-1"] not in members(environment)
    assert where["worker-1"] not in labels(user, environment)
    user.devenv("node", "add", "--name", environment)
    assert len(members(environment)) == 3
    assert user.changes("up", "--name", environment, "--full") == []


PREPARED = "localhost/devenv-test-prepared:1"


@pytest.fixture
def prepared(user: Typed, environment: str, tmp_path: Path) -> Iterator[str]:
    """A machine image with a stopped cluster; the value is the token of the cluster."""
    name, node = f"{environment}-first", f"{environment}-first-master-0"
    try:
        user.devenv("up", "--profile", profile(tmp_path, "aio"), "--name", name)
        token = gravity(name, "master-0", "status", "--token")
        gravity(name, "master-0", "stop", "--confirm")
        folder = user.home / "environments" / name / "nodes" / "master-0"
        subprocess.run(["podman", "commit", "--quiet", node, PREPARED], check=True, timeout=300)
        # The node's folders outside its image; Gravity creates its image store again.
        parts = {"etcd": "/var/lib/etcd", "kubelet": "/var/lib/kubelet", "kubernetes": "/etc/kubernetes"}
        lines = [f"FROM {PREPARED}", *(f"COPY {part} {target}" for part, target in parts.items())]
        context = tmp_path / "context"
        context.mkdir()
        for part in parts:
            words = ["cp", "--archive", "--one-file-system", str(folder / part), str(context / part)]
            subprocess.run(words, check=True, timeout=300)
        (context / "Containerfile").write_text("\n".join(lines) + "\n")
        subprocess.run(["podman", "build", "--quiet", f"--tag={PREPARED}", str(context)], check=True, timeout=300)
    finally:
        user.devenv("down", "--name", name)
    yield token
    subprocess.run(["podman", "image", "rm", "--force", PREPARED], check=True, timeout=120)


@pytest.mark.nightly
def test_a_prepared_image_takes_the_address_of_its_node(
    user: Typed, environment: str, tmp_path: Path, prepared: str
) -> None:
    """The machine's image, which the profile names, has a stopped cluster with another address."""
    kubernetes = {"engine": "gravity", "gravity": {"prepared": True}}
    document = {"extends": "aio", "kubernetes": kubernetes, "nodes": {"master-0": {"image": PREPARED}}}
    (tmp_path / "prepared.yml").write_text(yaml.safe_dump(document))
    user.devenv("up", "--profile", str(tmp_path / "prepared.yml"), "--name", environment)
    (address,) = addresses(user, environment)["master-0"]
    assert members(environment) == {address: ("master", "healthy")}
    assert gravity(environment, "master-0", "status", "--token") == prepared, "it is not the same cluster"
    assert list(labels(user, environment)) == [address]
    assert user.changes("up", "--name", environment, "--full") == []


@pytest.mark.nightly
def test_a_prepared_image_without_gravity_is_refused(user: Typed, environment: str, tmp_path: Path) -> None:
    kubernetes = {"engine": "gravity", "gravity": {"prepared": True}}
    (tmp_path / "mine.yml").write_text(yaml.safe_dump({"extends": "aio", "kubernetes": kubernetes}))
    done = user.devenv("up", "--profile", str(tmp_path / "mine.yml"), "--name", environment, code=5)
    assert "the profile requires an image with Gravity, but this image has none" in done.stderr


SCRIPT = """#!/bin/sh
set -eu
mkdir -p lab
tar -xf "$GRAVITY_TARBALL" -C lab
cd lab
./gravity install --cloud-provider=generic --advertise-addr="$GRAVITY_ADDRESS" --cluster="$GRAVITY_CLUSTER" \\
  --flavor="$GRAVITY_FLAVOR" --role="$GRAVITY_NODE_TYPE" --pod-network-cidr="$GRAVITY_POD_SUBNET" \\
  --service-cidr="$GRAVITY_SERVICE_SUBNET"
"""


def by_role(user: Typed, folder: Path, name: str, entry: str, *words: str, code: int = 0) -> str:
    """Run an entry point of the role in a play that a user wrote; return the output."""
    role = {"name": "devenv.lab.engine_gravity", "tasks_from": entry}
    play = {"hosts": "control_plane", "gather_facts": False, "tasks": [{"name": "x", "import_role": role}]}
    (folder / f"{entry}.yml").write_text(yaml.safe_dump([play]))
    playbook = str(folder / f"{entry}.yml")
    done = user.run("ansible-playbook", playbook, "-e", f"devenv_name={name}", *words, code=code)
    return done.stdout + done.stderr


TSH_USER = {
    "kind": "user",
    "version": "v2",
    "metadata": {"name": "admin@lab.example"},
    "spec": {"type": "admin", "password": "not-in-any-log", "roles": ["@teleadmin"]},
}


def log_in_with_tsh(user: Typed, folder: Path, name: str) -> None:
    """Log in as a user of the cluster: the right password gives a kubeconfig of its own, a wrong one a message."""
    resource = json.dumps(TSH_USER)
    inside(
        f"{name}-master-0",
        "sh",
        "-c",
        f"echo '{resource}' > /root/user.yaml && gravity resource create /root/user.yaml",
    )
    tsh = ROOT / "tests" / "doubles" / "tsh.py"
    words = {"engine_gravity_tsh": str(tsh), "engine_gravity_tsh_user": "admin@lab.example"}

    def log_in(password: str, code: int) -> str:
        secret = folder / "secret.json"
        secret.write_text(json.dumps({**words, "engine_gravity_tsh_password": password}))
        return by_role(user, folder, name, "tsh_login", "-e", f"@{secret}", code=code)

    assert "access denied" in log_in("wrong", 2)
    assert "not-in-any-log" not in log_in("not-in-any-log", 0)
    clusters = user.home / "environments" / name / "clusters" / "main"
    kubeconfig = clusters / "tsh" / "kubeconfig"
    assert kubeconfig.stat().st_mode & 0o777 == 0o600
    assert kubeconfig.read_text() != (clusters / "kubeconfig").read_text()
    listed = user.run("kubectl", f"--kubeconfig={kubeconfig}", "get", "nodes", "--output=name").stdout
    assert listed.count("node/") == 1


def application(name: str) -> str:
    return str(json.loads(gravity(name, "master-0", "status", "--output=json"))["cluster"]["application"]["version"])


@pytest.mark.nightly
def test_a_script_installs_and_the_role_manages_the_cluster(
    user: Typed, environment: str, tmp_path: Path, secretless: None
) -> None:
    """Install by a user's script, set the public address for tsh, upgrade, report, reset, install again."""
    (tmp_path / "install.sh").write_text(SCRIPT)
    digest = tarball.make(tmp_path / "lab.tar")
    settings: dict[str, Any] = {
        "tarball": str(tmp_path / "lab.tar"),
        "sha256": digest,
        "script": str(tmp_path / "install.sh"),
    }
    path = tmp_path / "mine.yml"
    path.write_text(yaml.safe_dump({"extends": "aio", "kubernetes": {"engine": "gravity", "gravity": settings}}))
    user.devenv("up", "--profile", str(path), "--name", environment)
    (address,) = addresses(user, environment)["master-0"]
    assert members(environment) == {address: ("master", "healthy")}
    assert application(environment) == "1.0.0"

    settings["public_addresses"] = [address, "lab.example"]
    path.write_text(yaml.safe_dump({"extends": "aio", "kubernetes": {"engine": "gravity", "gravity": settings}}))
    assert user.objects("up", "--profile", str(path), "--name", environment)[-1]["changed"] >= 1
    (gateway,) = json.loads(gravity(environment, "master-0", "resource", "get", "authgateway", "--format=json"))
    assert gateway["spec"]["public_addr"] == [address, "lab.example"]
    assert user.changes("up", "--name", environment, "--full") == []
    log_in_with_tsh(user, tmp_path, environment)

    later = tarball.make(tmp_path / "later.tar", version="1.1.0")
    variables = (
        f"devenv_name={environment}",
        f"engine_gravity_tarball={tmp_path / 'later.tar'}",
        f"engine_gravity_sha256={later}",
    )
    user.playbook("gravity_upgrade", *(word for variable in variables for word in ("-e", variable)))
    assert application(environment) == "1.1.0"
    assert user.changes("up", "--name", environment, "--full") == []

    by_role(user, tmp_path, environment, "report")
    report = user.home / "environments" / environment / "clusters" / "main" / "gravity-report.tar.gz"
    with tarfile.open(report) as archive:
        assert any("planet" in name for name in archive.getnames())

    by_role(user, tmp_path, environment, "reset")
    assert (
        inside(f"{environment}-master-0", "sh", "-c", "ls /usr/bin/gravity /var/lib/gravity 2>&1 || true").count(
            "No such file"
        )
        == 2
    )
    assert "[cluster_lost]" in user.devenv("up", "--name", environment, code=9).stderr
    user.devenv("up", "--name", environment, "--recreate")
    assert members(environment) == {address: ("master", "healthy")}
    assert application(environment) == "1.1.0"
    assert user.changes("up", "--name", environment, "--full") == []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"command": "check", "text": "clock drift is over the limit"}, "clock drift is over the limit"),
        ({"command": "install", "text": "kernel is too old", "code": 252}, "kernel is too old"),
    ],
)
@pytest.mark.nightly
def test_a_permanent_fault_fails_with_its_message(
    user: Typed, environment: str, tmp_path: Path, fault: dict[str, Any], message: str
) -> None:
    done = user.devenv("up", "--profile", profile(tmp_path, "aio", [fault]), "--name", environment, code=5)
    assert message in done.stderr


@pytest.mark.nightly
@pytest.mark.parametrize("installer", ["devops_gravity", "devops_k8s"])
def test_the_same_tests_by_either_installer(user: Typed, tmp_path: Path, installer: str) -> None:
    """Run the same tests on one node, three masters, a master with two workers, and two of three hosts."""
    text = (ROOT / "examples" / "test_flows.py").read_text()
    assert 'cluster_installer = "k8s"' in text
    (tmp_path / "test_flows.py").write_text(
        text.replace('cluster_installer = "k8s"', f'cluster_installer = "{installer}"')
    )
    (tmp_path / "pytest.ini").write_text((ROOT / "examples" / "pytest.ini").read_text())
    digest = tarball.make(tmp_path / "lab.tar")
    settings = (f"kubernetes.gravity.tarball={tmp_path / 'lab.tar'}", f"kubernetes.gravity.sha256={digest}")
    words = [word for setting in settings for word in ("--devenv-set", setting)] if "gravity" in installer else []
    mine = Typed(user.home, tmp_path)
    done = mine.run("pytest", "-v", "-p", "no:cacheprovider", "--color=no", *words, seconds=3600)
    assert "6 passed" in done.stdout.splitlines()[-1], shown(done)
