"""What a user has configured on this machine or left on a node changes nothing: settings of ssh, Ansible and shells."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import Typed, program
from support.seen import inside

pytestmark = pytest.mark.cluster

SSH = "Host *\n  ProxyJump nowhere.example\n  Port 99\n  RemoteCommand reboot\n"
GREETING = "printf '{\"no\": \"line break\"}'\necho '{}'\necho welcome\n"
SHELL = {
    "LC_ALL": "POSIX",
    "ANSIBLE_TRANSPORT": "local",
    "ANSIBLE_STRATEGY": "free",
    "ANSIBLE_FORKS": "abc",
    "ANSIBLE_HOME": "/proc/nowhere",
    "HOME": "/proc/nowhere",
    "PYTHONWARNINGS": "error",
}


@pytest.fixture
def greeting(trial: str) -> Iterator[None]:
    """The node's shell prints a greeting, also for commands."""
    node, kept = f"{trial}-master-0", "/root/.bashrc.kept"
    inside(node, "sh", "-c", f"cp -a /root/.bashrc {kept}; cat > /root/.bashrc <<'E'\n{GREETING}E")
    yield
    inside(node, "mv", kept, "/root/.bashrc")


def hidden_home(user: Typed, tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a removed directory and a mount namespace in which ~/.ssh/config has ``SSH``."""
    folder = Path(pwd.getpwuid(os.geteuid()).pw_dir) / ".ssh"
    existed = folder.exists()
    folder.mkdir(mode=0o700, exist_ok=True)
    (tmp_path / "config").write_text(SSH)
    script = 'mount --bind "$0" "$1" && shift && mkdir "$1" && cd "$1" && rmdir "$1" && shift && exec "$@"'
    argv = ["unshare", "--mount", "sh", "-c", script, str(tmp_path), str(folder), str(tmp_path / "removed")]
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    variables = user.environment({**SHELL, "XDG_CACHE_HOME": cache})
    try:
        return subprocess.run(
            [*argv, program("devenv"), *words], env=variables, capture_output=True, text=True, timeout=300, check=False
        )
    finally:
        if not existed:
            folder.rmdir()


@pytest.mark.usefixtures("greeting")
def test_commands_work_whatever_the_user_has_configured(user: Typed, trial: str, tmp_path: Path) -> None:
    for words in (
        ("validate",),
        ("up", "--full"),
        ("certs", "list"),
        ("gather", "--output", str(tmp_path / "g.tar.gz")),
    ):
        done = hidden_home(user, tmp_path, *words, "--name", trial)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "no answer" not in done.stderr
        assert done.stderr.count("ANSIBLE_STRATEGY") == (words[0] != "certs"), done.stderr
    shown = hidden_home(user, tmp_path, "ssh", "--name", trial, "--", "printf 'a\\nb'")
    assert (shown.stdout, shown.returncode) == ("a\nb", 0)


@pytest.mark.usefixtures("greeting")
def test_plain_ansible_runs_tasks_on_the_node(user: Typed, trial: str) -> None:
    inventory = user.devenv("env", "--name", trial, "--json").stdout
    path = json.loads(inventory)["ANSIBLE_INVENTORY"]
    done = user.run(
        "ansible", "-i", path, "nodes", "-m", "ansible.builtin.command", "-a", "hostname",
        env={"ANSIBLE_TRANSPORT": "local", "ANSIBLE_REMOTE_PORT": "99"},
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "master-0"
