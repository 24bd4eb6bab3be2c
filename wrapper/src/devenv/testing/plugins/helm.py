"""The plugins Helm: of a cluster, with the program of the bundle or of this machine, and of a host, with its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from devenv.testing.plugins.programs import execute, execute_on, options

if TYPE_CHECKING:
    from devenv.testing.objects import Cluster, Host


class HelmCommands:
    """Releases of charts. A ``chart`` is a folder or archive, ``REPOSITORY/CHART``, or a URL (https, oci)."""

    def command(self, *words: str, stdin: str = "", timeout: float = 600) -> str:
        """Return stdout of helm with these arguments. Raises NotAvailable, CommandFailed, CommandTimeout."""
        raise NotImplementedError

    def install(
        self,
        release: str,
        chart: str,
        namespace: str = "default",
        *,
        values: Mapping[str, Any] | None = None,
        version: str = "",
        timeout: float = 300,
    ) -> None:
        """Install or upgrade a release, and wait until its objects are ready."""
        self.command(
            "upgrade", "--install", release, chart, "--create-namespace", "--wait", "--values=-",
            *options(namespace=namespace, version=version, timeout=f"{timeout:g}s"),
            stdin=json.dumps(values or {}), timeout=timeout + 30,
        )  # fmt: skip

    def uninstall(self, release: str, namespace: str = "default", *, timeout: float = 300) -> None:
        """Remove a release if it exists, and wait until its objects are gone."""
        words = ["uninstall", release, "--ignore-not-found", "--wait"]
        self.command(*words, *options(namespace=namespace, timeout=f"{timeout:g}s"), timeout=timeout + 30)

    def list(self, namespace: str = "") -> list[dict[str, Any]]:
        """Return the releases of a namespace, or of all: name, namespace, status, chart, app_version, ..."""
        where = [f"--namespace={namespace}"] if namespace else ["--all-namespaces"]
        releases: list[dict[str, Any]] = json.loads(self.command("list", *where, "--output=json"))
        return releases

    def values(self, release: str, namespace: str = "default") -> dict[str, Any]:
        """Return the values that a release was installed with."""
        words = ["get", "values", release, f"--namespace={namespace}", "--output=json"]
        return json.loads(self.command(*words)) or {}

    def exists(self, release: str, namespace: str = "default") -> bool:
        """Return whether a release exists and is deployed."""
        return any(row["name"] == release and row["status"] == "deployed" for row in self.list(namespace))

    def ping(self) -> None:
        self.command("list", "--max=1")

    def verify_functionality(self) -> None:
        self.list()


class Helm(HelmCommands):
    """helm on this machine, for a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def command(self, *words: str, stdin: str = "", timeout: float = 600) -> str:
        """Return stdout of helm with these arguments. Raises NotAvailable, CommandFailed, CommandTimeout."""
        return execute(self._cluster, "helm", words, stdin=stdin, timeout=timeout)


class HostHelm(HelmCommands):
    """helm on a host that has it, as its administrator."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def command(self, *words: str, stdin: str = "", timeout: float = 600) -> str:
        """Return stdout of helm with these arguments. Raises NotAvailable, CommandFailed, CommandTimeout."""
        return execute_on(self._host, "helm", words, stdin=stdin, timeout=timeout)
