"""Names that tests and plugins import from pytest_automation_infra.helpers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from devenv import testing
from devenv.testing.errors import CommandFailed, NotAvailable
from devenv.testing.objects import Host
from devenv.testing.plugins import programs
from devenv.testing.plugins.ssh import SshDirect

T = TypeVar("T", bound=Callable[..., Any])


def hardware_config(hardware: Mapping[str, Any], grouping: Mapping[str, Any] | None = None) -> Callable[[T], T]:
    """Return the decorator of devenv.testing, which also sets the attributes that conftests read."""
    mark = testing.hardware_config(hardware, grouping)

    def decorate(function: T) -> T:
        if inspect.isfunction(function):
            vars(function).update(__hardware_reqs=hardware, __cluster_config=grouping)
        marked: T = mark(function)
        return marked

    return decorate


def is_k8s(ssh: SshDirect) -> bool:
    """Return whether kubectl works on the host, with the kubeconfig of its administrator."""
    host: Host = vars(ssh)["_host"]
    try:
        programs.execute_on(host, "kubectl", ["get", "po"])
    except (NotAvailable, CommandFailed):
        return False
    return True


def is_blank(ssh: SshDirect) -> bool:
    """Return whether the host has neither Kubernetes nor docker."""
    return not is_k8s(ssh) and ssh.run("docker ps", sudo=True).code != 0


def use_gravity_exec(ssh: SshDirect) -> str:
    """Return the words before a command that needs Gravity's own container; empty on other hosts."""
    return "sudo gravity exec" if ssh.run("command -v gravity").code == 0 else ""


def restart_proxy_container(host: Host) -> None:
    """Restart the proxy of a host."""
    host.plugins.get("ProxyContainer").restart()
