"""`devenv forward`: what is asked for, what is found wrong, and that kubectl is kept at work and ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client

from devenv import errors
from devenv.environments import port_forward
from devenv.environments.port_forward import Forward, PortRequest, Target


def service(name: str, namespace: str = "default", **spec: Any) -> dict[str, Any]:
    ports = [{"port": 80, "name": "http", "protocol": "TCP"}, {"port": 9090, "name": "admin"}]
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": name}, "ports": ports, **spec},
    }


class Api:
    """The two lists that are asked for."""

    def __init__(self, services: list[Any], ready: int = 1) -> None:
        self.services, self.ready = services, ready

    def get(self, path: str, query: Any = None) -> dict[str, Any]:
        if path == "/api/v1/services":
            return {"items": self.services}
        assert path.endswith("/endpointslices")
        assert query["labelSelector"].startswith("kubernetes.io/service-name=")
        endpoints = [{"conditions": {"ready": True}}] * self.ready + [{"conditions": {"ready": False}}]
        return {"items": [{"endpoints": endpoints}, {"endpoints": None}]}

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *ignored: object) -> None:
        return


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("web", Target("web")),
        ("shop/web", Target("web", "shop")),
        ("shop/web:http", Target("web", "shop", "http")),
        ("web:80", Target("web", None, "80")),
    ],
)
def test_a_service_is_named(text: str, target: Target) -> None:
    assert port_forward.parse_target(text) == target


@pytest.mark.parametrize("text", ["", "/web", "a/b/c", "Web", "web:", "-web", "svc/web/80", "web 80"])
def test_what_names_no_service(text: str) -> None:
    with pytest.raises(errors.UsageError):
        port_forward.parse_target(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", PortRequest("80")),
        ("http", PortRequest("http")),
        ("8080:80", PortRequest("80", 8080)),
        (":http", PortRequest("http", 0)),
    ],
)
def test_a_port_is_named(text: str, expected: PortRequest) -> None:
    assert port_forward.parse_port(text) == expected


@pytest.mark.parametrize("text", ["", ":", "80:", "x:80", "70000:80", "80/udp", "-1:80"])
def test_what_is_no_port(text: str) -> None:
    with pytest.raises(errors.UsageError):
        port_forward.parse_port(text)


@pytest.mark.parametrize(
    ("target", "found"),
    [
        (Target("web"), "default/web"),
        (Target("web", "shop"), "shop/web"),
        (Target("db"), "shop/db"),
    ],
)
def test_the_service_is_found(target: Target, found: str) -> None:
    api: Any = Api([service("web"), service("web", "shop"), service("db", "shop"), service("db2", "shop")])
    one = port_forward.find(api, target)
    assert f"{one['metadata']['namespace']}/{one['metadata']['name']}" == found


@pytest.mark.parametrize(
    ("target", "code", "words"),
    [
        (Target("wbe"), 11, ["default/web"]),
        (Target("web", "nowhere"), 11, ["nowhere/web", "default/web"]),
        (Target("two"), 2, ["a/two", "b/two"]),
    ],
)
def test_a_service_that_is_not_there_has_neighbours(target: Target, code: int, words: list[str]) -> None:
    api: Any = Api([service("web"), service("two", "a"), service("two", "b")])
    with pytest.raises(errors.Error) as caught:
        port_forward.find(api, target)
    assert caught.value.exit_code == code
    text = f"{caught.value} {caught.value.advice}"
    assert not [word for word in words if word not in text]


@pytest.mark.parametrize(
    ("target", "requests", "ports"),
    [
        (Target("web"), [], [80, 9090]),
        (Target("web", port="admin"), [], [9090]),
        (Target("web"), [PortRequest("http", 0), PortRequest("9090")], [80, 9090]),
    ],
)
def test_ports_are_chosen(target: Target, requests: list[PortRequest], ports: list[int]) -> None:
    assert [port for _, port, _ in port_forward.choose(service("web"), target, requests)] == ports


@pytest.mark.parametrize(
    ("spec", "target", "requests", "word"),
    [
        ({}, Target("web", port="81"), [], "80 (http), 9090 (admin)"),
        ({}, Target("web", port="80"), [PortRequest("80")], "two ports for one"),
        ({"type": "ExternalName", "externalName": "example.com"}, Target("web"), [], "example.com"),
        ({"selector": None}, Target("web"), [], "selector"),
        ({"ports": [{"port": 53, "protocol": "UDP"}]}, Target("web"), [], "no TCP port"),
        ({"ports": [{"port": 53, "protocol": "UDP"}]}, Target("web"), [PortRequest("53")], "is UDP"),
        ({"ports": None}, Target("web"), [PortRequest("53")], "none"),
    ],
)
def test_what_cannot_be_forwarded_is_said(
    spec: dict[str, Any], target: Target, requests: list[PortRequest], word: str
) -> None:
    with pytest.raises(errors.UsageError) as caught:
        port_forward.choose(service("web", **spec), target, requests)
    assert word in f"{caught.value} {caught.value.advice}"


def test_of_two_protocols_on_one_port_tcp_is_taken() -> None:
    both = service("dns", ports=[{"port": 53, "protocol": "UDP", "name": "u"}, {"port": 53, "name": "t"}])
    assert port_forward.choose(both, Target("dns"), [PortRequest("53")])[0][1:] == (53, "t")


def test_local_ports() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        used = other.getsockname()[1]
        one = service("web")
        with pytest.raises(errors.Error) as caught:
            port_forward.place(one, [(PortRequest("80", used), 80, "")], "127.0.0.1")
        assert caught.value.reason == "forward_failed"
        assert str(used) in str(caught.value)
        # Its own number is taken, low, or requested twice: any free one.
        found = port_forward.place(
            one, [(PortRequest("x"), used, ""), (PortRequest("y"), 80, ""), (PortRequest("z", 0), 80, "")], "127.0.0.1"
        )
    ports = [item.local_port for item in found]
    assert used not in ports
    assert min(ports) >= 1024
    assert len(set(ports)) == 3


@pytest.mark.parametrize(("text", "address"), [("localhost", "127.0.0.1"), ("::1", "::1"), ("0.0.0.0", "0.0.0.0")])
def test_addresses(text: str, address: str) -> None:
    assert port_forward.check_address(text) == address


@pytest.mark.parametrize("text", ["example.com", "1.2.3", "203.0.113.7", ""])
def test_addresses_of_others(text: str) -> None:
    with pytest.raises(errors.UsageError):
        port_forward.check_address(text)


def test_how_it_is_shown() -> None:
    six = Forward("shop", "web", 80, "http", "::1", 8080)
    assert six.line() == "[::1]:8080 -> shop/web:80 (http)"
    assert json.loads(json.dumps(six.document())) == {
        "type": "forward",
        "namespace": "shop",
        "service": "web",
        "port": 80,
        "port_name": "http",
        "address": "::1",
        "local_port": 8080,
        "local": "[::1]:8080",
    }


def kubectl(folder: Path, text: str) -> Path:
    """A program in place of kubectl, which notes its process id."""
    path = folder / "kubectl"
    path.write_text(
        f"#!{sys.executable}\nimport os, sys, time\nfrom pathlib import Path\n"
        f"here = Path({str(folder)!r})\n(here / 'argv').write_text(' '.join(sys.argv[1:]))\n"
        f"with open(here / 'pids', 'a') as out: out.write(f'{{os.getpid()}}\\n')\n" + textwrap.dedent(text)
    )
    path.chmod(0o755)
    return path


LISTENS = "for word in sys.argv[6:]: print('Forwarding from 127.0.0.1:1 -> 2', flush=True)\n"


def run(folder: Path, program: Path, monkeypatch: pytest.MonkeyPatch, told: Any, api: Api | None = None) -> list[str]:
    monkeypatch.setattr(client, "read_access", lambda path: path)
    monkeypatch.setattr(client, "Api", lambda access: api or Api([service("web")]))
    said: list[str] = []
    port_forward.serve(
        folder / "kubeconfig", program, Target("web"), [PortRequest("80", 0)], "127.0.0.1", told, said.append
    )
    return said


def test_kubectl_is_told_what_to_forward_and_ended_at_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Forward] = []

    def told(found: list[Forward]) -> None:
        seen.extend(found)
        raise KeyboardInterrupt

    run(tmp_path, kubectl(tmp_path, LISTENS + "time.sleep(60)\n"), monkeypatch, told)
    assert (tmp_path / "argv").read_text() == (
        f"--kubeconfig={tmp_path}/kubeconfig --namespace=default port-forward --address=127.0.0.1 service/web "
        f"{seen[0].local_port}:80"
    )
    assert not Path(f"/proc/{(tmp_path / 'pids').read_text().strip()}").exists()


def test_it_begins_again_when_the_pod_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again = """
        if len((here / 'pids').read_text().split()) == 3: os.kill(os.getppid(), 2); time.sleep(60)
        sys.exit('error: lost connection to pod')
    """
    program = kubectl(tmp_path, LISTENS + textwrap.dedent(again))
    told: list[Any] = []
    said = run(tmp_path, program, monkeypatch, told.append)
    assert len(told) == 1
    assert len(said) == 2
    assert "default/web: lost connection to pod" in said[0]


def test_a_kubectl_that_cannot_begin_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = kubectl(tmp_path, "sys.exit('error: unable to listen on any of the requested ports')\n")
    with pytest.raises(errors.Error) as caught:
        run(tmp_path, program, monkeypatch, None)
    assert (caught.value.reason, caught.value.exit_code) == ("forward_failed", 5)
    assert "unable to listen" in str(caught.value)


def test_without_a_ready_pod_it_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.Error) as caught:
        run(tmp_path, tmp_path / "none", monkeypatch, None, Api([service("web")], ready=0))
    assert "no pod of default/web is ready" in str(caught.value)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_nothing_is_left_whatever_ends_it(tmp_path: Path, number: int, code: int) -> None:
    program = kubectl(tmp_path, LISTENS + "time.sleep(60)\n")
    script = f"""
import sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from test_forward import Api, service
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client
from devenv.environments import port_forward
client.read_access = lambda path: path
client.Api = lambda access: Api([service("web")])
told = lambda found: print(found[0].local, flush=True)
port_forward.serve(Path("k"), Path({str(program)!r}), port_forward.Target("web"), [], "127.0.0.1", told, print)
"""
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent
    )
    assert child.stdout is not None
    assert child.stdout.readline().startswith("127.0.0.1:")
    child.send_signal(number)
    assert child.wait(timeout=20) == code
    pid = int((tmp_path / "pids").read_text())
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _runs(pid):
        time.sleep(0.05)
    assert not _runs(pid)
    child.stdout.close()


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z" and os.getpgid(pid) > 0
    except OSError:
        return False
