"""The nodes are reached in the same way whatever the user's ssh configuration and Ansible's variables say."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import inventory, network_plan, state
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import command
from support.commands import program

CONFIG = "Host *\n  ProxyJump nowhere.example\n  Port 99\n  User nobody\n  RemoteCommand reboot\n  SendEnv LC_*\n"
EXISTING = {
    "provider": "existing",
    "nodes.master-0.host": {"addresses": ["192.0.2.10"], "user": "admin", "port": 2222},
    "clusters.main.endpoint": {"kind": "node"},
}


def hosts(tmp_path: Path, overrides: dict[str, Any]) -> dict[str, Any]:
    resolved = resolve("sno", overrides=overrides)
    network = network_plan.make(resolved, {"ipv4": "10.213.9.0/24"})
    built = inventory.build(resolved, network, tmp_path / "environments" / "lab")["hosts"]
    return {name: dict(variables) for name, variables in built.items()}


def effective(words: list[str], tmp_path: Path) -> dict[str, str]:
    """Return ssh's effective options in a mount namespace in which the user has a configuration."""
    home = pwd.getpwuid(os.geteuid()).pw_dir
    (tmp_path / "home" / ".ssh").mkdir(parents=True, exist_ok=True)
    (tmp_path / "home" / ".ssh" / "config").write_text(CONFIG)
    script = 'mount --bind "$0" "$1" && shift && exec "$@"'
    argv = ["unshare", "--mount", "sh", "-c", script, str(tmp_path / "home"), home, words[0], "-G", *words[1:]]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a mount namespace")
@pytest.mark.parametrize(
    ("overrides", "user", "port"), [({}, "root", "22"), (EXISTING, "admin", "2222")], ids=["own", "existing"]
)
def test_ssh_ignores_the_users_configuration(tmp_path: Path, overrides: dict[str, Any], user: str, port: str) -> None:
    connection = command.connection("master-0", hosts(tmp_path, overrides)["master-0"])
    options = effective(connection.ssh(), tmp_path)
    assert (options["user"], options["port"]) == (user, port)
    assert {"proxyjump", "remotecommand", "sendenv"}.isdisjoint(options)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a mount namespace")
def test_an_existing_host_can_opt_in(tmp_path: Path) -> None:
    host = {**EXISTING["nodes.master-0.host"], "ssh_config": True}  # type: ignore[dict-item]
    variables = hosts(tmp_path, {**EXISTING, "nodes.master-0.host": host})["master-0"]
    options = effective(command.connection("master-0", variables).ssh(), tmp_path)
    assert (options["proxyjump"], options["user"], options["port"]) == ("nowhere.example", "admin", "2222")


def test_plain_ansible_connects_as_the_inventory_says(tmp_path: Path) -> None:
    folder = tmp_path / "environments" / "lab"
    folder.mkdir(parents=True)
    resolved = resolve("aio")
    state.write_profile(folder, resolved)
    state.write_network(folder, {**network_plan.make(resolved, {"ipv4": "10.213.9.0/24"}), "bridge": "podman9"})
    state.write_inventory(folder)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {tmp_path}/words; exit 255\n')
    (tmp_path / "bin" / "ssh").chmod(0o755)
    user = {
        "ANSIBLE_TRANSPORT": "local",
        "ANSIBLE_REMOTE_PORT": "99",
        "ANSIBLE_REMOTE_USER": "nobody",
        "ANSIBLE_PRIVATE_KEY_FILE": "/nowhere/key",
        "ANSIBLE_SSH_ARGS": "-o Port=99",
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
    }
    argv = ["-i", str(folder / "inventory.yml"), "nodes", "-m", "ansible.builtin.raw", "-a", "hostname"]
    done = subprocess.run(
        [program("ansible"), *argv],
        env={**os.environ, **user}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "UNREACHABLE" in done.stdout, done.stdout + done.stderr
    words = (tmp_path / "words").read_text().splitlines()
    assert {"Port=22", 'User="root"', f'IdentityFile="{folder}/ssh/id_ed25519"'} <= set(words)
    assert words[words.index("-F") + 1] == "none"
    assert not [word for word in words if word.endswith("Port=99") or "nowhere" in word]
