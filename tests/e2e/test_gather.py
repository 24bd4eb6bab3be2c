"""What devenv reports about a broken cluster, and what it gathers: correct, complete and without secrets."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from support.commands import Typed
from support.seen import inside

pytestmark = pytest.mark.cluster

PASSWORD = "Trombone-4711-quartz"
# Checks of an IPv4 cluster with several nodes, in addition to the profile's own.
NAMES = {
    "kubeconfig", "api", "api_masters", "api_endpoint", "nodes", "versions", "labels", "system_pods", "dns_service",
    "default_service_account", "ssh", "services", "etcd_members", "etcd_health", "certificates", "clocks",
    "probe_pods", "pod_to_api", "dns_ipv4", "pod_to_service_ipv4", "pod_to_pod_ipv4",
}  # fmt: skip


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile with two own checks, one of which depends on a file."""
    folder = tmp_path_factory.mktemp("profile")
    wish = folder / "wish"
    wish.touch()
    checks = [
        {"name": "answers", "command": ["kubectl", "get", "--raw", "/readyz"]},
        {"name": "wish", "command": ["test", "-e", str(wish)], "timeout": 10},
    ]
    path = folder / "mine.yml"
    path.write_text(yaml.safe_dump({"extends": "master-2pipe", "validate": {"checks": checks}}))
    return path


@pytest.fixture(scope="module")
def cluster(user: Typed, new_name: Callable[[str], str], profile: Path) -> Iterator[str]:
    name = new_name("gather")
    user.devenv("up", "--profile", str(profile), "--name", name)
    yield name
    user.devenv("down", "--name", name)


def checks(lines: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {line["name"]: line for line in lines if line["type"] == "check"}


def wrong(rows: dict[str, dict[str, Any]]) -> set[str]:
    return {name for name, row in rows.items() if not row["ok"]}


def validated(user: Typed, name: str, timeout: str, code: int = 8) -> dict[str, dict[str, Any]]:
    return checks(user.objects("validate", "--name", name, "--timeout", timeout, code=code))


def test_a_working_cluster_passes_every_check(user: Typed, cluster: str, tmp_path: Path) -> None:
    junit = tmp_path / "junit.xml"
    lines = user.objects("validate", "--name", cluster, "--junit", str(junit))
    rows = checks(lines)
    assert {*NAMES, "profile.answers", "profile.wish"} <= rows.keys()
    assert wrong(rows) == set()
    assert lines[-1]["exit"] == 0
    assert rows["profile.answers"]["seen"] == "ok"
    assert rows["etcd_members"]["seen"] == "1 of 1 members started"
    cases = ElementTree.parse(junit).getroot().findall("testcase")
    assert {case.get("name") for case in cases} == rows.keys()
    assert [case for case in cases if len(case)] == []


def test_each_fault_is_reported_and_hides_no_other(user: Typed, cluster: str, profile: Path, tmp_path: Path) -> None:
    junit = tmp_path / "junit.xml"
    wish = profile.with_name("wish")
    user.kubectl(cluster, "label", "node", "worker-0", "pipe=broken", "--overwrite")
    inside(f"{cluster}-worker-1", "systemctl", "stop", "containerd")
    wish.unlink()
    try:
        done = user.devenv("validate", "--name", cluster, "--timeout", "25s", "--junit", str(junit), code=8)
    finally:
        inside(f"{cluster}-worker-1", "systemctl", "start", "containerd")
        user.kubectl(cluster, "label", "node", "worker-0", "pipe=true", "--overwrite")
        wish.touch()
    rows = {line.split()[1]: line for line in done.stdout.splitlines() if line.startswith(("ok ", "failed "))}
    failed = {name for name, line in rows.items() if line.startswith("failed ")}
    assert rows.keys() >= NAMES
    # kubelet detects the lost runtime only after a while, and so does a Service that only two pods use.
    assert failed - {"nodes", "pod_to_service_ipv4"} == {"labels", "services", "probe_pods", "profile.wish"}
    assert "worker-0: label pipe is 'broken'" in rows["labels"]
    assert "worker-1: containerd is inactive" in rows["services"]
    assert "worker-1" in rows["probe_pods"]
    assert "test ended with 1" in rows["profile.wish"]
    assert "[validate_failed]" in done.stderr
    assert "first cause: worker-1: containerd is not running" in done.stderr
    suite = ElementTree.parse(junit).getroot()
    assert {case.get("name") for case in suite.findall("testcase") if case.find("failure") is not None} == failed


@pytest.mark.nightly
def test_lost_name_resolution_fails_only_its_checks(user: Typed, cluster: str) -> None:
    user.kubectl(cluster, "-n", "kube-system", "scale", "deployment", "coredns", "--replicas=0")
    try:
        # The pods answer until they are removed.
        user.kubectl(
            cluster, "-n", "kube-system", "wait", "--for=delete", "pod", "-l", "k8s-app=kube-dns", "--timeout=60s"
        )
        rows = validated(user, cluster, "20s")
    finally:
        user.kubectl(cluster, "-n", "kube-system", "scale", "deployment", "coredns", "--replicas=2")
    assert wrong(rows) == {"system_pods", "dns_service", "dns_ipv4"}
    assert "no CoreDNS pod" in rows["system_pods"]["seen"]
    assert "worker-0 -> a probe." in rows["dns_ipv4"]["seen"]


@pytest.mark.nightly
def test_a_broken_kubeconfig_does_not_hide_other_checks(user: Typed, cluster: str) -> None:
    path = (user.home / "environments" / cluster / "kubeconfig").resolve()
    kept = path.read_text()
    path.write_text(kept.replace("certificate-authority-data", "certificate-authority-lost"))
    try:
        rows = validated(user, cluster, "20s")
    finally:
        path.write_text(kept)
    assert "certificate-authority-data" in rows["kubeconfig"]["seen"]
    assert {"kubeconfig", "api", "nodes"} <= wrong(rows)
    assert {"ssh", "services", "etcd_members", "etcd_health", "certificates", "clocks"} <= rows.keys() - wrong(rows)


def secrets_of(user: Typed, name: str) -> set[str]:
    """Return every secret of the environment: ssh keys, the kubeconfig's key, all Secrets of the cluster."""
    state = user.home / "environments" / name
    secrets = set()
    for path in (state / "ssh").rglob("*_ed25519*"):
        if path.is_file() and path.suffix != ".pub":
            secrets.add(path.read_text().splitlines()[1])
    for entry in yaml.safe_load((state / "kubeconfig").read_text())["users"]:
        data = entry["user"]["client-key-data"]
        secrets |= {data[:60], base64.b64decode(data).decode().splitlines()[1]}
    for item in json.loads(user.kubectl(name, "get", "secrets", "-A", "-o", "json").stdout)["items"]:
        for key, value in (item.get("data") or {}).items():
            if key in ("token-secret", "password") or "key" in key:
                secrets |= {value, base64.b64decode(value).decode(errors="replace")}
    for key in ("ca.key", "sa.key", "etcd/ca.key", "apiserver.key"):
        secrets.add(inside(f"{name}-master-0", "cat", f"/etc/kubernetes/pki/{key}").splitlines()[1])
    return secrets


def opened(path: Path) -> dict[str, str]:
    with tarfile.open(path) as tar:
        return {m.name.partition("/")[2]: _text(tar, m) for m in tar.getmembers() if m.isfile()}


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    return (tar.extractfile(member) or io.BytesIO()).read().decode(errors="replace")


def test_everything_is_gathered_except_secrets(user: Typed, cluster: str, tmp_path: Path) -> None:
    user.kubectl(cluster, "create", "secret", "generic", "db", f"--from-literal=password={PASSWORD}")
    # An application logs its own password.
    inside(f"{cluster}-worker-0", "sh", "-c", f"echo 'connect as app with {PASSWORD}' | systemd-cat -t kubelet -p info")
    inside(
        f"{cluster}-worker-0", "sh", "-c", f"mkdir -p /var/log/devenv; echo 'got {PASSWORD}' > /var/log/devenv/app.log"
    )
    secrets = secrets_of(user, cluster)
    assert PASSWORD in secrets
    assert len(secrets) >= 10

    archive = tmp_path / "all.tar.gz"
    done = user.devenv("gather", "--name", cluster, "--output", str(archive))
    assert done.stdout.strip() == str(archive)
    assert archive.stat().st_mode & 0o777 == 0o600
    files = opened(archive)
    for node in ("master-0", "worker-0", "worker-1"):
        for path in ("journal/kubelet.txt", "journal/containerd.txt", "network/addresses.txt", "network/nft.txt"):
            assert len(files[f"nodes/{node}/{path}"]) > 100, path
    assert json.loads(files["nodes/master-0/etcd/health.json"])[0]["health"] is True
    assert any("pods/kube-system_kube-apiserver" in path for path in files)
    assert "kind: PodList" in files["clusters/main/resources/core/pods.yaml"]
    assert "name: db" in files["clusters/main/resources/core/secrets.yaml"]
    assert files["clusters/main/events.txt"].count("\n") > 5
    assert any(path.endswith("/log.txt") and path.startswith("runs/") for path in files)
    assert cluster in files["host/podman/containers.txt"]
    parts = json.loads(files["index.json"])["parts"]
    assert {part["name"] for part in parts if part["trouble"]} == set()

    # The search works: it finds the secrets in their own files, and would in an archive without redaction.
    assert PASSWORD in inside(f"{cluster}-worker-0", "cat", "/var/log/devenv/app.log")
    assert "got [secret redacted]" in files["nodes/worker-0/files/var/log/devenv/app.log"]
    leaked = [(path, secret[:12]) for path, text in files.items() for secret in secrets if secret in text]
    assert leaked == []
    assert [path for path, text in files.items() if "client-key-data" in text or "PRIVATE KEY" in text] == []


def test_a_dead_node_is_one_line_of_the_index(user: Typed, cluster: str, tmp_path: Path) -> None:
    container = f"{cluster}-worker-1"
    subprocess.run(["podman", "pause", container], check=True, capture_output=True)
    try:
        lines = user.objects("gather", "--name", cluster, "--output", f"{tmp_path}/", "--timeout", "30s")
    finally:
        subprocess.run(["podman", "unpause", container], check=True, capture_output=True)
    (gathered,) = (line for line in lines if line["type"] == "gathered")
    troubles = {part["name"]: part["trouble"] for part in gathered["parts"] if part["trouble"]}
    assert troubles.keys() == {"nodes/worker-1"}
    assert lines[-1]["exit"] == 0
    files = opened(Path(gathered["path"]))
    assert "nodes/worker-1: 0 files, 0 bytes" in files["index.txt"]
    assert "nodes/worker-0/journal/kubelet.txt" in files


def test_a_failed_up_gathers_and_keeps_its_exit_code(user: Typed, cluster: str, tmp_path: Path) -> None:
    user.kubectl(cluster, "-n", "kube-system", "scale", "deployment", "coredns", "--replicas=0")
    command = ("up", "--name", cluster, "-e", "validate_timeout=10", "--artifacts", str(tmp_path))
    try:
        failed = user.devenv(*command, code=8)
        plain = user.devenv(*command, "--no-gather", code=8)
    finally:
        user.kubectl(cluster, "-n", "kube-system", "scale", "deployment", "coredns", "--replicas=2")
    line = next(line for line in failed.stderr.splitlines() if line.startswith("gathered: "))
    archive = Path(line.partition(": ")[2])
    assert archive.parent.parent == user.home / "environments" / cluster / "runs"
    assert "CoreDNS" in next(line for line in failed.stderr.splitlines() if line.startswith("error: "))
    assert "nodes/master-0/journal/kubelet.txt" in opened(archive)
    copies = list(tmp_path.glob("*/gather.tar.gz"))
    assert [copy.read_bytes() for copy in copies] == [archive.read_bytes()]
    assert "gathered" not in plain.stderr


@pytest.mark.nightly
def test_a_failed_plain_ansible_run_gathers(user: Typed, cluster: str) -> None:
    user.kubectl(cluster, "-n", "kube-system", "scale", "deployment", "coredns", "--replicas=0")
    try:
        failed = user.playbook("cluster", "-e", f"devenv_name={cluster}", "-e", "devenv_timeout=50", code=2)
    finally:
        user.kubectl(cluster, "-n", "kube-system", "scale", "deployment", "coredns", "--replicas=2")
    line = next(line for line in failed.stdout.splitlines() if line.startswith("gathered: "))
    archive = Path(line.partition(": ")[2])
    assert archive.parent.parent == user.home / "environments" / cluster / "runs"
    assert "nodes/master-0/journal/kubelet.txt" in opened(archive)


def test_gather_refuses_invalid_outputs_and_names(user: Typed, cluster: str, tmp_path: Path) -> None:
    user.devenv("gather", "--name", cluster, "--output", str(tmp_path / "x.zip"), code=2)
    refused = user.devenv("gather", "--name", cluster, "--output", "/proc/none/x.tar.gz", code=20)
    assert "Traceback" not in refused.stderr
    user.devenv("gather", "--name", "there-is-none", code=11)
