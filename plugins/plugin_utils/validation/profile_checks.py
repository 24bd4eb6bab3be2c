"""Checks of the profile: commands on the controller, with the environment's KUBECONFIG and binaries."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import store
from ansible_collections.devenv.lab.plugins.plugin_utils.core import program
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.core.redact import redact
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.clusters import Cluster
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.levels import Background, Finding

# Distinguishes them from devenv's own, whatever they are called.
PREFIX = "profile."
_SHOWN = 300


def levels(cluster: Cluster, environment: str) -> list[Background]:
    """Return one level per check: none waits for another."""
    variables = environment_of(cluster, environment)
    return [_level(check, variables) for check in cluster.checks]


def environment_of(cluster: Cluster, environment: str) -> dict[str, str]:
    """Return KUBECONFIG of the cluster, DEVENV_NAME, and PATH with the bundle's kubectl and helm in front."""
    variables = {"KUBECONFIG": str(cluster.kubeconfig), "DEVENV_NAME": environment}
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
        # From the first try on: on a busy machine that may be late.
        began = began or time.monotonic()
        return {name: run(check, variables, began + float(check["timeout"]) - time.monotonic())}

    return Background([name], collect)


def run(check: Mapping[str, Any], variables: Mapping[str, str], left: float) -> Finding:
    """Run the command once, for at most ``left`` seconds; when no time is left for another try, waiting ends."""
    argv = [str(word) for word in check["command"]]
    began = time.monotonic()
    try:
        done = program.run(argv, env=variables, timeout=max(left, 0.1), check=False)
    except program.ProgramFailed:
        return Finding("", (f"{argv[0]} did not end within {check['timeout']} s",), hopeless=True)
    except OSError as error:
        return Finding("", (f"{argv[0]} cannot be run: {error.strerror}",), hopeless=True)
    words = _last_words(done.stdout) or _last_words(done.stderr)
    if done.code == 0:
        return Finding(words or "ended with 0")
    words = _last_words(done.stderr) or _last_words(done.stdout)
    is_over = left - (time.monotonic() - began) <= 0
    return Finding("", (f"{argv[0]} ended with {done.code}" + (f": {words}" if words else ""),), hopeless=is_over)


def _last_words(text: str) -> str:
    lines = [line.strip() for line in redact(text).splitlines() if line.strip()]
    return lines[-1][-_SHOWN:] if lines else ""
