"""Programs on this machine that use a cluster: kubectl and helm, the bundle's if it has them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ansible_collections.devenv.lab.plugins.plugin_utils.core import program

from devenv.environments import access
from devenv.testing.errors import CommandFailed, CommandTimeout, NotAvailable

if TYPE_CHECKING:
    from pathlib import Path

    from devenv.testing.objects import Cluster, Host


def kubeconfig(cluster: Cluster) -> Path:
    """Return the kubeconfig of a cluster. Raises NotAvailable."""
    path = cluster.kubeconfig
    if path is None or not path.is_file():
        raise NotAvailable(f"{cluster.name} has no kubeconfig")
    return path


def argv_of(cluster: Cluster, name: str, words: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """Return the command line of a program, and its variables, for a cluster. Raises NotAvailable."""
    path = kubeconfig(cluster)
    environment = next((host.environment_name for host in cluster.hosts.values()), "")
    # The kubeconfig of an environment is in the folder of its cluster.
    variables = access.variables(environment, path.parent.name) if environment else {"KUBECONFIG": str(path)}
    found = shutil.which(name, path=variables.get("PATH", os.environ.get("PATH", os.defpath)))
    if found is None:
        raise NotAvailable(f"{cluster.name}: {name} is not installed on this machine")
    return [found, *words], variables


def execute(cluster: Cluster, name: str, words: Sequence[str], *, stdin: str = "", timeout: float = 120) -> str:
    """Return stdout of a program that uses the cluster. Raises NotAvailable, CommandFailed, CommandTimeout."""
    argv, variables = argv_of(cluster, name, words)
    shown = " ".join([name, *words])
    try:
        result = program.run(argv, stdin=stdin, timeout=timeout, env=variables, check=False)
    except program.ProgramFailed:
        raise CommandTimeout(cluster.name, shown, timeout) from None
    if result.code:
        raise CommandFailed(cluster.name, shown, result.code, result.stdout, result.stderr)
    return result.stdout


def options(**values: Any) -> Iterator[str]:
    """Yield ``--name=value`` for each value that is not empty; ``_`` in a name is ``-``."""
    for name, value in values.items():
        if value not in (None, ""):
            yield f"--{name.replace('_', '-')}={value}"


# Kubeconfigs of a host's administrator, and what precedes the name of a missing kubeconfig or program in stderr.
_KUBECONFIGS = "/etc/kubernetes/admin.conf ~/.kube/config"
_MISSING = "devenv: not available:"


def execute_on(host: Host, name: str, words: Sequence[str], *, stdin: str = "", timeout: float = 120) -> str:
    """Return stdout of a program that a host runs as administrator of its cluster, with a kubeconfig that is there.

    Raises NotAvailable, CommandFailed, CommandTimeout.
    """
    script = (
        f"command -v {name} > /dev/null || {{ echo {_MISSING} {name} >&2; exit 1; }}; "
        f"for file in {_KUBECONFIGS} ''; do test ! -r \"$file\" || break; done; "
        f'test "$file" || {{ echo {_MISSING} kubeconfig >&2; exit 1; }}; '
        f"KUBECONFIG=$file exec {shlex.join([name, *words])}"
    )
    try:
        return host.SshDirect.execute(script, stdin=stdin, timeout=timeout, sudo=True)
    except CommandFailed as error:
        # The shell of the host may print more.
        if missing := re.search(f"{_MISSING} (.+)", error.stderr):
            raise NotAvailable(f"{host.name}: {missing[1]} does not exist there") from None
        raise CommandFailed(host.name, " ".join([name, *words]), error.code, error.stdout, error.stderr) from None
