"""What roles describe for a node, rendered by Ansible itself from the keys of a profile."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.commands import ROOT, program

PASSWORD = "s3cret-of-the-registry"
GIB = 1 << 30
STATUS = {
    "capacity": {"cpus": 8, "memory": 24 * GIB},
    "capabilities": {"sys_resource": False},
    "cgroup": {"driver": "cgroupfs", "version": 1},
    "kubernetes": "absent",
}


def described(tmp_path: Path, role: str, **variables: Any) -> tuple[dict[str, dict[str, Any]], str]:
    """Return the files that ``role`` describes, by path, and everything that Ansible printed."""
    copy = {"content": "{{ devenv_node_parts | to_json }}", "dest": str(tmp_path / "parts.json"), "mode": "0600"}
    tasks = [
        {"ansible.builtin.import_role": {"name": f"devenv.lab.{role}", "tasks_from": "describe"}},
        {"ansible.builtin.copy": copy, "no_log": True},
    ]
    play = {"hosts": "localhost", "gather_facts": False, "tasks": tasks}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([{**play, "vars": {"devenv_node_status": STATUS, **variables}}]))
    argv = [program("ansible-playbook"), "-vvv", "-i", "localhost,", "-c", "local", str(tmp_path / "play.yml")]
    argv += ["-e", f"ansible_python_interpreter={sys.executable}"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    parts = json.loads((tmp_path / "parts.json").read_text())
    return {file["path"]: file for file in parts[role]["files"]}, done.stdout + done.stderr


@pytest.fixture
def access(tmp_path: Path) -> Mapping[str, str]:
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\nMII=\n-----END CERTIFICATE-----\n")
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    return {"ca": str(tmp_path / "ca.pem"), "user": "ci", "password_file": str(tmp_path / "password")}


def test_registries_with_a_ca_and_a_password(tmp_path: Path, access: Mapping[str, str]) -> None:
    files, printed = described(
        tmp_path,
        "container_runtime",
        container_runtime_mirrors={"docker.io": ["https://mirror.lab:5000/v2/hub", "http://other.lab"]},
        container_runtime_registries={"mirror.lab:5000": dict(access), "plain.lab": {"ca": access["ca"]}},
    )
    folder = "/etc/containerd/certs.d"
    hub = files[f"{folder}/docker.io/hosts.toml"]
    assert hub["mode"] == "0600"
    hosts = tomllib.loads(hub["secret_content"])["host"]
    assert list(hosts) == ["https://mirror.lab:5000/v2/hub", "http://other.lab"]
    first, second = hosts.values()
    assert first["ca"] == f"{folder}/mirror.lab:5000/ca.crt"
    token = base64.b64encode(f"ci:{PASSWORD}".encode()).decode()
    assert first["header"] == {"Authorization": f"Basic {token}"}
    assert second == {"capabilities": ["pull", "resolve"]}
    direct = tomllib.loads(files[f"{folder}/plain.lab/hosts.toml"]["content"])
    assert direct == {"server": "https://plain.lab", "ca": f"{folder}/plain.lab/ca.crt"}
    assert files[f"{folder}/plain.lab/ca.crt"]["content"] == Path(access["ca"]).read_text()
    users = files["/var/lib/kubelet/config.json"]
    assert (users["mode"], json.loads(users["secret_content"])) == (
        "0600",
        {"auths": {"mirror.lab:5000": {"auth": token}}},
    )
    assert PASSWORD not in printed
    assert token not in printed


def test_no_registry_leaves_no_file(tmp_path: Path) -> None:
    files, _ = described(tmp_path, "container_runtime")
    assert sorted(files) == [
        "/etc/containerd/config.toml",
        "/etc/crictl.yaml",
        "/etc/systemd/system/containerd.service",
    ]


@pytest.mark.parametrize(
    ("cpus", "memory", "reserved"),
    [
        (2, 4 * GIB, {"cpu": "6", "memory": str(20 * GIB - 100 * 2**20)}),
        # A host of the same size, or a smaller one.
        (8, 24 * GIB, {"cpu": "0", "memory": "0"}),
        (16, 32 * GIB, {"cpu": "0", "memory": "0"}),
        (0, 0, {}),
    ],
)
def test_kubelet_reserves_what_the_node_has_not(
    tmp_path: Path, cpus: int, memory: int, reserved: dict[str, str]
) -> None:
    files, _ = described(tmp_path, "node_prepare", node_prepare_cpus=cpus, node_prepare_memory=memory)
    size = yaml.safe_load(files["/etc/devenv/kubelet.d/10-size.conf"]["content"])
    assert (size["kind"], size["systemReserved"]) == ("KubeletConfiguration", reserved)
    assert "--config-dir=/etc/devenv/kubelet.d" in files["/etc/systemd/system/kubelet.service"]["content"]
