"""The profile's own checks: commands on the controller, with the environment's KUBECONFIG and binaries."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import store
from ansible_collections.devenv.lab.plugins.plugin_utils.core import program
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.core.redact import redact
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import no_proxy
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.clusters import Cluster
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.levels import Background, Finding

# Distinguishes them from the built-in checks.
PREFIX = "profile."
_SHOWN = 300


def levels(cluster: Cluster, environment: str) -> list[Background]:
    """Return one level per check, so that they run in parallel."""
    variables = _environment(cluster, environment)
    return [_level(check, variables) for check in cluster.checks]


def _environment(cluster: Cluster, environment: str) -> dict[str, str]:
    """Return KUBECONFIG of the cluster, DEVENV_NAME, NO_PROXY with the environment's hosts, and PATH with the bundle's
    kubectl and helm in front.
    """
    variables = {"KUBECONFIG": str(cluster.kubeconfig), "DEVENV_NAME": environment}
    # clusters/<cluster>/kubeconfig of the state directory
    variables |= no_proxy.variables(no_proxy.of_environment(cluster.kubeconfig.parents[2]))
    try:
        bundle = store.find(cluster.version)
    except (DevenvError, OSError):
        bundle = None
    if bundle is not None:
        variables["PATH"] = os.pathsep.join([str(bundle.path / "bin"), os.environ.get("PATH", os.defpath)])
    return variables


def _level(check: Mapping[str, Any], variables: Mapping[str, str]) -> Background:
    name = f"{PREFIX}{check['name']}"
    began: float | None = None

    def collect() -> dict[str, Finding]:
        nonlocal began
        # The timeout begins with the first attempt, which may be late on a busy machine.
        began = began or time.monotonic()
        return {name: run(check, variables, began + float(check["timeout"]) - time.monotonic())}

    return Background([name], collect)


def run(check: Mapping[str, Any], variables: Mapping[str, str], remaining: float) -> Finding:
    """Run the command once, for at most ``remaining`` seconds; hopeless if no time remains for another attempt."""
    argv = [str(word) for word in check["command"]]
    began = time.monotonic()
    try:
        result = program.run(argv, env=variables, timeout=max(remaining, 0.1), check=False)
    except program.ProgramFailed:
        return Finding("", (f"{argv[0]} did not end within {check['timeout']} s",), hopeless=True)
    except OSError as error:
        return Finding("", (f"{argv[0]} cannot be run: {error.strerror}",), hopeless=True)
    if result.code == 0:
        return Finding(_last_line(result.stdout) or _last_line(result.stderr) or "ended with 0")
    line = _last_line(result.stderr) or _last_line(result.stdout)
    is_over = remaining <= time.monotonic() - began
    return Finding("", (f"{argv[0]} ended with {result.code}" + (f": {line}" if line else ""),), hopeless=is_over)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in redact(text).splitlines() if line.strip()]
    return lines[-1][-_SHOWN:] if lines else ""
