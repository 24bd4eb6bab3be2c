"""devenv node and devenv certs: what they run, and what they refuse. Runs are replaced, as in test_cli.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import state
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import remote
from ansible_collections.devenv.lab.plugins.plugin_utils.validation import certificates
from support.runs import Request

from devenv import cli

Made = Callable[..., Path]


@pytest.mark.parametrize(
    ("words", "playbook", "variables"),
    [
        (["node", "add"], "cluster", {"devenv_overrides": {"nodes.worker-2": {}}}),
        (
            ["node", "add", "master-1", "--set", "memory=4GiB"],
            "cluster",
            {"devenv_overrides": {"nodes.master-1": {}, "nodes.master-1.memory": "4GiB"}},
        ),
        (
            ["node", "remove", "worker-0", "worker-1"],
            "cluster",
            {"devenv_overrides": {"nodes.worker-0": None, "nodes.worker-1": None}},
        ),
        (["node", "replace", "worker-0"], "replace", {"devenv_replace": ["worker-0"]}),
        (["certs", "renew"], "certificates", {}),
        (["certs", "renew", "--within", "30d"], "certificates", {"devenv_within": 30 * 86400}),
    ],
)
def test_a_command_runs_its_playbook_with_these_variables(
    made: Made, requests: list[Request], words: list[str], playbook: str, variables: dict[str, Any]
) -> None:
    made("lab", "master-2pipe")
    assert cli.main([*words, "-n", "lab"]) == 0
    (request,) = requests
    assert request.playbook == playbook
    full = {"devenv_full": True} if playbook == "cluster" else {}
    assert dict(request.variables) == {"devenv_name": "lab", **variables, **full}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["node", "remove", "master-0"], 14, "last control plane node"),
        (["node", "replace", "master-0"], 14, "last control plane node"),
        (["node", "remove", "worker-7"], 2, "worker-7"),
        (["node", "add", "worker-1"], 2, "worker-1"),
        (["node", "add", "worker-8"], 2, "worker-2"),
        (["node", "add", "--set", "memory=lots"], 2, "memory"),
        (["node", "change-address"], 14, "worker-0"),
        (["node", "change-address", "master-0"], 14, "cluster main has"),
        (["certs", "renew", "--within", "soon"], 2, "--within"),
        (["up", "--set", "nodes.master-0=null", "--set", "nodes.master-1={}"], 14, "master-0"),
    ],
)
def test_refused_before_ansible_starts(
    made: Made,
    requests: list[Request],
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    message: str,
) -> None:
    folder = made("lab", "master-2pipe")
    (folder / "ledger.jsonl").write_text('{"stage": "provision"}\n')
    assert cli.main([*words, "-n", "lab"]) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert requests == []


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--address", "10.213.9.77"], 0, ""),
        ([], 0, ""),
        (["--address", "10.213.9.5"], 2, ".10"),
        (["--address", "192.0.2.7"], 2, "is not in"),
        (["--address", "fd00::12"], 2, "is not in"),
        (["--address", "here"], 2, "not a valid IP address"),
    ],
)
def test_change_address_accepts_only_free_addresses_of_the_subnet(
    made: Made,
    requests: list[Request],
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    message: str,
) -> None:
    made("lab", "aio")
    assert cli.main(["node", "change-address", *words, "-n", "lab"]) == code
    assert message in capsys.readouterr().err
    assert [request.playbook for request in requests] == (["address"] if code == 0 else [])


def test_list_shows_the_nodes_to_be_removed(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    folder = made("lab", "master-2pipe")
    state.write_profile(folder, resolve("master-2pipe", overrides={"nodes.worker-0": None}))
    assert cli.main(["node", "list", "-n", "lab", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"]: row["leaving"] for row in rows} == {"master-0": False, "worker-1": False, "worker-0": True}
    assert {row["cluster"] for row in rows} == {"main"}


def test_certificates_are_listed_with_the_nodes_that_do_not_answer(
    made: Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made("lab", "master-2pipe")
    expiry = {"a": "2027-01-02T00:00:00Z", "b": "2026-12-02T00:00:00Z"}

    def ask_all(targets: list[remote.Target], source: str, seconds: float) -> dict[str, remote.Answer]:
        assert [target.name for target in targets] == ["master-0", "worker-0", "worker-1"]
        return {
            "master-0": remote.Answer("master-0", data={"certificates": expiry}),
            "worker-0": remote.Answer("worker-0", trouble="no route"),
        }

    monkeypatch.setattr(certificates.remote, "ask_all", ask_all)
    assert cli.main(["certs", "list", "-n", "lab", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["node"], row["path"], row["trouble"]) for row in rows] == [
        ("worker-0", "", "no route"),
        ("master-0", "b", ""),
        ("master-0", "a", ""),
    ]
