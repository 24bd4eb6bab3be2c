"""Several environments at the same time, several nodes, both families, without the devenv command."""

from __future__ import annotations

import ipaddress
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.commands import Typed, finish_all
from support.seen import inside, untouched

pytestmark = pytest.mark.cluster

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture(scope="module")
def pair(user: Typed, new_name: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A dual-stack master with two workers by plain Ansible and a single node by the command, created at the same time
    from two homes.
    """
    other = Typed(tmp_path_factory.mktemp("other"))
    pipe, sno = new_name("pipe"), new_name("sno")
    first = user.start(
        "ansible-playbook", str(CONFIGS.parent / "playbooks/cluster.yml"),
        "-e", "profile=master-2pipe-dualstack-static", "-e", f"devenv_name={pipe}",
    )  # fmt: skip
    second = other.start("devenv", "up", "--profile", "sno-dualstack-static", "--name", sno)
    finish_all((first, second), seconds=600)
    yield pipe, other, sno
    other.devenv("down", "--name", sno)
    mine = tmp_path_factory.mktemp("kube") / "config"
    user.devenv("kubeconfig", "--name", pipe, "--merge", env={"KUBECONFIG": str(mine)})
    assert f"devenv-{pipe}" in mine.read_text()
    user.playbook("destroy", "-e", f"devenv_name={pipe}")
    assert not mine.exists()  # as before the merge


def nodes_of(user: Typed, name: str) -> dict[str, Any]:
    items = json.loads(user.kubectl(name, "get", "nodes", "-o", "json").stdout)["items"]
    return {node["metadata"]["name"]: node for node in items}


def test_three_nodes_with_their_labels(user: Typed, pair: Any) -> None:
    nodes = nodes_of(user, pair[0])
    assert sorted(nodes) == ["master-0", "worker-0", "worker-1"]
    assert [nodes[name]["metadata"]["labels"].get("pipe") for name in sorted(nodes)] == [None, "true", "true"]
    assert all("node-role.kubernetes.io/worker" in nodes[n]["metadata"]["labels"] for n in ("worker-0", "worker-1"))
    assert {
        condition["status"]
        for node in nodes.values()
        for condition in node["status"]["conditions"]
        if condition["type"] == "Ready"
    } == {"True"}


def test_pods_and_services_have_both_families_ipv4_first(user: Typed, pair: Any) -> None:
    pods = json.loads(
        user.kubectl(pair[0], "-n", "kube-system", "get", "pods", "-l", "k8s-app=kube-dns", "-o", "json").stdout
    )
    for pod in pods["items"]:
        families = [ipaddress.ip_address(row["ip"]).version for row in pod["status"]["podIPs"]]
        assert families == [4, 6]
    for node in nodes_of(user, pair[0]).values():
        assert [ipaddress.ip_network(cidr).version for cidr in node["spec"]["podCIDRs"]] == [4, 6]


def test_pods_on_different_nodes_reach_each_other(user: Typed, pair: Any) -> None:
    """Independent of devenv's own checks: curl in one pod of the probe image, an HTTP server in the other."""
    name = pair[0]
    image = f"devenv.lab/probe:{yaml.safe_load((CONFIGS / 'versions.yml').read_text())['probe']}"
    for pod, node in (("server", "worker-0"), ("client", "worker-1")):
        user.kubectl(
            name, "run", pod, f"--image={image}", "--image-pull-policy=Never", "--port=8080",
            f'--overrides={{"spec": {{"nodeName": "{node}"}}}}',
        )  # fmt: skip
    user.kubectl(name, "wait", "--for=condition=Ready", "pod/server", "pod/client", "--timeout=60s")
    pod = json.loads(user.kubectl(name, "get", "pod", "server", "-o", "json").stdout)
    for row in pod["status"]["podIPs"]:
        address = f"[{row['ip']}]" if ":" in row["ip"] else row["ip"]
        done = user.kubectl(
            name, "exec", "client", "--", "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "10",
            f"http://{address}:8080/",
        )  # fmt: skip
        assert done.stdout in ("200", "403", "404")
    user.kubectl(name, "delete", "pod", "server", "client", "--grace-period=1", "--wait=false")


def test_two_environments_do_not_affect_each_other(user: Typed, pair: Any) -> None:
    pipe, other, sno = pair
    assert sorted(nodes_of(other, sno)) == ["master-0"]
    networks = [
        json.loads((home / "environments" / name / "inventory.yml").read_text() and json.dumps(_network(home, name)))
        for home, name in ((user.home, pipe), (other.home, sno))
    ]
    subnets = [ipaddress.ip_network(net) for network in networks for net in network["subnets"].values()]
    assert len(subnets) == 4
    assert not any(a.overlaps(b) for a in subnets for b in subnets if a is not b and a.version == b.version)
    labels = nodes_of(other, sno)["master-0"]["metadata"]["labels"]
    assert not [label for label in labels if "/" not in label]
    taken = other.devenv("up", "--profile", "sno", "--name", pipe, code=9)
    assert str(user.home) in taken.stderr


def _network(home: Path, name: str) -> Any:
    return yaml.safe_load((home / "environments" / name / "network.yml").read_text())


@pytest.mark.nightly
def test_a_lost_worker_is_recreated(user: Typed, pair: Any) -> None:
    pipe = pair[0]
    subprocess.run(["podman", "rm", "--force", "--time", "0", f"{pipe}-worker-1"], check=True, capture_output=True)
    masters = untouched(user, pipe, ["master-0"])["containers"]
    user.devenv("up", "--profile", "master-2pipe-dualstack-static", "--name", pipe)
    assert untouched(user, pipe, ["master-0"])["containers"] == masters
    assert sorted(nodes_of(user, pipe)) == ["master-0", "worker-0", "worker-1"]
    assert inside(f"{pipe}-worker-1", "hostname").strip() == "worker-1"
    assert user.changes("up", "--name", pipe, "--full") == []


def test_down_works_from_labels_when_the_state_folder_is_lost(pair: Any, new_name: Callable[[str], str]) -> None:
    _, other, sno = pair
    folder = other.home / "environments" / sno
    folder.rename(other.home / "lost")
    listed = {row["name"]: row["state"] for row in other.data("list")}
    assert listed[sno] == "orphan"
    other.devenv("down", "--name", sno)
    remaining = subprocess.run(
        ["podman", "ps", "--all", "--quiet", "--filter", f"label=devenv.environment={sno}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert remaining.stdout == ""


def test_nodes_are_listed_without_the_command(user: Typed, pair: Any) -> None:
    shown = user.playbook("node_list", "-e", f"devenv_name={pair[0]}").stdout
    rows = json.JSONDecoder().raw_decode(shown.rpartition("[localhost] => ")[2])[0]["__node_list.nodes"]
    assert [(row["name"], row["container"], row["kubernetes"]) for row in rows] == [
        (name, "running", "Ready") for name in ("master-0", "worker-0", "worker-1")
    ]


@pytest.mark.nightly
def test_a_node_leaves_and_joins_without_the_command(user: Typed, pair: Any) -> None:
    pipe = pair[0]
    masters = untouched(user, pipe, ["master-0"])["containers"]
    user.playbook("node_remove", "-e", f"devenv_name={pipe}", "-e", "devenv_remove=worker-1")
    assert sorted(nodes_of(user, pipe)) == ["master-0", "worker-0"]
    keys = json.dumps({"devenv_add_keys": {"labels.pipe": "true"}})
    done = user.playbook("node_add", "-e", f"devenv_name={pipe}", "-e", keys)
    assert "3 nodes" in done.stdout
    assert sorted(nodes_of(user, pipe)) == ["master-0", "worker-0", "worker-1"]
    assert nodes_of(user, pipe)["worker-1"]["metadata"]["labels"]["pipe"] == "true"
    assert untouched(user, pipe, ["master-0"])["containers"] == masters
    assert user.changes("up", "--name", pipe, "--full") == []
