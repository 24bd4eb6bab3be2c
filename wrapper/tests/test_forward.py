"""`devenv forward`: parsing, refusals, and the supervision of kubectl."""

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
    """The two lists that forwarding requests."""

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
def test_a_target_is_parsed(text: str, target: Target) -> None:
    assert port_forward.parse_target(text) == target


@pytest.mark.parametrize("text", ["", "/web", "a/b/c", "Web", "web:", "-web", "svc/web/80", "web 80"])
def test_an_invalid_target_is_refused(text: str) -> None:
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
def test_a_port_is_parsed(text: str, expected: PortRequest) -> None:
    assert port_forward.parse_port(text) == expected


@pytest.mark.parametrize("text", ["", ":", "80:", "x:80", "70000:80", "80/udp", "-1:80"])
def test_an_invalid_port_is_refused(text: str) -> None:
    with pytest.raises(errors.UsageError):
        port_forward.parse_port(text)


@pytest.mark.parametrize(
    ("target", "full_name"),
    [
        (Target("web"), "default/web"),
        (Target("web", "shop"), "shop/web"),
        (Target("db"), "shop/db"),
    ],
)
def test_a_service_is_found_by_name_and_namespace(target: Target, full_name: str) -> None:
    api: Any = Api([service("web"), service("web", "shop"), service("db", "shop"), service("db2", "shop")])
    metadata = port_forward.find(api, target)["metadata"]
    assert f"{metadata['namespace']}/{metadata['name']}" == full_name


@pytest.mark.parametrize(
    ("target", "code", "words"),
    [
        (Target("wbe"), 11, ["default/web"]),
        (Target("web", "nowhere"), 11, ["nowhere/web", "default/web"]),
        (Target("two"), 2, ["a/two", "b/two"]),
    ],
)
def test_an_unknown_or_ambiguous_service_is_refused_with_candidates(
    target: Target, code: int, words: list[str]
) -> None:
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
def test_requested_ports_are_chosen_or_all(target: Target, requests: list[PortRequest], ports: list[int]) -> None:
    assert [port for _, port, _ in port_forward.choose(service("web"), target, requests)] == ports


@pytest.mark.parametrize(
    ("spec", "target", "requests", "word"),
    [
        ({}, Target("web", port="81"), [], "80 (http), 9090 (admin)"),
        ({}, Target("web", port="80"), [PortRequest("80")], "two ports were given for one"),
        ({"type": "ExternalName", "externalName": "example.com"}, Target("web"), [], "example.com"),
        ({"selector": None}, Target("web"), [], "selector"),
        ({"ports": [{"port": 53, "protocol": "UDP"}]}, Target("web"), [], "no TCP port"),
        ({"ports": [{"port": 53, "protocol": "UDP"}]}, Target("web"), [PortRequest("53")], "is UDP"),
        ({"ports": None}, Target("web"), [PortRequest("53")], "none"),
    ],
)
def test_what_cannot_be_forwarded_is_refused(
    spec: dict[str, Any], target: Target, requests: list[PortRequest], word: str
) -> None:
    with pytest.raises(errors.UsageError) as caught:
        port_forward.choose(service("web", **spec), target, requests)
    assert word in f"{caught.value} {caught.value.advice}"


def test_tcp_is_chosen_if_a_port_has_two_protocols() -> None:
    both = service("dns", ports=[{"port": 53, "protocol": "UDP", "name": "u"}, {"port": 53, "name": "t"}])
    assert port_forward.choose(both, Target("dns"), [PortRequest("53")])[0][1:] == (53, "t")


def test_a_used_local_port_is_refused_or_replaced() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        used = other.getsockname()[1]
        web = service("web")
        with pytest.raises(errors.Error) as caught:
            port_forward.place(web, [(PortRequest("80", used), 80, "")], "127.0.0.1")
        assert caught.value.reason == "forward_failed"
        assert str(used) in str(caught.value)
        # The Service's number is in use, privileged, or requested twice: any free port.
        forwards = port_forward.place(
            web, [(PortRequest("x"), used, ""), (PortRequest("y"), 80, ""), (PortRequest("z", 0), 80, "")], "127.0.0.1"
        )
    ports = [item.local_port for item in forwards]
    assert used not in ports
    assert min(ports) >= 1024
    assert len(set(ports)) == 3


@pytest.mark.parametrize(("text", "address"), [("localhost", "127.0.0.1"), ("::1", "::1"), ("0.0.0.0", "0.0.0.0")])
def test_a_local_address_is_accepted(text: str, address: str) -> None:
    assert port_forward.check_address(text) == address


@pytest.mark.parametrize("text", ["example.com", "1.2.3", "203.0.113.7", ""])
def test_an_address_of_another_host_is_refused(text: str) -> None:
    with pytest.raises(errors.UsageError):
        port_forward.check_address(text)


def test_a_forward_is_shown_as_text_and_json() -> None:
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
    """Write a program that replaces kubectl and records its arguments and process id."""
    path = folder / "kubectl"
    path.write_text(
        f"#!{sys.executable}\nimport os, sys, time\nfrom pathlib import Path\n"
        f"here = Path({str(folder)!r})\n(here / 'argv').write_text(' '.join(sys.argv[1:]))\n"
        f"with open(here / 'pids', 'a') as out: out.write(f'{{os.getpid()}}\\n')\n" + textwrap.dedent(text)
    )
    path.chmod(0o755)
    return path


LISTENS = "for word in sys.argv[6:]: print('Forwarding from 127.0.0.1:1 -> 2', flush=True)\n"


def run(folder: Path, program: Path, monkeypatch: pytest.MonkeyPatch, show: Any, api: Api | None = None) -> list[str]:
    monkeypatch.setattr(client, "read_access", lambda path: path)
    monkeypatch.setattr(client, "Api", lambda access: api or Api([service("web")]))
    messages: list[str] = []
    port_forward.serve(
        folder / "kubeconfig", program, Target("web"), [PortRequest("80", 0)], "127.0.0.1", show, messages.append
    )
    return messages


def test_kubectl_gets_the_ports_and_is_stopped_at_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Forward] = []

    def show(forwards: list[Forward]) -> None:
        shown.extend(forwards)
        raise KeyboardInterrupt

    run(tmp_path, kubectl(tmp_path, LISTENS + "time.sleep(60)\n"), monkeypatch, show)
    assert (tmp_path / "argv").read_text() == (
        f"--kubeconfig={tmp_path}/kubeconfig --namespace=default port-forward --address=127.0.0.1 service/web "
        f"{shown[0].local_port}:80"
    )
    assert not Path(f"/proc/{(tmp_path / 'pids').read_text().strip()}").exists()


def test_forwarding_restarts_when_the_pod_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again = """
        if len((here / 'pids').read_text().split()) == 3: os.kill(os.getppid(), 2); time.sleep(60)
        sys.exit('error: lost connection to pod')
    """
    program = kubectl(tmp_path, LISTENS + textwrap.dedent(again))
    shown: list[Any] = []
    messages = run(tmp_path, program, monkeypatch, shown.append)
    assert len(shown) == 1
    assert len(messages) == 2
    assert "default/web: lost connection to pod" in messages[0]


def test_an_error_of_kubectl_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = kubectl(tmp_path, "sys.exit('error: unable to listen on any of the requested ports')\n")
    with pytest.raises(errors.Error) as caught:
        run(tmp_path, program, monkeypatch, None)
    assert (caught.value.reason, caught.value.exit_code) == ("forward_failed", 5)
    assert "unable to listen" in str(caught.value)


def test_forwarding_requires_a_ready_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.Error) as caught:
        run(tmp_path, tmp_path / "none", monkeypatch, None, Api([service("web")], ready=0))
    assert "no pod of default/web is ready" in str(caught.value)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_no_process_remains_after_any_signal(tmp_path: Path, number: int, code: int) -> None:
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
show = lambda forwards: print(forwards[0].local, flush=True)
port_forward.serve(Path("k"), Path({str(program)!r}), port_forward.Target("web"), [], "127.0.0.1", show, print)
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
