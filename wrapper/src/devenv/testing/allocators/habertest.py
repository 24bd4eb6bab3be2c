"""The allocator ``habertest``: machines of a remote service, which expire when nobody says that they are still in use.

Protocol (of the service, which is not ours): a WebSocket ``/api/ws/jobs`` of the provisioner takes ``{"data":
{"demands", "allocation_id", "requestor"}}`` and answers ``{"status": "success|busy|unfulfillable|exception",
"hardware_details": [...]}``; ``DELETE /api/release/<id>`` gives back; ``POST /api/heartbeat {"allocation_id"}`` of the
heartbeat server keeps. Both sides of each connection show a certificate, and check the other's.
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
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle.download import certificates
from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, wait

from devenv.testing.allocators import base
from devenv.testing.allocators.allocation import Allocation
from devenv.testing.allocators.devenv import Devenv
from devenv.testing.allocators.hardware_file import Provisioned
from devenv.testing.demand import Demand, HostDemand
from devenv.testing.errors import AllocationFailed

DEFAULT_IMAGE = "automation_infra_1.0"
# Seconds: between tries while the service is busy, for all tries, of one answer, between two signs of life.
PAUSE, PATIENCE, ANSWER, BEAT = 5.0, 120.0, 60.0, 2.0


@dataclass(frozen=True)
class Service:
    """Where the service is and who we are. ``ca``: file of authorities that may have signed its certificate; empty for
    those of this machine.
    """

    provisioner: str
    heartbeat: str
    cert: str
    key: str
    ca: str = ""

    def context(self) -> ssl.SSLContext:
        """TLS that shows our certificate and checks the other's and its name. Raises AllocationFailed."""
        try:
            context = ssl.create_default_context(cafile=self.ca or None)
            context.load_cert_chain(os.path.expanduser(self.cert), os.path.expanduser(self.key))
        except (OSError, ssl.SSLError) as error:
            raise AllocationFailed(f"certificates of habertest: {error}") from None
        return context

    def allocate(self, allocation: str, demands: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The service's answer. Raises AllocationFailed when there is none."""
        from websocket import WebSocketException, create_connection

        parts = urlsplit(self.provisioner)
        url = parts._replace(scheme="wss", path=f"{parts.path.rstrip('/')}/api/ws/jobs").geturl()
        said = {"data": {"demands": demands, "allocation_id": allocation, "requestor": _requestor()}}
        try:
            connection = create_connection(url, timeout=ANSWER, sslopt={"context": self.context()})
            try:
                connection.send(json.dumps(said))
                answer = json.loads(connection.recv())
            finally:
                connection.close()
        except (OSError, ValueError, WebSocketException) as error:
            raise AllocationFailed(f"{self.provisioner}: {error}") from None
        if not isinstance(answer, dict):
            raise AllocationFailed(f"{self.provisioner}: an answer that is no object")
        return answer

    def release(self, allocation: str) -> None:
        """Give machines back; those that are given back already are no error. Raises AllocationFailed."""
        status = self._request("DELETE", self.provisioner, f"/api/release/{allocation}")[0]
        if status not in (200, 202, 204, 404):
            raise AllocationFailed(f"{self.provisioner}: release of {allocation}: HTTP status {status}")

    def is_known(self, allocation: str) -> bool:
        """Whether the machines are still ours. The service says by a status in the body that it knows none."""
        status, body = self._request("GET", self.provisioner, f"/api/jobs/{allocation}")
        return status == 200 and body.get("status") != 404

    def beat(self, allocation: str) -> None:
        """Say that the machines are in use."""
        self._request("POST", self.heartbeat, "/api/heartbeat", {"allocation_id": allocation})

    def _request(
        self, method: str, server: str, path: str, body: Mapping[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        import requests

        url, proof = server.rstrip("/") + path, (os.path.expanduser(self.cert), os.path.expanduser(self.key))
        trusted = certificates({"SSL_CERT_FILE": self.ca} if self.ca else {})
        try:
            answer = requests.request(method, url, json=body, timeout=ANSWER, cert=proof, verify=trusted)
        except requests.RequestException as error:
            raise AllocationFailed(f"{server}: {error}") from None
        except OSError as error:
            raise AllocationFailed(f"certificates of habertest: {error}") from None
        try:
            found = answer.json()
        except ValueError:
            found = {}
        return answer.status_code, found if isinstance(found, dict) else {}


def _requestor() -> dict[str, str]:
    name = socket.gethostname()
    return {
        "hostname": name,
        "username": getpass.getuser(),
        "ip": _own_address(),
        "external_ip": "",
        "creation_time": datetime.now(UTC).isoformat(timespec="seconds"),
        # Arguments may hold what is nobody's business.
        "running_cmd": Path(sys.argv[0]).name,
    }


def _own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent: it only chooses a way (TEST-NET-1, RFC 5737).
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return ""


def groups(demand: Demand) -> list[tuple[dict[str, Any], list[str]]]:
    """Hosts of equal machines, each group to be asked for by itself: the service's answer names no hosts, so that of
    different machines nobody could say which is whose.
    """
    found: list[tuple[dict[str, Any], list[str]]] = []
    for host in demand.hosts:
        said = _said(host)
        for other, names in found:
            if other == said:
                names.append(host.name)
                break
        else:
            found.append((said, [host.name]))
    return found


def _said(host: HostDemand) -> dict[str, Any]:
    return {"hardware_type": "vm", **host.remote, "base_image": host.base_image or DEFAULT_IMAGE}


def machines(names: Sequence[str], answer: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Machine of each host. The order in which the service lists them means nothing. Raises AllocationFailed."""
    details = answer.get("hardware_details") or []
    if len(details) != len(names) or not all(isinstance(one, dict) and one.get("ip") for one in details):
        raise AllocationFailed(f"habertest: {len(names)} machines were asked for, and {len(details)} came")
    ordered = sorted(details, key=lambda one: (str(one["ip"]), str(one.get("vm_id") or "")))
    return dict(zip(sorted(names), ordered, strict=True))


@dataclass
class Habertest:
    """An allocator whose machines come from the service; clusters on them are made by devenv, as on existing hosts."""

    provisioner: str
    heartbeat: str
    cert: str
    key: str
    ca: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    _beating: dict[str, threading.Event] = field(default_factory=dict, repr=False)

    @property
    def _service(self) -> Service:
        return Service(self.provisioner, self.heartbeat, self.cert, self.key, self.ca)

    def need(self, demand: Demand) -> int:
        return 0

    def up(self, name: str, demand: Demand, *, timeout: float | None, say: Callable[[str], None]) -> None:
        if not self.is_up(name):
            self._allocate(name, demand, say)
        if demand.clusters:
            self.hold(name)
            self._devenv(name).up(name, demand, timeout=timeout, say=say)
            self._write(name, {**self._read(name), "devenv": True})

    def _allocate(self, name: str, demand: Demand, say: Callable[[str], None]) -> None:
        # What an earlier try has, it gives back: nobody knows any more what it was for.
        self._release(name)
        hosts: dict[str, dict[str, Any]] = {}
        for said, names in groups(demand):
            allocation = str(uuid.uuid4())
            # Written before it is asked for: a process that is killed here leaves its name.
            self._write(name, {"ids": [*self._read(name).get("ids", []), allocation], "hosts": {}})
            say(f"asks for {', '.join(names)}")
            hosts.update(machines(names, self._answer(allocation, dict.fromkeys(names, said))))
        self._write(name, {**self._read(name), "hosts": hosts})

    def _answer(self, allocation: str, demands: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        last: dict[str, Any] = {}

        def answered() -> bool:
            last.update(self._service.allocate(allocation, demands))
            return last.get("status") != "busy"

        wait.until(answered, time.monotonic() + PATIENCE, pause=PAUSE)
        if last.get("status") != "success":
            why = last.get("message") or last.get("info") or ""
            raise AllocationFailed(
                f"habertest: {last.get('status')} for {', '.join(demands)}{f': {why}' if why else ''}"
            )
        return last

    def is_up(self, name: str) -> bool:
        kept = self._read(name)
        return bool(kept.get("hosts")) and all(self._service.is_known(one) for one in kept["ids"])

    def down(self, name: str) -> None:
        self._stop(name)
        try:
            if self._read(name).get("devenv"):
                # Machines that are about to go need not be put back as they were.
                with contextlib.suppress(Exception):
                    self._devenv(name).down(name)
        finally:
            self._release(name)

    def _release(self, name: str) -> None:
        for one in self._read(name).get("ids", []):
            self._service.release(one)
        shutil.rmtree(self._folder(name), ignore_errors=True)

    def describe(self, name: str, demand: Demand) -> Allocation:
        if self._read(name).get("devenv"):
            return self._devenv(name).describe(name, demand)
        found = self._machines(name).allocation(demand, self._folder(name))
        return Allocation(name, "", "habertest", found.hosts, found.clusters)

    def hold(self, name: str) -> None:
        """Say that the machines are in use, until `close`, `down` or the end of this process."""
        if name in self._beating:
            return
        stop = self._beating[name] = threading.Event()
        service, ids = self._service, list(self._read(name).get("ids", []))

        def beat() -> None:
            while not stop.is_set():
                for one in ids:
                    # One that is lost is made up for by the next; the machines live for many.
                    with contextlib.suppress(AllocationFailed):
                        service.beat(one)
                stop.wait(BEAT)

        threading.Thread(target=beat, name=f"devenv-heartbeat-{name}", daemon=True).start()

    def _stop(self, name: str) -> None:
        if stop := self._beating.pop(name, None):
            stop.set()

    def close(self) -> None:
        for name in list(self._beating):
            self._stop(name)

    # --- what is kept: ids, and machines with their secrets, in a private file ---

    def _folder(self, name: str) -> Path:
        return base.folder(name) / "habertest"

    def _read(self, name: str) -> dict[str, Any]:
        return files.read_json(self._folder(name) / "machines.json", dict) or {}

    def _write(self, name: str, data: Mapping[str, Any]) -> None:
        files.write(self._folder(name) / "machines.json", json.dumps(data))

    def _machines(self, name: str) -> Provisioned:
        # The host keys of machines that were made a moment ago are known to nobody: the first is learned.
        hosts = {host: {**said, "host_keys": "accept-new"} for host, said in self._read(name)["hosts"].items()}
        return Provisioned(hosts, {}, "habertest")

    def _devenv(self, name: str) -> Devenv:
        given = self._machines(name).with_key_files(self._folder(name))
        return Devenv(self.overrides, given.for_profile())
