"""What a node offers to pods, and the API from elsewhere."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.host import limits, publish
from support import ha
from support.commands import Typed
from support.seen import inside

pytestmark = pytest.mark.cluster


def run(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120).stdout


def test_allocatable_is_the_size_in_the_profile(user: Typed, trial: str) -> None:
    (node,) = json.loads(user.kubectl(trial, "get", "nodes", "-o", "json").stdout)["items"]
    allocatable = node["status"]["allocatable"]
    assert int(allocatable["cpu"]) == min(2, os.cpu_count() or 1)
    (number, unit), *_ = re.findall(r"^([0-9]+)(Gi|Mi|Ki|)$", allocatable["memory"])
    assert int(number) << {"Gi": 30, "Mi": 20, "Ki": 10, "": 0}[unit] == 2 << 30


def test_containers_can_open_as_many_files_as_the_host_allows(trial: str) -> None:
    node = f"{trial}-master-0"
    rows = inside(node, "sh", "-c", "cat /proc/$(pidof kube-apiserver)/limits").splitlines()
    (row,) = [row.split() for row in rows if row.startswith("Max open files")]
    assert row[3:5] == [str(limits.open_files())] * 2


def test_the_api_answers_a_container_on_another_network(user: Typed, trial: str, tmp_path: Path) -> None:
    forwards = Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() == "1"
    key = "clusters.main.endpoint.published_port"
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
    done = user.devenv("up", "--name", trial, "--set", f"{key}={port}", code=0 if forwards else 9)
    if not forwards:
        assert "net.ipv4.ip_forward: 0, needed: 1 to publish the API" in done.stderr
        return
    try:
        ca = ha.ca_file(user, trial, tmp_path)
        address = f"https://host.containers.internal:{port}/readyz"
        node = json.loads(run("podman", "inspect", f"{trial}-master-0"))[0]["ImageName"]
        limits_of_it = ("--runtime=runc", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024")
        options = (f"--volume={ca}:/ca.pem:ro", "--network=podman", "--entrypoint=curl")
        argv = ["podman", "run", "--rm", *limits_of_it, *options, node]
        assert run(*argv, "--silent", "--show-error", "--max-time", "30", "--cacert", "/ca.pem", address) == "ok"
    finally:
        user.devenv("up", "--name", trial, "--set", f"{key}=null")
    assert port not in publish.others("another")
