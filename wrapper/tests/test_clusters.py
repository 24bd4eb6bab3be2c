"""Commands and the Python API for one of several clusters."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.runs import Runs

import devenv as package
from devenv import errors
from devenv.environments import access, status

Devenv = Callable[..., tuple[int, str, str]]
Made = Callable[..., Path]

# The profile "a cluster for each of two teams" of docs/profiles.md.
TEAMS = {
    "clusters": {"red": {}, "blue": {}},
    "nodes.master-0": {"cluster": "red", "schedulable": True},
    "nodes.master-1": {"cluster": "blue", "schedulable": True},
    "nodes.worker-0": {"cluster": "blue"},
    "nodes.worker-1": {"cluster": None},
}
OPTIONS = ((), ("--cluster", "red"), ("--cluster", "blue"))
BARE = {"clusters": {}, "nodes.master-0": None, "nodes.worker-0": {"cluster": None}}


def write(folder: Path, *clusters: str) -> None:
    for cluster in clusters:
        path = folder / "clusters" / cluster / "kubeconfig"
        path.parent.mkdir(parents=True)
        name = f"devenv-{folder.name}-{cluster}"
        document: dict[str, Any] = {
            "clusters": [{"name": name, "cluster": {"server": "https://[fd00::99]:6443"}}],
            "users": [{"name": name, "user": {"token": "x"}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
            "current-context": name,
        }
        path.write_text(yaml.safe_dump(document))


@pytest.fixture
def teams(made: Made) -> Path:
    folder = made("lab", "sno", overrides=TEAMS)
    write(folder, "red", "blue")
    return folder


def evaluated(out: str) -> dict[str, str]:
    """Return the variables of a shell that evaluates the output of `devenv env`."""
    shown = subprocess.run(["env", "-i", "/bin/sh", "-c", f"{out}\n/usr/bin/env -0"], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    return dict(item.split("=", 1) for item in shown.stdout.split("\0") if item)


def test_every_command_for_a_cluster_requires_its_name_if_several_exist(
    devenv: Devenv, teams: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "execvpe", lambda *_: pytest.fail("was run"))
    for words in (["kubeconfig"], ["env"], ["exec", "--", "true"], ["forward", "web"]):
        code, out, err = devenv(*words)
        assert (code, out) == (2, ""), words
        assert "several clusters exist: red, blue" in err
        assert "--cluster" in err
    assert runs.requests == []


def test_an_unknown_cluster_is_not_found(
    devenv: Devenv, teams: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "execvpe", lambda *_: pytest.fail("was run"))
    for words in (
        ["kubeconfig"],
        ["kubeconfig", "--merge"],
        ["env"],
        ["exec", "--", "true"],
        ["status"],
        ["forward", "web"],
        ["validate"],
        ["snapshot", "save", "s"],
    ):
        before, dashes, after = (words, [], []) if "--" not in words else (words[:1], ["--"], words[2:])
        code, out, err = devenv(*before, "--cluster", "green", *dashes, *after)
        assert (code, out) == (11, ""), words
        assert "no cluster green" in err
        assert "red, blue" in err
    assert runs.requests == []


def test_kubeconfig_env_and_exec_use_the_named_cluster(
    devenv: Devenv, teams: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Mapping[str, str]] = []
    monkeypatch.setattr(os, "execvpe", lambda file, argv, env: calls.append(env))
    for cluster in ("red", "blue"):
        path = teams / "clusters" / cluster / "kubeconfig"
        assert devenv("kubeconfig", "--cluster", cluster, "--path")[1] == f"{path}\n"
        assert devenv("kubeconfig", "--cluster", cluster)[1] == path.read_text()
        assert evaluated(devenv("env", "--cluster", cluster)[1])["KUBECONFIG"] == str(path)
        devenv("exec", "--cluster", cluster, "--", "true")
        assert calls[-1]["KUBECONFIG"] == str(path)


def test_the_only_cluster_needs_no_name(devenv: Devenv, made: Made) -> None:
    folder = made("lab", "sno", overrides={"clusters": {"red": {}, "main": None}, "nodes.master-0": {"cluster": "red"}})
    write(folder, "red")
    path = folder / "clusters" / "red" / "kubeconfig"
    assert devenv("kubeconfig", "--path")[1] == f"{path}\n"
    assert json.loads(devenv("env", "--json")[1])["KUBECONFIG"] == str(path)
    assert json.loads(devenv("status", "--json")[1])["kubeconfig"] == str(path)


@pytest.mark.parametrize("overrides", [BARE, {}])
def test_without_a_cluster_env_fails_and_exec_never_uses_the_users_own(
    devenv: Devenv, made: Made, monkeypatch: pytest.MonkeyPatch, overrides: dict[str, object]
) -> None:
    """An environment without clusters, and one whose cluster does not exist yet."""
    folder = made("lab", "sno", overrides=overrides)
    calls: list[Mapping[str, str]] = []
    monkeypatch.setattr(os, "execvpe", lambda file, argv, env: calls.append(env))
    monkeypatch.setenv("KUBECONFIG", "/the/users/own")
    code, out, err = devenv("env")
    assert (code, out) == (11, "")
    assert "no cluster" in err or "no kubeconfig" in err
    assert devenv("exec", "--", "true")[0] == 0
    assert calls[0]["KUBECONFIG"] == str(folder / "kubeconfig")
    assert not (folder / "kubeconfig").exists()
    assert package.Environment.open("lab").variables["KUBECONFIG"] == str(folder / "kubeconfig")


def test_status_has_the_nodes_of_all_clusters_or_of_one(devenv: Devenv, teams: Path) -> None:
    shown = json.loads(devenv("status", "--json")[1])
    assert {node["name"]: node["cluster"] for node in shown["nodes"]} == {
        "master-0": "red",
        "master-1": "blue",
        "worker-0": "blue",
        "worker-1": "",
    }
    assert [row["name"] for row in shown["clusters"]] == ["red", "blue"]
    assert shown["kubeconfig"] is None
    assert "red: " in shown["api"]
    assert "blue: " in shown["api"]
    blue = json.loads(devenv("status", "--cluster", "blue", "--json")[1])
    assert [node["name"] for node in blue["nodes"]] == ["master-1", "worker-0"]
    assert [row["name"] for row in blue["clusters"]] == ["blue"]
    assert blue["kubeconfig"] == str(teams / "clusters" / "blue" / "kubeconfig")
    assert "CLUSTER" in devenv("status")[1]


def test_the_state_of_a_cluster_is_that_of_its_own_nodes(
    devenv: Devenv, teams: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = {"master-0": "running", "master-1": "exited", "worker-0": "exited", "worker-1": "running"}
    monkeypatch.setattr(status, "node_states", lambda name: machines)
    states = {option: json.loads(devenv("status", *option, "--json")[1])["state"] for option in OPTIONS}
    assert states == dict(zip(OPTIONS, ("partly", "running", "stopped"), strict=True))


def test_validate_and_snapshot_pass_the_cluster_to_the_playbook(devenv: Devenv, teams: Path, runs: Runs) -> None:
    assert devenv("validate", "--cluster", "blue")[0] == 0
    assert devenv("snapshot", "save", "s", "--cluster", "red")[0] == 0
    assert devenv("validate")[0] == 0
    assert [request.variables.get("devenv_clusters") for request in runs.requests] == [["blue"], ["red"], None]


def test_merge_adds_all_clusters_or_one_and_switches_on_request(
    devenv: Devenv, teams: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = tmp_path / "config"
    users.write_text(yaml.safe_dump({"contexts": [{"name": "work", "context": {}}], "current-context": "work"}))
    monkeypatch.setenv("KUBECONFIG", str(users))
    before = yaml.safe_load(users.read_text())

    def contexts() -> tuple[list[str], str]:
        document = yaml.safe_load(users.read_text())
        return [entry["name"] for entry in document["contexts"]], document["current-context"]

    assert devenv("kubeconfig", "--merge", "--cluster", "blue")[0] == 0
    assert contexts() == (["work", "devenv-lab-blue"], "work")
    code, _, err = devenv("kubeconfig", "--merge")
    assert code == 0
    assert contexts() == (["work", "devenv-lab-blue", "devenv-lab-red"], "work")
    assert "--context devenv-lab-red" in err
    assert "--context devenv-lab-blue" in err
    assert devenv("kubeconfig", "--merge", "--switch-context")[0] == 2
    assert devenv("kubeconfig", "--merge", "--switch-context", "--cluster", "red")[0] == 0
    assert contexts() == (["work", "devenv-lab-blue", "devenv-lab-red"], "devenv-lab-red")
    assert devenv("kubeconfig", "--switch-context")[0] == 2
    assert devenv("kubeconfig", "--unmerge", "--cluster", "red")[0] == 2
    assert devenv("kubeconfig", "--unmerge")[0] == 0
    after = yaml.safe_load(users.read_text())
    assert (after["contexts"], after["current-context"]) == (before["contexts"], "work")


def test_the_environment_has_its_clusters(teams: Path, runs: Runs) -> None:
    lab = package.Environment.open("lab")
    assert list(lab.clusters) == ["red", "blue"]
    red = lab.clusters["red"]
    assert isinstance(red, package.Cluster)
    assert red.kubeconfig == teams / "clusters" / "red" / "kubeconfig"
    assert red.context == "devenv-lab-red"
    assert red.variables["KUBECONFIG"] == str(red.kubeconfig)
    assert [node["name"] for node in red.status()["nodes"]] == ["master-0"]
    red.validate()
    red.save("s")
    assert [request.variables["devenv_clusters"] for request in runs.requests] == [["red"], ["red"]]
    with pytest.raises(errors.UsageError, match="several clusters"):
        _ = lab.kubeconfig
    with pytest.raises(KeyError):
        _ = lab.clusters["green"]


def test_the_options_of_a_cluster_complete_its_name(teams: Path) -> None:
    from types import SimpleNamespace

    from devenv.cli import options

    context: Any = SimpleNamespace(params={"name": "lab"})
    assert options.complete_cluster(context, "") == ["red", "blue"]
    assert options.complete_cluster(context, "b") == ["blue"]


# --- proxies ---------------------------------------------------------------------------------------------------------


def test_env_adds_the_environments_hosts_to_both_variables(
    devenv: Devenv, teams: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "example.org, localhost")
    monkeypatch.setenv("no_proxy", "other.example.org")
    shown = evaluated(devenv("env", "--cluster", "red")[1])
    items = shown["NO_PROXY"].split(",")
    assert shown["no_proxy"] == shown["NO_PROXY"]
    assert items[:3] == ["example.org", "localhost", "other.example.org"]
    assert {"10.213.9.0/24", "10.213.9.10", "master-0", "worker-1", "lab.devenv.internal", "[fd00::99]"} <= set(items)
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(variable, shown[variable])
    assert evaluated(devenv("env", "--cluster", "red")[1])["NO_PROXY"] == shown["NO_PROXY"]
    assert access.variables("lab", "red", {"NO_PROXY": "*"})["no_proxy"] == "*"
