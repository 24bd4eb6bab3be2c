"""A Python shell with the hosts and clusters of an environment: `devenv shell`."""

from __future__ import annotations

import code as standard
import importlib
import sys
import traceback
from typing import Any

from devenv.environment import Environment
from devenv.testing import proxies
from devenv.testing.allocators.devenv import everything
from devenv.testing.plugins.ssh import on_all


def run(name: str, source: str | None) -> int:
    """Run ``source``, else standard input if it is a script, else an interactive shell; return an exit code.

    Raises NotFound if the environment has no nodes yet.
    """
    base_config = everything(name)
    namespace = {
        "__name__": "__main__",
        "base_config": base_config,
        "hosts": base_config.hosts,
        "clusters": base_config.clusters,
        "environment": Environment.open(name),
        "on_all": on_all,
    }
    try:
        with proxies.bypassed(base_config):
            if source is not None:
                return execute(source, "<command>", namespace)
            if not sys.stdin.isatty():
                return execute(sys.stdin.read(), "<stdin>", namespace)
            interact(banner(name, namespace), namespace)
            return 0
    finally:
        base_config.clear_plugins()


def banner(name: str, namespace: dict[str, Any]) -> str:
    """Return what an interactive shell shows first."""
    names = ", ".join(name for name in namespace if not name.startswith("_"))
    lines = [f"environment {name}: {names}"]
    for kind in ("hosts", "clusters"):
        lines += [f"  {kind}.{each.replace('-', '_')}" for each in namespace[kind]]
    return "\n".join(lines)


def execute(source: str, file: str, namespace: dict[str, Any]) -> int:
    """Run a script as Python does, and return its exit code. An error is printed with the script's traceback."""
    try:
        exec(compile(source, file, "exec", dont_inherit=True), namespace)
    except SystemExit as leave:
        if leave.code is None or isinstance(leave.code, int):
            return leave.code or 0
        print(leave.code, file=sys.stderr)
        return 1
    except Exception as error:
        # Without the frame of this function.
        traceback.print_exception(error.with_traceback(error.__traceback__ and error.__traceback__.tb_next))
        return 1
    return 0


def interact(text: str, namespace: dict[str, Any]) -> None:
    """Start IPython if it is installed, else the standard shell, both with completion."""
    try:
        ipython = importlib.import_module("IPython")
    except ImportError:
        _complete(namespace)
        standard.interact(text, local=namespace, exitmsg="")
        return
    print(text, file=sys.stderr)
    ipython.start_ipython(argv=[], user_ns=namespace, display_banner=False)


def _complete(namespace: dict[str, Any]) -> None:
    try:
        import readline
        import rlcompleter
    except ImportError:  # a Python without the library
        return
    readline.set_completer(rlcompleter.Completer(namespace).complete)
    readline.parse_and_bind("tab: complete")
