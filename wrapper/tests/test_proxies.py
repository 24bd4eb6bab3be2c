"""A proxy sees no request for a cluster: clients of the package kubernetes, forward, tests with hardware."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client
from kubernetes.stream import stream
from support.proxies import recorder

from devenv.environments import api, port_forward
from devenv.testing import proxies
from devenv.testing.objects import BaseConfig, Cluster, Host, Named


def kubeconfig(folder: Path, server: str) -> Path:
    document: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "x", "cluster": {"server": server, "insecure-skip-tls-verify": True}}],
        "users": [{"name": "x", "user": {"token": "x"}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "current-context": "x",
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_client_of_the_package_kubernetes_uses_no_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    with recorder() as proxy, recorder(address) as server:
        for variable, value in proxy.variables.items():
            monkeypatch.setenv(variable, value)
        host = f"[{address}]" if ":" in address else address
        path = kubeconfig(tmp_path, f"https://{host}:{server.port}")
        with api.client_of(path) as cluster:
            core = client.CoreV1Api(cluster)
            with pytest.raises(Exception, match=r"SSL|closed|reset|EOF|Max retries"):
                core.list_node(_request_timeout=5)
            requests = len(server.lines)
            assert requests > 0
            # A websocket, for which the library consults the environment again.
            with pytest.raises(Exception, match=r"SSL|closed|reset|EOF|Handshake"):
                stream(core.connect_get_namespaced_pod_exec, "p", "default", command=["true"], stdout=True)
            assert len(server.lines) > requests
        assert proxy.lines == []


def test_kubectl_of_forward_gets_the_variables(tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    argv = [sys.executable, "-c", f"import os; open({str(shown)!r}, 'w').write(os.environ['NO_PROXY'])"]
    with port_forward._child(argv, {"NO_PROXY": "10.0.0.1"}) as child:
        child.wait(30)
    assert shown.read_text() == "10.0.0.1"


@pytest.fixture
def machines(tmp_path: Path) -> BaseConfig:
    host = Host("web", "node-7", ("192.0.2.7", "2001:db8::7"))
    cluster = Cluster("c", "", Named({"web": host}), ("web",), kubeconfig(tmp_path, "https://api.example.org:6443"))
    absent = Cluster("d", "", Named({}), (), tmp_path / "absent")
    return BaseConfig("", [host], [cluster, absent])


def test_machines_of_a_test_bypass_the_proxy_during_the_test(
    machines: BaseConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "own.example.org")
    monkeypatch.delenv("no_proxy", raising=False)
    with proxies.bypassed(machines):
        for variable in ("NO_PROXY", "no_proxy"):
            items = os.environ[variable].split(",")
            assert items[0] == "own.example.org"
            assert {"web", "node-7", "192.0.2.7", "2001:db8::7", "[2001:db8::7]", "api.example.org"} <= set(items)
    assert os.environ["NO_PROXY"] == "own.example.org"
    assert "no_proxy" not in os.environ


def test_hosts_of_the_environment_bypass_the_proxy(
    machines: BaseConfig, made: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made("lab", "ha")
    machines.environment_name = "lab"
    assert {"10.213.9.0/24", "lab.devenv.internal", "worker-1", "web"} <= set(proxies.hosts(machines))
