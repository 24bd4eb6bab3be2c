"""A Service of an environment's cluster on an address of this host, for as long as someone wants it.

Over the API (`kubectl port-forward` of the bundle): it needs neither a NodePort nor a route to the nodes, and works in
every address family. kubectl holds on to one pod; when that pod goes, forwarding begins again with another.
"""

from __future__ import annotations

import contextlib
import ctypes
import difflib
import ipaddress
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core.net import bracketed
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client

from devenv import errors

_TARGET = re.compile(
    r"^(?:(?P<namespace>[a-z0-9]([a-z0-9-]*[a-z0-9])?)/)?(?P<name>[a-z0-9]([a-z0-9-]*[a-z0-9])?)(?::(?P<port>[a-z0-9-]+))?$"
)
_PORT = re.compile(r"^(?:(?P<local>[0-9]*):)?(?P<port>[a-z0-9-]+)$")
# Seconds that a Service may be without a ready pod before forwarding gives up.
PATIENCE = 60.0


@dataclass(frozen=True)
class Target:
    """What the user named: a Service, maybe its namespace, maybe one port of it (number or name)."""

    name: str
    namespace: str | None = None
    port: str | None = None


@dataclass(frozen=True)
class PortRequest:
    """A port that is wanted: of the Service (number or name), and here (None: the same number where it is free)."""

    port: str
    local: int | None = None


@dataclass(frozen=True)
class Forward:
    """One port of a Service and where it is reached on this host."""

    namespace: str
    service: str
    port: int
    port_name: str
    address: str
    local_port: int

    @property
    def local(self) -> str:
        """``127.0.0.1:8080``, ``[::1]:8080``"""
        return f"{bracketed(self.address)}:{self.local_port}"

    def line(self) -> str:
        """For people: ``127.0.0.1:8080 -> shop/web:80 (http)``"""
        named = f" ({self.port_name})" if self.port_name else ""
        return f"{self.local} -> {self.namespace}/{self.service}:{self.port}{named}"

    def document(self) -> dict[str, Any]:
        """As one JSON object of ``--json``."""
        return {"type": "forward", **asdict(self), "local": self.local}


# --- what is wanted ---------------------------------------------------------------------------------------------------


def parse_target(text: str) -> Target:
    """``[NAMESPACE/]SERVICE[:PORT]``. Raises UsageError."""
    found = _TARGET.match(text)
    if found is None:
        raise errors.UsageError(
            f"{text!r} names no Service", advice="[NAMESPACE/]SERVICE[:PORT], such as web, shop/web or shop/web:http"
        )
    return Target(found["name"], found["namespace"], found["port"])


def parse_port(text: str) -> PortRequest:
    """``[LOCAL:]PORT``; ``:PORT`` takes any free port here. Raises UsageError."""
    found = _PORT.match(text)
    local = int(found["local"] or 0) if found and found["local"] is not None else None
    if found is None or (local is not None and local > 65535):
        raise errors.UsageError(f"{text!r} is no port", advice="[LOCAL:]PORT, such as 80, http or 8080:80")
    return PortRequest(found["port"], local)


def check_address(text: str) -> str:
    """An address of this host to listen on. Raises UsageError."""
    address = {"localhost": "127.0.0.1"}.get(text, text)
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
        with socket.socket(family) as trial:
            trial.bind((address, 0))
    except ValueError:
        raise errors.UsageError(
            f"{text!r} is no address", where="--address", advice="127.0.0.1, ::1, 0.0.0.0"
        ) from None
    except OSError as error:
        raise errors.UsageError(f"cannot listen on {text}: {error.strerror}", where="--address") from None
    return address


def find(api: client.Api, target: Target) -> client.Json:
    """The Service. Without a namespace the one of ``default``, else the only one of that name. Raises NotFound,
    UsageError.
    """
    services = api.get("/api/v1/services")["items"]
    named = [item for item in services if item["metadata"]["name"] == target.name]
    if target.namespace is not None:
        named = [item for item in named if item["metadata"]["namespace"] == target.namespace]
    elif len(named) > 1:
        named = [item for item in named if item["metadata"]["namespace"] == "default"] or named
    if len(named) == 1:
        return dict(named[0])
    if named:
        places = ", ".join(sorted(_full_name(item) for item in named))
        raise errors.UsageError(f"which Service {target.name}? There are {places}", advice="name it with its namespace")
    known = sorted(_full_name(item) for item in services)
    wanted = f"{target.namespace}/{target.name}" if target.namespace else target.name
    near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.5) or known[:5]
    raise errors.NotFound(
        f"there is no Service {wanted}", reason="service_unknown", advice=f"there are: {', '.join(near) or 'none'}"
    )


def _full_name(service: Mapping[str, Any]) -> str:
    return f"{service['metadata']['namespace']}/{service['metadata']['name']}"


def choose(
    service: Mapping[str, Any], target: Target, requests: Sequence[PortRequest]
) -> list[tuple[PortRequest, int, str]]:
    """Which ports of the Service: those requested, the target's own, else every TCP port. Each with number and name.
    Raises UsageError.
    """
    full = _full_name(service)
    spec = service["spec"]
    if spec.get("type") == "ExternalName":
        raise _refused(f"{full} is only a name for {spec.get('externalName')}", "ask that name itself")
    if not spec.get("selector"):
        raise _refused(f"{full} has no selector, so no pods of its own", "forward a Service that selects pods")
    ports = spec.get("ports") or []
    wanted = list(requests) or ([PortRequest(target.port)] if target.port else [])
    if requests and target.port:
        raise errors.UsageError(f"two ports for one: {target.port} and {requests[0].port}")
    if not wanted:
        wanted = [PortRequest(str(row["port"])) for row in ports if row.get("protocol", "TCP") == "TCP"]
        if not wanted:
            raise _refused(f"{full} has no TCP port", "only TCP can be forwarded")
    return [(request, *_port_of(full, ports, request.port)) for request in wanted]


def _port_of(full: str, ports: Sequence[Mapping[str, Any]], wanted: str) -> tuple[int, str]:
    fitting = [row for row in ports if wanted in (str(row["port"]), row.get("name"))]
    if not fitting:
        shown = ", ".join(f"{row['port']}" + (f" ({row['name']})" if row.get("name") else "") for row in ports)
        raise errors.UsageError(
            f"{full} has no port {wanted}", reason="service_port", advice=f"it has: {shown or 'none'}"
        )
    for row in fitting:
        if row.get("protocol", "TCP") == "TCP":
            return int(row["port"]), str(row.get("name", ""))
    raise _refused(f"port {wanted} of {full} is {fitting[0]['protocol']}", "only TCP can be forwarded")


def _refused(message: str, advice: str) -> errors.UsageError:
    return errors.UsageError(message, reason="service_port", advice=advice)


def place(service: Mapping[str, Any], chosen: Sequence[tuple[PortRequest, int, str]], address: str) -> list[Forward]:
    """Decide where each port is reached here. Raises Error ``forward_failed`` for a port that is taken."""
    taken: set[int] = set()
    found = []
    for request, port, name in chosen:
        if request.local:
            local = _free(address, request.local)
            if local is None or local in taken:
                raise _failed(
                    f"port {request.local} of {address} is in use", f"choose another, or :{port} for any free one"
                )
        else:
            # The Service's own number reads best; low ones are the host's.
            same = _free(address, port) if request.local is None and port >= 1024 else None
            local = same if same is not None and same not in taken else _free(address, 0, taken)
        assert local is not None
        taken.add(local)
        found.append(Forward(service["metadata"]["namespace"], service["metadata"]["name"], port, name, address, local))
    return found


def _free(address: str, port: int, taken: set[int] | None = None) -> int | None:
    """``port`` if nobody listens there, None otherwise; for 0 any free one."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    while True:
        with socket.socket(family) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((address, port))
            except OSError:
                return None
            found = int(trial.getsockname()[1])
        if port or found not in (taken or ()):
            return found


def ready_pods(api: client.Api, service: Mapping[str, Any]) -> int:
    """How many endpoints of the Service are ready."""
    slices = api.get(
        f"/apis/discovery.k8s.io/v1/namespaces/{service['metadata']['namespace']}/endpointslices",
        {"labelSelector": f"kubernetes.io/service-name={service['metadata']['name']}"},
    )["items"]
    return sum(
        endpoint.get("conditions", {}).get("ready") is not False
        for item in slices
        for endpoint in item.get("endpoints") or []
    )


def _failed(message: str, advice: str) -> errors.Error:
    return errors.make(message, exit_code=5, reason="forward_failed", advice=advice)


# --- at work ----------------------------------------------------------------------------------------------------------

Told = Callable[[list[Forward]], None]


def serve(
    kubeconfig: Path, kubectl: Path, target: Target, requests: Sequence[PortRequest], address: str, told: Told,
    say: Callable[[str], None],
) -> None:  # fmt: skip
    """Forward until Ctrl-C, which is the end that is meant (returns), or SIGTERM (SystemExit 143).

    ``told`` gets the forwards once, when all answer; ``say`` gets a line when a pod was lost. Raises Error: everything
    that can be found wrong is found before the first byte.
    """

    def opened() -> client.Api:
        return client.Api(client.read_access(kubeconfig))

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    # A shell starts background jobs with SIGINT ignored; here it is the way to end.
    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, end),
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
    }
    try:
        with opened() as api:
            service = find(api, target)
            chosen = choose(service, target, requests)
            if not ready_pods(api, service):
                raise _failed(
                    f"no pod of {_full_name(service)} is ready",
                    f"kubectl -n {service['metadata']['namespace']} get pods",
                )
        forwards = place(service, chosen, address)
        _forward(_arguments(kubectl, kubeconfig, forwards), opened, service, lambda: told(forwards), len(forwards), say)
    except client.ApiUnreachable as error:
        raise errors.make(
            f"the API does not answer: {error}", exit_code=5, reason="api_unreachable",
            advice="devenv up starts what does not run",
        ) from error  # fmt: skip
    except client.ApiError as error:
        raise _failed(f"the API refuses: {error}", "devenv status shows whether the cluster runs") from error
    except KeyboardInterrupt:
        return
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _arguments(kubectl: Path, kubeconfig: Path, forwards: Sequence[Forward]) -> list[str]:
    first = forwards[0]
    return [
        str(kubectl), f"--kubeconfig={kubeconfig}", f"--namespace={first.namespace}", "port-forward",
        f"--address={first.address}", f"service/{first.service}",
        *(f"{forward.local_port}:{forward.port}" for forward in forwards),
    ]  # fmt: skip


def _forward(
    argv: Sequence[str], opened: Callable[[], client.Api], service: Mapping[str, Any], ready: Callable[[], None],
    count: int, say: Callable[[str], None],
) -> None:  # fmt: skip
    """Run kubectl again and again; it ends with each pod that it held on to."""
    told, last = False, 0.0
    while True:
        with _child(argv) as child:
            listened, complaint = _watch(child, count, (lambda: None) if told else ready)
        if listened:
            told, last = True, time.monotonic()
        elif not told or time.monotonic() - last > PATIENCE:
            raise _failed(f"kubectl cannot forward: {complaint}", "devenv status shows whether the cluster runs")
        say(f"{_full_name(service)}: {complaint}; looking for a pod that is ready")
        _await_pod(opened, service)


def _watch(child: subprocess.Popen[str], count: int, ready: Callable[[], None]) -> tuple[bool, str]:
    """Read kubectl's words to its end; return whether all ports were open, and what it said last."""
    listening, complaint = 0, "kubectl ended"
    for line in child.stdout or ():
        if line.startswith("Forwarding from"):
            listening += 1
            if listening == count:
                ready()
        elif not line.startswith("Handling connection"):
            complaint = line.strip().removeprefix("error: ")
    child.wait()
    return listening >= count, complaint


def _await_pod(opened: Callable[[], client.Api], service: Mapping[str, Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        time.sleep(0.5)
        with contextlib.suppress(client.ApiFailure), opened() as api:
            if ready_pods(api, service):
                return
    raise _failed(f"{_full_name(service)} had no ready pod for {PATIENCE:.0f} s", "kubectl get pods -A shows why")


@contextlib.contextmanager
def _child(argv: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """kubectl, which ends with us whatever ends us."""
    child = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, preexec_fn=_end_with_parent,
    )  # fmt: skip
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        if child.stdout:
            child.stdout.close()


def _end_with_parent() -> None:
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def program(variables: Mapping[str, str]) -> Path:
    """kubectl, the bundle's first. Raises Error ``forward_failed``."""
    found = shutil.which("kubectl", path=variables.get("PATH", os.environ.get("PATH", os.defpath)))
    if found is None:
        raise _failed("there is no kubectl", "devenv bundle build makes it")
    return Path(found)
