"""Forward local ports to a Service of an environment's cluster until the user stops it.

Uses `kubectl port-forward` of the bundle: it needs neither a NodePort nor a route to the nodes, and works in every
address family. kubectl is bound to one pod; when that pod disappears, forwarding restarts with another one.
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
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client, services

from devenv import errors

_LABEL = "[a-z0-9]([a-z0-9-]*[a-z0-9])?"
_TARGET = re.compile(rf"(?:(?P<namespace>{_LABEL})/)?(?P<name>{_LABEL})(?::(?P<port>[a-z0-9-]+))?")
_PORT = re.compile(r"(?:(?P<local>[0-9]*):)?(?P<port>[a-z0-9-]+)")
# Seconds that a Service may be without a ready pod before forwarding gives up.
PATIENCE = 60.0


@dataclass(frozen=True)
class Target:
    """The Service as typed, with an optional namespace and port (number or name)."""

    name: str
    namespace: str | None = None
    port: str | None = None


@dataclass(frozen=True)
class PortRequest:
    """A requested port of the Service (number or name), and the local port (None: the same number if it is free; 0: any
    free one).
    """

    port: str
    local: int | None = None


@dataclass(frozen=True)
class Forward:
    """One port of a Service and its local address."""

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
        """Return it as text: ``127.0.0.1:8080 -> shop/web:80 (http)``"""
        label = f" ({self.port_name})" if self.port_name else ""
        return f"{self.local} -> {self.namespace}/{self.service}:{self.port}{label}"

    def document(self) -> dict[str, Any]:
        """Return it as one JSON object of ``--json``."""
        return {"type": "forward", **asdict(self), "local": self.local}


# --- what to forward --------------------------------------------------------------------------------------------------


def parse_target(text: str) -> Target:
    """Parse ``[NAMESPACE/]SERVICE[:PORT]``. Raises UsageError."""
    match = _TARGET.fullmatch(text)
    if match is None:
        raise errors.UsageError(
            f"{text!r} is not a valid Service",
            advice="[NAMESPACE/]SERVICE[:PORT], such as web, shop/web or shop/web:http",
        )
    return Target(match["name"], match["namespace"], match["port"])


def parse_port(text: str) -> PortRequest:
    """Parse ``[LOCAL:]PORT``; ``:PORT`` requests any free local port. Raises UsageError."""
    match = _PORT.fullmatch(text)
    local = int(match["local"] or 0) if match and match["local"] is not None else None
    if match is None or (local is not None and local > 65535):
        raise errors.UsageError(f"{text!r} is not a valid port", advice="[LOCAL:]PORT, such as 80, http or 8080:80")
    return PortRequest(match["port"], local)


def check_address(text: str) -> str:
    """Return a local address to listen on. Raises UsageError."""
    address = "127.0.0.1" if text == "localhost" else text
    try:
        ipaddress.ip_address(address)
        with _socket(address) as trial:
            trial.bind((address, 0))
    except ValueError:
        raise errors.UsageError(
            f"{text!r} is not a valid IP address", where="--address", advice="127.0.0.1, ::1, 0.0.0.0"
        ) from None
    except OSError as error:
        raise errors.UsageError(f"cannot listen on {text}: {error.strerror}", where="--address") from None
    return address


def find(api: client.Api, target: Target) -> client.Json:
    """Return the Service: without a namespace the one in ``default``, else the only one with that name. Raises
    NotFound, UsageError.
    """
    services = api.get("/api/v1/services")["items"]
    matches = [item for item in services if item["metadata"]["name"] == target.name]
    if target.namespace is not None:
        matches = [item for item in matches if item["metadata"]["namespace"] == target.namespace]
    elif len(matches) > 1:
        matches = [item for item in matches if item["metadata"]["namespace"] == "default"] or matches
    if len(matches) == 1:
        return dict(matches[0])
    if matches:
        candidates = ", ".join(sorted(_full_name(item) for item in matches))
        raise errors.UsageError(f"several Services match {target.name}: {candidates}", advice="add the namespace")
    existing = sorted(_full_name(item) for item in services)
    missing = f"{target.namespace}/{target.name}" if target.namespace else target.name
    near = difflib.get_close_matches(missing, existing, n=3, cutoff=0.5) or existing[:5]
    raise errors.NotFound(
        f"Service {missing} does not exist", reason="service_unknown", advice=f"Services: {', '.join(near) or 'none'}"
    )


def _full_name(service: Mapping[str, Any]) -> str:
    return f"{service['metadata']['namespace']}/{service['metadata']['name']}"


def choose(
    service: Mapping[str, Any], target: Target, requests: Sequence[PortRequest]
) -> list[tuple[PortRequest, int, str]]:
    """Return the ports of the Service with number and name: the requested ones, else the target's, else every TCP port.
    Raises UsageError.
    """
    full_name = _full_name(service)
    spec = service["spec"]
    if spec.get("type") == "ExternalName":
        raise _refused(f"{full_name} is only an alias of {spec.get('externalName')}", "connect to that name directly")
    if not spec.get("selector"):
        raise _refused(f"{full_name} has no selector, so it has no pods", "forward a Service that selects pods")
    ports = spec.get("ports") or []
    if requests and target.port:
        raise errors.UsageError(f"two ports were given for one: {target.port} and {requests[0].port}")
    chosen = list(requests) or ([PortRequest(target.port)] if target.port else [])
    chosen = chosen or [PortRequest(str(row["port"])) for row in ports if _is_tcp(row)]
    if not chosen:
        raise _refused(f"{full_name} has no TCP port", "only TCP can be forwarded")
    return [(request, *_port_of(full_name, ports, request.port)) for request in chosen]


def _port_of(full_name: str, ports: Sequence[Mapping[str, Any]], requested: str) -> tuple[int, str]:
    matches = [row for row in ports if requested in (str(row["port"]), row.get("name"))]
    if not matches:
        listed = ", ".join(f"{row['port']}" + (f" ({row['name']})" if row.get("name") else "") for row in ports)
        raise _refused(f"{full_name} has no port {requested}", f"its ports are: {listed or 'none'}")
    for row in matches:
        if _is_tcp(row):
            return int(row["port"]), str(row.get("name", ""))
    raise _refused(f"port {requested} of {full_name} is {matches[0]['protocol']}", "only TCP can be forwarded")


def _is_tcp(port: Mapping[str, Any]) -> bool:
    return bool(port.get("protocol", "TCP") == "TCP")


def _refused(message: str, advice: str) -> errors.UsageError:
    return errors.UsageError(message, reason="service_port", advice=advice)


def place(service: Mapping[str, Any], chosen: Sequence[tuple[PortRequest, int, str]], address: str) -> list[Forward]:
    """Choose the local port of each. Raises Error ``forward_failed`` for a requested port that is in use."""
    namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
    forwards: list[Forward] = []
    for request, port, port_name in chosen:
        taken = {forward.local_port for forward in forwards}
        if request.local:
            local = request.local
            if local in taken or not _is_free(address, local):
                raise _failed(f"port {local} of {address} is in use", f"use another one, or :{port} for any free one")
        else:
            # Prefer the Service's own number, unless it is a privileged port of the host.
            same = request.local is None and port >= 1024 and port not in taken and _is_free(address, port)
            local = port if same else _any_free(address, taken)
        forwards.append(Forward(namespace, name, port, port_name, address, local))
    return forwards


def _socket(address: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)


def _is_free(address: str, port: int) -> bool:
    with _socket(address) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((address, port))
        except OSError:
            return False
    return True


def _any_free(address: str, taken: set[int]) -> int:
    while True:
        with _socket(address) as trial:
            trial.bind((address, 0))
            port = int(trial.getsockname()[1])
        if port not in taken:
            return port


def ready_pods(api: client.Api, service: Mapping[str, Any]) -> int:
    """Return the number of ready endpoints of the Service."""
    slices = services.endpoint_slices(api, service["metadata"]["namespace"], service["metadata"]["name"])
    return sum(
        endpoint.get("conditions", {}).get("ready") is not False
        for item in slices
        for endpoint in item.get("endpoints") or []
    )


def _failed(message: str, advice: str) -> errors.Error:
    return errors.make(message, exit_code=5, reason="forward_failed", advice=advice)


# --- forwarding -------------------------------------------------------------------------------------------------------

Show = Callable[[list[Forward]], None]
Say = Callable[[str], None]


def serve(
    kubeconfig: Path,
    kubectl: Path,
    target: Target,
    requests: Sequence[PortRequest],
    address: str,
    show: Show,
    say: Say,
    env: Mapping[str, str] | None = None,
) -> None:
    """Forward until Ctrl-C, the regular end (returns), or SIGTERM (raises SystemExit 143).

    ``show`` gets the forwards once, when all ports listen; ``say`` gets a line when a pod is lost. ``env`` extends the
    environment of kubectl. Raises Error for everything that can be checked in advance before it forwards.
    """
    try:
        with _stopped_by_signals():
            with _api(kubeconfig) as api:
                service = find(api, target)
                chosen = choose(service, target, requests)
                if not ready_pods(api, service):
                    raise _failed(
                        f"no pod of {_full_name(service)} is ready",
                        f"kubectl -n {service['metadata']['namespace']} get pods",
                    )
            _forward(kubectl, kubeconfig, service, place(service, chosen, address), show, say, env or {})
    except client.ApiUnreachable as error:
        raise errors.make(
            f"the API does not answer: {error}", exit_code=5, reason="api_unreachable",
            advice="devenv up starts stopped nodes",
        ) from error  # fmt: skip
    except client.ApiError as error:
        raise _failed(f"the API refuses: {error}", "devenv status shows whether the cluster runs") from error
    except KeyboardInterrupt:
        return


def _api(kubeconfig: Path) -> client.Api:
    return client.Api(client.read_access(kubeconfig))


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Raise SystemExit on SIGTERM and KeyboardInterrupt on SIGINT, which a shell ignores for background jobs."""

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    handlers = {signal.SIGTERM: stop, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _forward(
    kubectl: Path,
    kubeconfig: Path,
    service: Mapping[str, Any],
    forwards: list[Forward],
    show: Show,
    say: Say,
    env: Mapping[str, str],
) -> None:
    """Run kubectl repeatedly, because it exits when its pod disappears."""
    argv = [
        str(kubectl), f"--kubeconfig={kubeconfig}", f"--namespace={forwards[0].namespace}", "port-forward",
        f"--address={forwards[0].address}", f"service/{forwards[0].service}",
        *(f"{forward.local_port}:{forward.port}" for forward in forwards),
    ]  # fmt: skip
    last_success = None
    while True:
        with _child(argv, env) as child:
            listened, complaint = _watch(child, forwards, show if last_success is None else None)
        if listened:
            last_success = time.monotonic()
        elif last_success is None or time.monotonic() - last_success > PATIENCE:
            raise _failed(f"kubectl cannot forward: {complaint}", "devenv status shows whether the cluster runs")
        say(f"{_full_name(service)}: {complaint}; waiting for a ready pod")
        _await_pod(kubeconfig, service)


def _watch(child: subprocess.Popen[str], forwards: list[Forward], show: Show | None) -> tuple[bool, str]:
    """Read kubectl's output until it exits; return whether all ports listened, and its last error."""
    listening, complaint = 0, "kubectl exited"
    for line in child.stdout or ():
        if line.startswith("Forwarding from"):
            listening += 1
            if show and listening == len(forwards):
                show(forwards)
        elif not line.startswith("Handling connection"):
            complaint = line.strip().removeprefix("error: ")
    child.wait()
    return listening >= len(forwards), complaint


def _await_pod(kubeconfig: Path, service: Mapping[str, Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        time.sleep(0.5)
        with contextlib.suppress(client.ApiFailure), _api(kubeconfig) as api:
            if ready_pods(api, service):
                return
    raise _failed(f"{_full_name(service)} had no ready pod for {PATIENCE:.0f} s", "kubectl get pods -A shows why")


@contextlib.contextmanager
def _child(argv: Sequence[str], env: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run kubectl; the kernel kills it if this process dies."""
    child = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, preexec_fn=_die_with_parent, env={**os.environ, **env},
    )  # fmt: skip
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        if child.stdout:
            child.stdout.close()


def _die_with_parent() -> None:
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def program(variables: Mapping[str, str]) -> Path:
    """Return the path of kubectl, the bundle's if there is one. Raises Error ``forward_failed``."""
    path = shutil.which("kubectl", path=variables.get("PATH", os.environ.get("PATH", os.defpath)))
    if path is None:
        raise _failed("kubectl is not installed", "devenv bundle build installs it")
    return Path(path)
