"""The words of ssh, from a host's variables."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import ssh_options
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import command, reachable, remote
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh.command import Connection

HOST = {"ansible_host": "192.0.2.1"}
END = ["--", "192.0.2.1"]


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, ["-l", "root", *END]),
        ({"ansible_user": "", "ansible_port": None, "ansible_ssh_private_key_file": ""}, ["-l", "root", *END]),
        ({"ansible_user": "admin"}, ["-l", "admin", *END]),
        ({"ansible_port": 2222}, ["-o", "Port=2222", "-l", "root", *END]),
        ({"ansible_port": "2222"}, ["-o", "Port=2222", "-l", "root", *END]),
        ({"ansible_ssh_private_key_file": "/a b/key"}, ["-i", "/a b/key", "-l", "root", *END]),
        # In ssh's IdentityFile, % starts a token.
        ({"ansible_ssh_private_key_file": "/100%%/key"}, ["-i", "/100%%/key", "-l", "root", *END]),
        (
            {"ansible_ssh_common_args": "-o 'UserKnownHostsFile=\"/a b/known\"'"},
            ["-o", 'UserKnownHostsFile="/a b/known"', "-l", "root", *END],
        ),
        ({"ansible_host": "fd77::a"}, ["-l", "root", "--", "fd77::a"]),
    ],
)
def test_connection_variables_become_arguments_of_ssh(variables: dict[str, Any], words: list[str]) -> None:
    assert command.connection("n", HOST | variables).ssh() == ["ssh", *words]


def test_the_key_file_of_a_connection_is_its_path() -> None:
    assert ssh_options.key_path(Path("/100%/key")) == "/100%%/key"
    connection = command.connection("n", HOST | {"ansible_ssh_private_key_file": "/100%%/key"})
    assert connection.key_file == "/100%/key"


def test_the_callers_options_come_first_because_ssh_uses_the_first() -> None:
    connection = Connection("fd77::a", "admin", 2222, "/key", ("-o", "ControlPath=/x"))
    shared = ["-o", "Port=2222", "-i", "/key", "-o", "ControlPath=/x"]
    assert connection.words() == shared
    assert connection.ssh("-o", "ControlPath=none") == [
        "ssh", "-o", "ControlPath=none", *shared, "-l", "admin", "--", "fd77::a",
    ]  # fmt: skip


@pytest.mark.parametrize(("address", "place"), [("192.0.2.1", "me@192.0.2.1:/x"), ("fd77::a", "me@[fd77::a]:/x")])
def test_the_place_of_a_file_for_scp(address: str, place: str) -> None:
    assert Connection(address, "me").place("/x") == place


@pytest.mark.parametrize("variables", [{}, {"ansible_host": ""}])
def test_a_host_without_an_address_is_rejected(variables: dict[str, Any]) -> None:
    with pytest.raises(DevenvError, match="n: has no variable ansible_host"):
        command.connection("n", variables)


@pytest.mark.parametrize(
    ("variables", "first", "python"),
    [
        ({}, [], ("python3",)),
        ({"ansible_become": True}, [], ("sudo", "-n", "python3")),
        ({"ansible_become": False}, [], ("python3",)),
        ({"ansible_python_interpreter": "/usr/bin/python3.11"}, [], ("/usr/bin/python3.11",)),
        ({"ansible_python_interpreter": "auto"}, [], ("python3",)),
        ({"separate": True}, ["-o", "ControlPath=none"], ("python3",)),
    ],
)
def test_a_target_has_the_ssh_command_and_the_interpreter(
    variables: dict[str, Any], first: list[str], python: tuple[str, ...]
) -> None:
    words = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=7", *first, "-l", "root", *END]
    separate = variables.pop("separate", False)
    assert remote.target("n", HOST | variables, own_connection=separate, patience=7) == remote.Target(
        "n", tuple(words), python
    )


def test_reachability_is_checked_at_the_hosts_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as greeting, socket.create_server(("127.0.0.1", 0)) as silent:
        port = greeting.getsockname()[1]
        targets = {
            "greets": Connection("127.0.0.1", port=port),
            "silent": Connection("127.0.0.1", port=silent.getsockname()[1]),
            "closed": Connection("127.0.0.1", port=1),
        }

        def greet() -> None:
            connection = greeting.accept()[0]
            connection.sendall(b"SSH-2.0-x\r\n")
            connection.close()

        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        assert reachable.answering_ssh(targets, 0.3) == ["greets"]
        thread.join(10)
