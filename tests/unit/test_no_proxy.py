"""The hosts that no proxy may see, in the forms that programs accept."""

from __future__ import annotations

import ipaddress
import urllib.request
from pathlib import Path

import pytest
import requests
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import no_proxy, state
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.clusters import Cluster
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from ansible_collections.devenv.lab.plugins.plugin_utils.validation import profile_checks
from support.proxies import SUBNETS, dualstack_environment
from websocket import _url


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = dualstack_environment(tmp_path / "lab")
    path = folder / "clusters" / "main" / "kubeconfig"
    path.parent.mkdir(parents=True)
    path.write_text("clusters:\n- cluster:\n    server: https://api.example.org:6443\n")
    return folder


def urls(folder: Path) -> list[str]:
    """Return a URL of each host of the environment that a program on this host can reach by name or address."""
    network = state.read_network(folder)
    assert network is not None
    claimed = [address for node in network["nodes"].values() for address in node["addresses"].values()]
    virtual = list(network["clusters"]["main"]["virtual"].values())
    assert len(claimed) == 2 * len(network["nodes"])
    assert len(virtual) == 2
    bracketed = [f"[{address}]" if ":" in address else address for address in [*claimed, *virtual, "127.0.0.1", "::1"]]
    names = ["localhost", "master-0", "worker-1", "main.lab.devenv.internal", "api.example.org"]
    return [f"https://{host}:6443/api" for host in [*bracketed, *names]]


def test_python_bypasses_a_proxy_for_every_host(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    values = no_proxy.variables(no_proxy.of_environment(folder), {})
    for variable, value in values.items():
        monkeypatch.setenv(variable, value)
    for url in urls(folder):
        host = url.removeprefix("https://").removesuffix("/api")
        assert urllib.request.proxy_bypass(host), url
        assert requests.utils.get_environ_proxies(url) == {}, url
        bare = host.removesuffix(":6443").strip("[]")
        assert _url.get_proxy_info(bare, is_secure=True)[0] is None, url
    assert not urllib.request.proxy_bypass("example.net:443")
    assert requests.utils.get_environ_proxies("https://example.net/") != {}


def test_networks_are_listed_for_programs_that_match_them(folder: Path) -> None:
    items = no_proxy.of_environment(folder)
    listed = [ipaddress.ip_network(item) for item in items if "/" in item]
    profile = state.read_profile(folder)
    assert profile is not None
    for ranges in (SUBNETS, profile["network"]["pods"], profile["network"]["services"]):
        assert set(map(ipaddress.ip_network, ranges.values())) <= set(listed)
    assert {".svc", ".cluster.local"} <= set(items)


def test_existing_hosts_are_listed_with_their_addresses() -> None:
    host = {"addresses": ["192.0.2.10", "2001:db8::10"]}
    profile = resolve("sno-dualstack-static", overrides={"provider": "existing", "nodes.master-0.host": host})
    assert {"192.0.2.10", "2001:db8::10", "[2001:db8::10]"} <= set(no_proxy.hosts(profile, None, "lab"))


@pytest.mark.parametrize(
    ("env", "first"),
    [
        ({}, ["localhost"]),
        ({"NO_PROXY": "a.example, .b.example"}, ["a.example", ".b.example", "localhost"]),
        ({"no_proxy": "a.example"}, ["a.example", "localhost"]),
        ({"NO_PROXY": "a", "no_proxy": "b,a"}, ["a", "b", "localhost"]),
        ({"NO_PROXY": "", "no_proxy": " , "}, ["localhost"]),
        ({"NO_PROXY": "*"}, ["*"]),
        ({"NO_PROXY": "a", "no_proxy": "*"}, ["*"]),
    ],
)
def test_the_users_values_stay_first(env: dict[str, str], first: list[str]) -> None:
    values = no_proxy.variables(["10.0.0.0/24"], env)
    assert set(values) == {"NO_PROXY", "no_proxy"}
    assert values["NO_PROXY"] == values["no_proxy"]
    items = values["NO_PROXY"].split(",")
    assert items[: len(first)] == first
    assert ("10.0.0.0/24" in items) == (first != ["*"])
    assert no_proxy.variables(["10.0.0.0/24"], values) == values


def test_the_profiles_own_checks_bypass_the_proxy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "own.example.org")
    cluster = Cluster("main", folder / "clusters" / "main" / "kubeconfig", "kubeadm", "1.36.3", ("ipv4",), ())
    items = profile_checks._environment(cluster, "lab")["no_proxy"].split(",")
    assert items[0] == "own.example.org"
    assert {"master-0", "lab.devenv.internal"} <= set(items)
