"""The programs of the bundle, and curl, obey the list of hosts that no proxy may see."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import no_proxy, state
from support.commands import program
from support.proxies import dualstack_environment

pytestmark = pytest.mark.cluster

# Runs in a network namespace that has the address of a node. Prints which program's request the proxy saw.
REQUESTS = """
import json, os, subprocess, sys
from support.proxies import recorder
address, kubectl, values = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
for words in (["link", "set", "lo", "up"], ["address", "add", f"{address}/64", "dev", "lo", "nodad"]):
    subprocess.run(["ip", *words], check=True)
with recorder() as proxy, recorder(address) as server:
    url = f"https://[{address}]:{server.port}"
    get = [kubectl, "--server", url, "--token=x", "--insecure-skip-tls-verify", "get", "--raw=/livez"]
    for argv in (get, ["curl", "-sk", "--max-time", "5", url]):
        proxy.lines.clear()
        server.lines.clear()
        subprocess.run(argv, env={**os.environ, **proxy.variables, **values}, capture_output=True)
        print(len(server.lines) > 0, len(proxy.lines))
"""


@pytest.mark.parametrize("listed", [True, False])
def test_kubectl_and_curl_bypass_a_proxy_with_ipv6(tmp_path: Path, listed: bool) -> None:
    folder = dualstack_environment(tmp_path / "lab")
    network = state.read_network(folder)
    assert network is not None
    address = network["nodes"]["master-0"]["addresses"]["ipv6"]
    values = no_proxy.variables(no_proxy.of_environment(folder), {}) if listed else {}
    argv = [sys.executable, "-c", REQUESTS, address, program("kubectl"), json.dumps(values)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "KUBECONFIG": "", "HOME": str(tmp_path)}
    done = subprocess.run(["unshare", "--net", *argv], env=env, capture_output=True, text=True, timeout=120)
    reached, seen = zip(*(line.split() for line in done.stdout.splitlines()), strict=True)
    # Without the list, the proxy sees both, so the test can fail.
    assert reached == (str(listed), str(listed)), done.stderr
    assert [count == "0" for count in seen] == [listed, listed]
