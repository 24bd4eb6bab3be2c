"""What plugins that run the program kubectl have in common: Kubectl runs it here, K8s on a host."""

from __future__ import annotations

import json
from typing import Any

from devenv.testing.errors import CommandFailed, CommandTimeout
from devenv.testing.plugins.programs import options

# Actions of `kubectl rollout` after which a rollout is under way.
_STARTS = ("restart", "undo")


class KubectlCommands:
    """Commands of kubectl. A ``target`` has the form ``deployment/web``."""

    def command(self, *words: str, stdin: str = "", timeout: float = 120) -> str:
        """Return stdout of kubectl with these arguments. Raises CommandFailed, CommandTimeout."""
        raise NotImplementedError

    def get(self, resource: str, *words: str, namespace: str = "") -> Any:
        """Return the JSON document of `kubectl get`: one object, or a list under ``items``."""
        return json.loads(self.command("get", resource, *words, "--output=json", *options(namespace=namespace)))

    def scale(self, target: str, replicas: int, namespace: str = "default") -> None:
        """Set the number of replicas; `rollout` waits until they are available."""
        self.command("scale", target, *options(replicas=replicas, namespace=namespace))

    def rollout(self, target: str, action: str = "status", namespace: str = "default", *, timeout: float = 120) -> str:
        """Run an action of `kubectl rollout` and return its output. Actions status, restart and undo wait until the
        rollout is complete. Raises CommandTimeout, and CommandFailed if the rollout failed.
        """
        words = ["rollout", action, target, *options(namespace=namespace)]
        if action in _STARTS:
            self.command(*words)
            action = words[1] = "status"
        if action != "status":
            return self.command(*words)
        try:
            return self.command(*words, f"--timeout={timeout:g}s", timeout=timeout + 15)
        except CommandFailed as error:
            if "timed out waiting" not in error.stderr:
                raise
            raise CommandTimeout(error.host, error.command, timeout) from error

    def cp(
        self, source: str, target: str, namespace: str = "default", container: str = "", *, timeout: float = 120
    ) -> None:
        """Copy a file or folder from or to a container, which needs ``tar``: one of both is ``POD:PATH``."""
        where = [*options(namespace=namespace, container=container)]
        pod, colon, path = source.partition(":")
        if colon:
            # kubectl succeeds though tar does not find the file.
            self.command("exec", pod, *where, "--", "test", "-e", path)
        self.command("cp", source, target, *where, timeout=timeout)
