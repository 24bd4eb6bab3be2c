"""Every profile that has a name and that no other test makes: made, looked at with other programs than ours, ended.

MATRIX_ONLY is a pattern of names, to make some of them alone.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
from pathlib import Path
from typing import Any

import profile_docs
import pytest
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import catalogue
from support import ha
from support.commands import Typed
from support.seen import inside

pytestmark = [pytest.mark.cluster, pytest.mark.nightly]

MARKS = yaml.safe_load((Path(__file__).resolve().parents[2] / "docs" / "tested-profiles.yml").read_text())
ONLY = re.compile(os.environ.get("MATRIX_ONLY", ""))
CELLS = [name for name in profile_docs.of_the_matrix(catalogue.describe(), MARKS) if ONLY.search(name)]


def versions(texts: list[str]) -> list[int]:
    return [ipaddress.ip_interface(text).version for text in texts]


@pytest.mark.parametrize("name", CELLS)
def test_a_profile_becomes_the_cluster_that_it_describes(user: Typed, environment: str, name: str) -> None:
    profile = user.data("profile", "show", name)
    user.devenv("up", "--profile", name, "--name", environment)

    def listed(*words: str) -> list[dict[str, Any]]:
        return list(json.loads(user.kubectl(environment, "get", *words, "-o", "json").stdout)["items"])

    families = [{"ipv4": 4, "ipv6": 6}[family] for family in profile["families"]]
    nodes = {node["metadata"]["name"]: node for node in listed("nodes")}
    assert set(nodes) == {node["name"] for node in profile["nodes"]}
    for node in profile["nodes"]:
        actual = nodes[node["name"]]
        assert [c["status"] for c in actual["status"]["conditions"] if c["type"] == "Ready"] == ["True"]
        assert node["labels"].items() <= actual["metadata"]["labels"].items()
        closed = [taint["key"] for taint in actual["spec"].get("taints", []) if taint["effect"] == "NoSchedule"]
        assert closed == ([] if node["schedulable"] else ["node-role.kubernetes.io/control-plane"])
        internal = [row["address"] for row in actual["status"]["addresses"] if row["type"] == "InternalIP"]
        assert versions(internal) == versions(actual["spec"]["podCIDRs"]) == families
        links = json.loads(inside(f"{environment}-{node['name']}", "ip", "-json", "address", "show", "dev", "eth0"))
        on_link = {row["local"]: row for row in links[0]["addr_info"] if row["scope"] == "global"}
        assert set(internal) <= set(on_link)
        assert set(versions(list(on_link))) == set(families)
        leases = inside(
            f"{environment}-{node['name']}", "sh", "-c", "cat /var/lib/dhcp/devenv-*.leases 2>/dev/null || :"
        )
        assert all((address in leases) == (profile["addressing"] == "dhcp") for address in internal)
    for pod in listed("pods", "--all-namespaces"):
        assert versions([row["ip"] for row in pod["status"]["podIPs"]]) == families, pod["metadata"]["name"]
    masters = [node["name"] for node in profile["nodes"] if node["group"] == "control_plane"]
    assert ha.wait_for_members(environment, masters, 10) == dict.fromkeys(masters, True)
    if len(masters) > 1:
        assert versions(ha.virtual(user, environment)) == families
        assert len(ha.holders(user, environment, masters)) == 1
    server = yaml.safe_load((ha.state(user, environment) / "kubeconfig").read_text())["clusters"][0]["cluster"][
        "server"
    ]
    assert server.startswith("https://[") == (families[0] == 6)
    assert user.changes("up", "--name", environment, "--full") == []
