"""The allocator ``habertest``: machines of a remote service, which expire without heartbeats.

The service's protocol: a WebSocket ``/api/ws/jobs`` of the provisioner takes ``{"data": {"demands", "allocation_id",
"requestor"}}`` and answers ``{"status": "success|busy|unfulfillable|exception", "hardware_details": [...]}``; ``DELETE
/api/release/<id>`` releases machines; ``POST /api/heartbeat {"allocation_id"}`` of the heartbeat server keeps them.
Both sides of each connection present a certificate and check the other's.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import socket
import ssl
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.download import certificates
from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, wait

from devenv.testing.allocators import base
from devenv.testing.allocators.devenv import Devenv
from devenv.testing.allocators.hardware_file import Provisioned
from devenv.testing.demand import Demand
from devenv.testing.errors import AllocationFailed
from devenv.testing.objects import BaseConfig

DEFAULT_IMAGE = "automation_infra_1.0"
# Seconds: between attempts while the service is busy, for all attempts, for one answer, between two heartbeats.
PAUSE, PATIENCE, ANSWER, BEAT = 5.0, 120.0, 60.0, 2.0


@dataclass(frozen=True)
class Service:
    """The service and our identity. ``ca``: file of CAs for its certificate; empty for those of this machine."""

    provisioner: str
    heartbeat: str
    cert: str
    key: str
    ca: str = ""

    def _context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca or None)
            context.load_cert_chain(os.path.expanduser(self.cert), os.path.expanduser(self.key))
        except (OSError, ssl.SSLError) as error:
            raise AllocationFailed(f"certificates of habertest: {error}") from None
        return context

    def allocate(self, allocation: str, demands: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Request machines and return the service's answer. Raises AllocationFailed if there is none."""
        from websocket import WebSocketException, create_connection

        parts = urlsplit(self.provisioner)
        url = parts._replace(scheme="wss", path=f"{parts.path.rstrip('/')}/api/ws/jobs").geturl()
        message = {"data": {"demands": demands, "allocation_id": allocation, "requestor": _requestor()}}
        try:
            connection = create_connection(url, timeout=ANSWER, sslopt={"context": self._context()})
            with contextlib.closing(connection):
                connection.send(json.dumps(message))
                answer = json.loads(connection.recv())
        except (OSError, ValueError, WebSocketException) as error:
            raise AllocationFailed(f"{self.provisioner}: {error}") from None
        if not isinstance(answer, dict):
            raise AllocationFailed(f"{self.provisioner}: the answer is not an object")
        return answer

    def release(self, allocation: str) -> None:
        """Release machines; does nothing if they are released already. Raises AllocationFailed."""
        status = self._request("DELETE", self.provisioner, f"/api/release/{allocation}")[0]
        if status not in (200, 202, 204, 404):
            raise AllocationFailed(f"{self.provisioner}: release of {allocation}: HTTP status {status}")

    def is_known(self, allocation: str) -> bool:
        """Return whether the service still keeps the machines; if not, a status in the body is 404."""
        status, body = self._request("GET", self.provisioner, f"/api/jobs/{allocation}")
        return status == 200 and body.get("status") != 404

    def beat(self, allocation: str) -> None:
        """Send a heartbeat for the machines."""
        self._request("POST", self.heartbeat, "/api/heartbeat", {"allocation_id": allocation})

    def _request(
        self, method: str, server: str, path: str, body: Mapping[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        import requests

        url, certificate = server.rstrip("/") + path, (os.path.expanduser(self.cert), os.path.expanduser(self.key))
        trusted = certificates({"SSL_CERT_FILE": self.ca} if self.ca else {})
        try:
            answer = requests.request(method, url, json=body, timeout=ANSWER, cert=certificate, verify=trusted)
        except requests.RequestException as error:
            raise AllocationFailed(f"{server}: {error}") from None
        except OSError as error:
            raise AllocationFailed(f"certificates of habertest: {error}") from None
        try:
            data = answer.json()
        except ValueError:
            data = {}
        return answer.status_code, data if isinstance(data, dict) else {}


def _requestor() -> dict[str, str]:
    return {
        "hostname": socket.gethostname(),
        "username": getpass.getuser(),
        "ip": _address(),
        "external_ip": "",
        "creation_time": datetime.now(UTC).isoformat(timespec="seconds"),
        # Without arguments, which may be confidential.
        "running_cmd": Path(sys.argv[0]).name,
    }


def _address() -> str:
    """Return this machine's address on the default route, or an empty string."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        # Connecting a datagram socket selects a route and sends nothing (TEST-NET-1, RFC 5737).
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])
    return ""


def groups(demand: Demand) -> list[tuple[dict[str, Any], list[str]]]:
    """Return groups of hosts with equal requirements. Each group is requested separately: the service's answer names
    no hosts, so different machines could not be assigned.
    """
    names: dict[str, list[str]] = {}
    for host in demand.hosts:
        keys = {"hardware_type": "vm", "base_image": DEFAULT_IMAGE, **host.remote}
        names.setdefault(json.dumps(keys, sort_keys=True), []).append(host.name)
    return [(json.loads(keys), hosts) for keys, hosts in names.items()]


def machines(names: Sequence[str], answer: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the machine of each host, whatever the order of the service's list. Raises AllocationFailed."""
    details = answer.get("hardware_details") or []
    if len(details) != len(names) or not all(isinstance(machine, dict) and machine.get("ip") for machine in details):
        raise AllocationFailed(
            f"habertest: requested {len(names)} machines with an address, but the answer has {len(details)} machines"
        )
    ordered = sorted(details, key=lambda machine: (str(machine["ip"]), str(machine.get("vm_id") or "")))
    return dict(zip(sorted(names), ordered, strict=True))


class Habertest:
    """An allocator whose machines come from the service; devenv creates clusters on them as on existing hosts."""

    remote = True

    def __init__(self, overrides: Mapping[str, Any] | None = None, **service: str) -> None:
        self._service = Service(**service)
        self._overrides = overrides or {}
        self._heartbeats: dict[str, threading.Event] = {}

    def need(self, demand: Demand) -> int:
        return 0

    def up(self, name: str, demand: Demand, *, timeout: float | None, report: Callable[[str], None]) -> None:
        if not self.is_up(name):
            self._allocate(name, demand, report)
        if demand.clusters:
            self.hold(name)
            self._devenv(name).up(name, demand, timeout=timeout, report=report)
            self._write(name, {**self._read(name), "devenv": True})

    def _allocate(self, name: str, demand: Demand, report: Callable[[str], None]) -> None:
        # Machines of an incomplete attempt cannot be assigned to hosts any more.
        self._release(name)
        hosts: dict[str, dict[str, Any]] = {}
        for keys, names in groups(demand):
            allocation = str(uuid.uuid4())
            # Stored before the request, so that it can be released if this process is killed.
            self._write(name, {"ids": [*self._read(name).get("ids", []), allocation], "hosts": {}})
            report(f"requesting {', '.join(names)}")
            hosts.update(machines(names, self._request(allocation, dict.fromkeys(names, keys))))
        self._write(name, {**self._read(name), "hosts": hosts})

    def _request(self, allocation: str, demands: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        answer: dict[str, Any] = {}

        def is_answered() -> bool:
            answer.update(self._service.allocate(allocation, demands))
            return answer.get("status") != "busy"

        wait.until(is_answered, time.monotonic() + PATIENCE, pause=PAUSE)
        if answer.get("status") != "success":
            reason = answer.get("message") or answer.get("info")
            text = f"habertest: {answer.get('status')} for {', '.join(demands)}"
            raise AllocationFailed(f"{text}: {reason}" if reason else text)
        return answer

    def is_up(self, name: str) -> bool:
        stored = self._read(name)
        return bool(stored.get("hosts")) and all(self._service.is_known(allocation) for allocation in stored["ids"])

    def down(self, name: str) -> None:
        self._stop(name)
        try:
            if self._read(name).get("devenv"):
                # The machines are about to go, so an error in their cleanup does no harm.
                with contextlib.suppress(Exception):
                    self._devenv(name).down(name)
        finally:
            self._release(name)

    def _release(self, name: str) -> None:
        for allocation in self._read(name).get("ids", []):
            self._service.release(allocation)
        shutil.rmtree(self._folder(name), ignore_errors=True)

    def describe(self, name: str, demand: Demand) -> BaseConfig:
        if self._read(name).get("devenv"):
            return self._devenv(name).describe(name, demand)
        return self._machines(name).allocation(demand, self._folder(name))

    def hold(self, name: str) -> None:
        """Send heartbeats until `close`, `down` or the end of this process."""
        if name in self._heartbeats:
            return
        stop = self._heartbeats[name] = threading.Event()
        ids = list(self._read(name).get("ids", []))

        def beat() -> None:
            while not stop.is_set():
                for allocation in ids:
                    # The machines outlive many lost heartbeats.
                    with contextlib.suppress(AllocationFailed):
                        self._service.beat(allocation)
                stop.wait(BEAT)

        threading.Thread(target=beat, name=f"devenv-heartbeat-{name}", daemon=True).start()

    def _stop(self, name: str) -> None:
        if stop := self._heartbeats.pop(name, None):
            stop.set()

    def close(self) -> None:
        for name in list(self._heartbeats):
            self._stop(name)

    # --- stored in a private file: ids, and machines with their secrets ---

    def _folder(self, name: str) -> Path:
        return base.folder(name) / "habertest"

    def _read(self, name: str) -> dict[str, Any]:
        return files.read_json(self._folder(name) / "machines.json", dict) or {}

    def _write(self, name: str, data: Mapping[str, Any]) -> None:
        files.write(self._folder(name) / "machines.json", json.dumps(data))

    def _machines(self, name: str) -> Provisioned:
        # The host keys of new machines cannot be known: accept the first ones.
        hosts = {host: {**keys, "host_keys": "accept-new"} for host, keys in self._read(name)["hosts"].items()}
        return Provisioned(hosts, {}, "habertest")

    def _devenv(self, name: str) -> Devenv:
        machines = self._machines(name).with_key_files(self._folder(name))
        return Devenv(self._overrides, machines.for_profile())
