"""The settings and the environment variables that ansible-playbook runs with."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths, processes

from devenv import errors
from devenv.runs import inherited

# The settings of ansible.cfg, which the wheel does not contain. A test compares both.
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
    """Return variables that point ansible to the collection and its ansible.cfg, from a checkout and from a wheel.

    The wheel has no ansible.cfg. An empty one is written to ``folder``, so that ansible does not read another one.
    """
    config = collection / "ansible.cfg"
    if not config.is_file():
        config = folder / "ansible.cfg"
        config.touch(mode=0o600)
    links = collection / "collections"
    # An installed package is in .../ansible_collections/devenv/lab.
    collections = links if links.is_dir() else collection.parents[2]
    return {"ANSIBLE_CONFIG": str(config), "ANSIBLE_COLLECTIONS_PATH": str(collections)}


def environment(
    run_id: str, env: Mapping[str, str], folder: Path, passed: Mapping[str, str] = MappingProxyType({})
) -> dict[str, str]:
    """Return the environment variables of a run: the collection's settings, the run's ids, and those of the caller that
    do not change a run. ``passed`` are variables of Ansible that the caller requests; ``folder`` is private to the run.
    """
    callbacks = filter(None, (passed.get("ANSIBLE_CALLBACKS_ENABLED"), "devenv.lab.record"))
    folders = [str(Path(sys.executable).parent), *env.get("PATH", os.defpath).split(os.pathsep), *_ADMIN_PATHS]
    defaults = {
        # Plugins in the user's ~/.ansible would change the run, and that directory may not be writable.
        "ANSIBLE_HOME": str(folder / "ansible"),
        "ANSIBLE_NOCOLOR": "1",
        "HOME": str(paths.user_home(env)),
    }
    fixed = {
        "DEVENV_RUN": run_id,
        "DEVENV_OWNER": identity(),
        "ANSIBLE_CALLBACKS_ENABLED": ",".join(callbacks),
        "LC_ALL": inherited.utf8_locale(env.get("LC_ALL", ""), env.get("LANG", "")),
        "PATH": os.pathsep.join(dict.fromkeys(folders)),
    }
    return {**dict(SETTINGS.values()), **inherited.clean(env), **settings(folder), **defaults, **passed, **fixed}


def ansible_playbook() -> str:
    """Return the path of ansible-playbook, preferably the one next to this Python. Raises Unexpected."""
    folders = [str(Path(sys.executable).parent), sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]
    path = shutil.which("ansible-playbook", path=os.pathsep.join(folders))
    if not path:
        raise errors.Unexpected(
            "ansible-playbook is not installed", advice="install ansible-core in the Python environment of devenv-lab"
        )
    return path


def identity() -> str:
    """Return ``pid:start`` of this process, the value of DEVENV_OWNER."""
    process = processes.read_process(os.getpid())
    return f"{process.pid}:{process.start}" if process else ""
