"""The host plugin K8s: kubectl of a control plane node, run there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from devenv.testing.plugins.kubectl_commands import KubectlCommands
from devenv.testing.plugins.programs import execute_on

if TYPE_CHECKING:
    from devenv.testing.objects import Host


class K8s(KubectlCommands):
    """Commands of kubectl on a host, as its administrator; paths are those of the host."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def command(self, *words: str, stdin: str = "", timeout: float = 120) -> str:
        """Return stdout of kubectl with these arguments. Raises NotAvailable on a host without kubectl or kubeconfig,
        such as a worker, and CommandFailed, CommandTimeout.
        """
        return execute_on(self._host, "kubectl", words, stdin=stdin, timeout=timeout)

    @property
    def version(self) -> str:
        """The version of the API server, such as v1.36.3."""
        return str(json.loads(self.command("version", "--output=json"))["serverVersion"]["gitVersion"])

    def nodes(self) -> list[Any]:
        """Return the Node objects, as JSON documents."""
        return list(self.get("nodes")["items"])

    def apply(self, manifest: str, namespace: str = "default") -> None:
        """Apply the text of a manifest."""
        self.command("apply", f"--namespace={namespace}", "--filename=-", stdin=manifest)

    def delete(self, manifest: str, namespace: str = "default") -> None:
        """Delete the objects of the text of a manifest that exist."""
        self.command("delete", "--ignore-not-found", f"--namespace={namespace}", "--filename=-", stdin=manifest)

    def ping(self) -> None:
        self.command("get", "--raw=/readyz")

    def verify_functionality(self) -> None:
        self.nodes()
