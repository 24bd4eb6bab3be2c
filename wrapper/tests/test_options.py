"""Options and arguments: short forms, a profile from standard input, and combinations that have no effect."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import lock
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import document
from support.runs import Request
from support.waits import until

from devenv.cli import options
from devenv.runs import history

Devenv = Callable[..., tuple[int, str, str]]
Made = Callable[..., Path]


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_version_is_an_option_too(devenv: Devenv, option: str) -> None:
    code, out, _ = devenv(option)
    assert (code, out.split()[0]) == (0, "devenv")


def test_up_has_short_forms_of_set(devenv: Devenv, requests: list[Request]) -> None:
    assert devenv("up", "-p", "aio", "--kubernetes", "1.35.4", "--engine", "kubeadm", "--provider", "podman")[0] == 0
    assert requests[0].variables["devenv_overrides"] == {
        "kubernetes.version": "1.35.4",
        "kubernetes.engine": "kubeadm",
        "provider": "podman",
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--kubernetes", "1.35.4", "--set", "kubernetes.version=1.36.3"], "two values for kubernetes.version"),
        (["--provider", "baremetal"], "not built yet"),
        (["--engine", "kubadm"], "meant kubeadm?"),
        (["--kubernetes", "1.3"], "is not known"),
    ],
)
def test_a_short_form_is_checked_before_the_run(
    devenv: Devenv, requests: list[Request], words: list[str], message: str
) -> None:
    code, _, err = devenv("up", "-p", "aio", *words)
    assert (code, requests) == (2, [])
    assert message in err


def standard_input(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    document._standard_input.cache_clear()


def test_up_reads_a_profile_from_standard_input(
    devenv: Devenv, requests: list[Request], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("base.yml").write_text("extends: aio\nnodes: {worker-0: {}}\n")
    standard_input(monkeypatch, "extends: ./base.yml\nnodes: {worker-1: {}}\n")
    code, _, err = devenv("plan", "--profile", "-", "--json")
    assert code == 0, err
    code, _, err = devenv("up", "--profile", "-", "--name", "lab")
    assert code == 0, err
    profile = Path(str(requests[0].variables["profile"]))
    assert profile.is_absolute()
    assert not profile.exists()  # removed after the run


@pytest.mark.parametrize(("text", "message"), [("", "the file is empty"), ("nodes: [", "standard input, line 1")])
def test_a_wrong_profile_in_standard_input_is_named(
    devenv: Devenv, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    standard_input(monkeypatch, text)
    code, _, err = devenv("up", "--profile", "-")
    assert code == 2
    assert message in err


def test_up_uses_devenv_yml_of_the_working_directory(
    devenv: Devenv, requests: list[Request], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("devenv.yml").write_text("extends: sno\n")
    code, _, err = devenv("up")
    assert code == 0
    assert "profile: ./devenv.yml" in err
    assert requests[0].variables["profile"] == str(tmp_path / "devenv.yml")
    devenv("up", "--profile", "aio")
    assert requests[1].variables["profile"] == "aio"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["logs", "master-0", "--path"], "--path has no effect with a node"),
        (["logs", "master-0", "--runs"], "--runs has no effect with a node"),
        (["logs", "--unit", "kubelet"], "--unit has no effect without a node"),
        (["logs", "--json"], "--json has no effect without --runs"),
        (["logs", "--runs", "--follow"], "--follow has no effect with --runs"),
        (["logs", "--path", "--lines", "3"], "--lines has no effect with --path"),
        (["up", "-p", "aio", "--check", "--no-gather"], "--no-gather has no effect with --check"),
        (["up", "-p", "aio", "--check", "--on-failure", "destroy"], "--on-failure destroy has no effect"),
        (["upgrade", "--kubernetes", "1.36.3", "--plan", "--check"], "--check has no effect with --plan"),
        (["upgrade", "--kubernetes", "1.36.3", "--plan", "--", "-v"], "-- has no effect with --plan"),
        (["bundle", "build", "--directory", "d"], "--directory has no effect with --source auto"),
        (["bundle", "build", "--source", "cache", "--mirror", "helm=http://h"], "--mirror has no effect"),
        (["profile", "diff", "aio", "ha", "--name", "lab"], "--name has no effect with two profiles"),
        (["node", "list", "--", "-v"], "node list accepts no arguments after --"),
        (["snapshot", "rm", "s", "--", "-v"], "snapshot rm accepts no arguments after --"),
        (["status", "--", "-v"], "status accepts no arguments after --"),
    ],
)
def test_an_option_without_effect_is_refused(devenv: Devenv, made: Made, words: list[str], message: str) -> None:
    made("lab")
    code, _, err = devenv(*words)
    assert code == 2, err
    assert message in err


def test_validate_takes_the_timeout_of_the_docs(devenv: Devenv, made: Made, requests: list[Request]) -> None:
    made("lab")
    devenv("validate", "-e", "validate_timeout=900")
    assert requests[0].variables["devenv_timeout"] == 900
    assert requests[0].options.extra == [{"validate_timeout": "900"}]


def test_lines_limits_the_log_of_a_run(devenv: Devenv, made: Made) -> None:
    run = made("lab") / "runs" / "20260102T000000Z-bbb"
    run.mkdir(parents=True)
    (run / "log.txt").write_text("one\ntwo\nthree\n")
    assert devenv("logs", "--lines", "2")[1] == "two\nthree\n"


def test_follow_prints_the_log_of_the_running_command_until_it_ends(made: Made) -> None:
    folder = made("lab")
    (folder / "runs" / "20260102T000000Z-old").mkdir(parents=True)
    (folder / "runs" / "20260102T000000Z-old" / "log.txt").write_text("old\n")
    child = subprocess.Popen(["sleep", "60"])
    try:
        holder = lock.holder_of(child.pid, "bbb", "devenv up")
        (folder / "lock").write_text(json.dumps(vars(holder)))
        seen: list[str] = []
        thread = threading.Thread(target=lambda: seen.extend(history.log("lab", follow=True)))
        thread.start()
        log = folder / "runs" / "20260103T000000Z-bbb" / "log.txt"
        log.parent.mkdir()
        log.write_text("first\n")
        until(lambda: "first\n" in "".join(seen))
        with log.open("a") as stream:
            stream.write("second\n")
        until(lambda: "second\n" in "".join(seen))
        assert thread.is_alive()
    finally:
        child.kill()
        child.wait()
    thread.join(30)
    assert not thread.is_alive()
    assert "".join(seen) == "first\nsecond\n"


def test_follow_ends_at_once_if_nothing_runs(devenv: Devenv, made: Made) -> None:
    run = made("lab") / "runs" / "20260102T000000Z-bbb"
    run.mkdir(parents=True)
    (run / "log.txt").write_text("done\n")
    assert devenv("logs", "--follow") == (0, "done\n", "")


@pytest.mark.parametrize("name", ["aio", "ha-dualstack-dhcp", "tna"])
def test_profile_show_prints_a_valid_profile(devenv: Devenv, tmp_path: Path, name: str) -> None:
    shown = devenv("profile", "show", name)[1]
    path = tmp_path / "x.yml"
    path.write_text(shown)
    assert yaml.safe_load(devenv("profile", "show", str(path))[1]) == yaml.safe_load(shown)
    assert os.linesep in shown


@pytest.mark.parametrize(
    ("key", "value"),
    [("families", ["ipv6"]), ("profile", "aio"), ("nodes", [{"name": "master-0", "group": "workers"}])],
)
def test_a_contradicting_key_of_a_resolved_profile_is_refused(
    devenv: Devenv, tmp_path: Path, key: str, value: Any
) -> None:
    path = tmp_path / "x.yml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(devenv("profile", "show", "aio")[1]), key: value}))
    code, _, err = devenv("profile", "validate", str(path))
    assert code == 2
    assert "follows from other keys" in err
    assert key in err


@pytest.mark.parametrize("left_out", ["profile", "families", "name", "topology", "clusters", "provider", "kubernetes"])
def test_keys_of_a_resolved_profile_can_be_left_out(devenv: Devenv, tmp_path: Path, left_out: str) -> None:
    path = tmp_path / "x.yml"
    shown = yaml.safe_load(devenv("profile", "show", "aio")[1])
    path.write_text(yaml.safe_dump({key: value for key, value in shown.items() if key not in (left_out, "profile")}))
    code, _, err = devenv("profile", "validate", str(path))
    assert code == 0, err


def test_a_changed_key_without_effect_of_a_resolved_profile_is_refused(devenv: Devenv, tmp_path: Path) -> None:
    path = tmp_path / "x.yml"
    shown = yaml.safe_load(devenv("profile", "show", "aio")[1])
    shown["nodes"][0]["disk"] *= 2
    path.write_text(yaml.safe_dump(shown))
    code, _, err = devenv("profile", "validate", str(path))
    assert code == 2
    assert "nodes.master-0.disk: has no effect" in err


def test_every_list_marks_a_topology_that_no_engine_can_create(devenv: Devenv) -> None:
    for words in (["profile", "list"], ["profile", "list", "--all"]):
        for line in devenv(*words)[1].splitlines():
            assert line.startswith("tna") == ("No engine here can create it" in line), line
    completed = options.complete_profile("")
    marked = {item[0] for item in completed if isinstance(item, tuple)}
    assert marked == {
        name for name in (item if isinstance(item, str) else item[0] for item in completed) if "tna" in name
    }
    err = devenv("profile", "validate", "aio", "--set", "topology=nope")[2]
    assert "tna (no engine here can create it)" in err


def test_what_is_not_built_is_not_listed_as_allowed(devenv: Devenv, tmp_path: Path) -> None:
    path = tmp_path / "x.yml"
    path.write_text("extends: aio\napp: {}\n")
    err = devenv("profile", "validate", str(path))[2]
    assert "unknown key; allowed: " in err
    assert not any(key in err.partition("allowed: ")[2] for key in ("apps", "components", "connectivity", "l2,"))
