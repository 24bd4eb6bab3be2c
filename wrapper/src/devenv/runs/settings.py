"""The settings and the environment variables that ansible-playbook runs with."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths, processes

from devenv import errors

# The settings of ansible.cfg for where that file is not: a wheel does not carry it. A test compares both.
# (section, key) of ansible.cfg -> (environment variable, value)
SETTINGS: dict[tuple[str, str], tuple[str, str]] = {
    ("defaults", "localhost_warning"): ("ANSIBLE_LOCALHOST_WARNING", "False"),
    ("defaults", "gathering"): ("ANSIBLE_GATHERING", "explicit"),
    ("defaults", "forks"): ("ANSIBLE_FORKS", "16"),
    ("defaults", "host_key_checking"): ("ANSIBLE_HOST_KEY_CHECKING", "True"),
    ("defaults", "retry_files_enabled"): ("ANSIBLE_RETRY_FILES_ENABLED", "False"),
    ("defaults", "callbacks_enabled"): ("ANSIBLE_CALLBACKS_ENABLED", "devenv.lab.record"),
    ("defaults", "any_errors_fatal"): ("ANSIBLE_ANY_ERRORS_FATAL", "False"),
    ("defaults", "display_skipped_hosts"): ("ANSIBLE_DISPLAY_SKIPPED_HOSTS", "False"),
    ("defaults", "interpreter_python"): ("ANSIBLE_PYTHON_INTERPRETER", "auto_silent"),
    ("defaults", "timeout"): ("ANSIBLE_TIMEOUT", "30"),
    ("inventory", "host_pattern_mismatch"): ("ANSIBLE_HOST_PATTERN_MISMATCH", "ignore"),
    ("inventory", "any_unparsed_is_failed"): ("ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED", "True"),
    ("inventory", "unparsed_is_failed"): ("ANSIBLE_INVENTORY_UNPARSED_FAILED", "True"),
    ("inventory", "enable_plugins"): ("ANSIBLE_INVENTORY_ENABLED", "devenv.lab.profile, yaml, ini, host_list"),
    ("connection", "pipelining"): ("ANSIBLE_PIPELINING", "True"),
    ("ssh_connection", "ssh_args"): ("ANSIBLE_SSH_ARGS", "-C -o ControlMaster=auto -o ControlPersist=120s"),
}

_ADMIN_PATHS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def settings(folder: Path, collection: Path = paths.COLLECTION) -> dict[str, str]:
    """Environment variables that give ansible the collection's settings, from a checkout and from an installed package.

    An installed package brings no ansible.cfg: an empty one is made in ``folder``, so that no other one comes in.
    """
    config = collection / "ansible.cfg"
    if not config.is_file():
        config = folder / "ansible.cfg"
        config.touch(mode=0o600)
    links = collection / "collections"
    # An installed package lies in .../ansible_collections/devenv/lab.
    where = links if links.is_dir() else collection.parents[2]
    return {"ANSIBLE_CONFIG": str(config), "ANSIBLE_COLLECTIONS_PATH": str(where)}


def environment(run_id: str, env: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The environment of a run: the caller's, without what harms ansible, with the collection's settings and the run's
    mark. ``folder`` is the run's own.
    """
    # PYTHONUNBUFFERED makes python read a module from stdin byte by byte: 60 ms a module.
    kept = {key: value for key, value in env.items() if key != "PYTHONUNBUFFERED"}
    callbacks = filter(None, (env.get("ANSIBLE_CALLBACKS_ENABLED"), "devenv.lab.record"))
    marks = {
        "DEVENV_RUN": run_id,
        "DEVENV_OWNER": identity(),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_CALLBACKS_ENABLED": ",".join(callbacks),
        "PATH": _path(env.get("PATH", os.defpath)),
    }
    return {**dict(SETTINGS.values()), **kept, **settings(folder), **marks}


def _path(value: str) -> str:
    folders = [str(Path(sys.executable).parent), *value.split(os.pathsep)]
    return os.pathsep.join(dict.fromkeys([*folders, *_ADMIN_PATHS]))


def ansible_playbook() -> str:
    """Return the path of the program, by preference of the one beside this Python. Raises Unexpected."""
    beside = [Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))]
    for folder in beside:
        if os.access(folder / "ansible-playbook", os.X_OK):
            return str(folder / "ansible-playbook")
    found = shutil.which("ansible-playbook")
    if not found:
        raise errors.Unexpected(
            "ansible-playbook is not installed", advice="pip install ansible-core beside devenv-lab"
        )
    return found


def identity() -> str:
    """Return ``pid:start`` of this process, as DEVENV_OWNER has it."""
    process = processes.read_process(os.getpid())
    return f"{process.pid}:{process.start}" if process else ""
