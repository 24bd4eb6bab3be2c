"""The command: arguments, output, exit codes. Runs are replaced here; test_runner.py has real ones."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from ansible_collections.devenv.lab.plugins.plugin_utils.diagnostics import archive
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import state
from ansible_collections.devenv.lab.plugins.plugin_utils.host import dhcp
from ansible_collections.devenv.lab.plugins.plugin_utils.host.network import Network
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import names as profile_names
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.libvirt import driver as libvirt
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import cli as podman
from support.runs import Runs

from devenv import errors
from devenv.cli import app as commands
from devenv.cli import options, output
from devenv.environments import prune, target
from devenv.runs import runner
from devenv.runs.outcome import RunOutcome

Devenv = Callable[..., tuple[int, str, str]]
Made = Callable[..., Path]


def failed(**failure: Any) -> RunOutcome:
    row = {
        "stage": "provision",
        "reason": "podman_failed",
        "exit": 3,
        "message": "disk full",
        "advice": "free some space",
        "host": "master-0",
    }
    return RunOutcome("run1", code=2, failure={**row, "task": "create | Create", "file": "/x.yml:3", **failure})


# --- up --------------------------------------------------------------------------------------------------------------


def test_up_runs_the_profile_and_prints_the_next_steps(devenv: Devenv, runs: Runs) -> None:
    code, out, err = devenv("up", "--profile", "aio")
    assert code == 0
    assert out == "changed=3\n"
    assert [line.split(":")[0] for line in err.splitlines()[-3:]] == ["aio is up", "use it", "remove it"]
    request = runs.requests[0]
    assert request.playbook == "cluster"
    assert dict(request.variables) == {"devenv_name": "aio", "profile": "aio", "devenv_full": True}
    assert request.options.command.startswith("devenv")


def record(folder: Path, **summary: Any) -> None:
    """Write the record of the run run1."""
    run_dir = folder / "runs" / "20261130T120000Z-run1"
    run_dir.mkdir(parents=True)
    (run_dir / "summary.json").write_text(json.dumps(summary))


@pytest.mark.parametrize(
    ("outcome", "summary", "last"),
    [
        (RunOutcome("run1", results=9, staged=True), {"complete": True}, "remove it:  devenv down"),
        (
            RunOutcome("run1", results=9, staged=True),
            {
                "complete": False,
                "environment": "aio",
                "stages": [{"name": "labels", "result": "done"}],
                "remaining": ["addons", "prepare on worker-0"],
            },
            "aio: done to labels; not done: addons, prepare on worker-0",
        ),
        # In check mode, and if the record could not be written.
        (RunOutcome("run1", results=9, staged=True), None, "devenv status -n aio shows its state"),
        (RunOutcome("run1"), None, "aio: nothing was done"),
    ],
)
def test_up_reports_success_only_if_the_record_of_the_run_is_complete(
    devenv: Devenv, runs: Runs, made: Made, outcome: RunOutcome, summary: dict[str, Any] | None, last: str
) -> None:
    folder = made("aio")
    if summary is not None:
        record(folder, **summary)
    runs.outcomes.append(outcome)
    code, _, err = devenv("up", "--name", "aio", "--full")
    assert code == 0
    assert err.splitlines()[-1].endswith(last)
    assert ("is up" in err) is bool(summary and summary["complete"])


def test_up_passes_options_to_ansible(devenv: Devenv, runs: Runs, tmp_path: Path) -> None:
    given = tmp_path / "given.yml"
    given.write_text("a: 1\n")
    words = [
        "up",
        "-p",
        "aio",
        "-n",
        "lab",
        "-e",
        "x=1",
        "-e",
        f"@{given}",
        "--tags",
        "t",
        "--limit",
        "nodes",
        "--check",
        "--diff",
        "-vv",
    ]
    words += [
        "--forks",
        "3",
        "--timeout",
        "1m30s",
        "--artifacts",
        "out",
        "--set",
        "nodes.master-0.memory=3GiB",
        "--",
        "--start-at-task",
        "x y",
    ]
    code, _, err = devenv(*words)
    assert code == 0, err
    request = runs.requests[0]
    assert request.options.ansible_arguments() == [
        "--check",
        "--diff",
        "--tags",
        "t",
        "--limit",
        "nodes",
        "--forks",
        "3",
        "--start-at-task",
        "x y",
    ]
    assert request.options.extra == [{"x": "1"}, given]
    assert (request.options.verbosity, request.options.timeout) == (2, 90.0)
    assert dict(request.variables) == {
        "devenv_name": "lab",
        "profile": "aio",
        "devenv_full": True,
        "devenv_overrides": {"nodes.master-0.memory": "3GiB"},
        "devenv_timeout": 90,
        "devenv_artifacts": str(Path("out").absolute()),
    }


def test_up_accepts_a_profile_file(devenv: Devenv, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("My Lab.yml").write_text("extends: aio\n")
    assert devenv("up", "--profile", "./My Lab.yml")[0] == 0
    profile = str(tmp_path / "My Lab.yml")
    assert dict(runs.requests[0].variables) == {"devenv_name": "my-lab", "profile": profile, "devenv_full": True}


def test_up_without_a_profile_keeps_the_stored_one(devenv: Devenv, runs: Runs, made: Made) -> None:
    made("lab")
    assert devenv("up")[0] == 0
    assert dict(runs.requests[0].variables) == {"devenv_name": "lab", "devenv_full": True}


def test_up_as_json_prints_one_object_per_line(devenv: Devenv, runs: Runs) -> None:
    code, out, err = devenv("up", "-p", "aio", "--json")
    assert code == 0
    assert err == ""
    documents = [json.loads(line) for line in out.splitlines()]
    assert documents[-1] == {"type": "end", "exit": 0, "changed": 3, "seconds": documents[-1]["seconds"]}


def test_a_failure_is_reported_in_three_lines(devenv: Devenv, runs: Runs, own_home: Path) -> None:
    folder = own_home / "environments" / "aio" / "runs" / "20260101T000000Z-run1"
    folder.mkdir(parents=True)
    runs.outcomes.append(failed())
    code, out, err = devenv("up", "-p", "aio")
    assert code == 3
    assert out == ""
    assert err.splitlines() == [
        "error: disk full (master-0, create | Create, /x.yml:3) [podman_failed]",
        "next: free some space",
        f"log: {folder / 'log.txt'}",
    ]


def test_the_recorded_failure_takes_precedence_over_events(devenv: Devenv, runs: Runs, own_home: Path) -> None:
    folder = own_home / "environments" / "aio" / "runs" / "20260101T000000Z-run1"
    folder.mkdir(parents=True)
    (folder / "failure.json").write_text(
        json.dumps(
            {"stage": "validate", "reason": "validate_failed", "exit": 8, "message": "dns", "advice": "check it"}
        )
    )
    runs.outcomes.append(failed())
    code, _, err = devenv("up", "-p", "aio")
    assert code == 8
    assert err.startswith("error: dns [validate_failed]\nnext: check it\n")


def test_a_failure_as_json_has_every_detail(devenv: Devenv, runs: Runs) -> None:
    runs.outcomes.append(failed())
    code, out, _ = devenv("up", "-p", "aio", "--json")
    documents = [json.loads(line) for line in out.splitlines()]
    assert code == 3
    assert documents[-2] == {
        "type": "error", "exit": 3, "reason": "podman_failed", "stage": "provision", "message": "disk full",
        "where": "master-0, create | Create, /x.yml:3", "advice": "free some space", "log": documents[-2]["log"],
        "gathered": None,
    }  # fmt: skip
    assert (documents[-1]["type"], documents[-1]["exit"]) == ("end", 3)


@pytest.mark.parametrize("code", [3, 4, 5, 6, 7, 8, 9, 12, 13])
def test_the_exit_code_is_that_of_the_failed_stage(devenv: Devenv, runs: Runs, code: int) -> None:
    runs.outcomes.append(failed(exit=code))
    assert devenv("up", "-p", "aio")[0] == code


def test_an_interrupted_run_exits_with_128_plus_the_signal(devenv: Devenv, runs: Runs) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        runs.outcomes.append(RunOutcome("run1", code=99, signal=int(number)))
        code, _, err = devenv("up", "-p", "aio")
        assert code == 128 + number
        assert err.startswith("interrupted: ")


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (("up", "-p", "aio"), "next: devenv up continues, devenv down removes it"),
        (("down", "-n", "aio"), "next: devenv down continues"),
        (("stop", "-n", "aio"), "next: run the same command again; it continues where it was interrupted"),
    ],
)
def test_the_advice_after_ctrl_c_fits_the_command(
    devenv: Devenv, runs: Runs, made: Made, words: tuple[str, ...], advice: str
) -> None:
    made("aio")
    runs.outcomes.append(RunOutcome("run1", code=99, signal=int(signal.SIGINT)))
    assert advice in devenv(*words)[2].splitlines()


def test_a_timeout_exits_with_the_code_of_the_stage(devenv: Devenv, runs: Runs) -> None:
    runs.outcomes.append(RunOutcome("run1", code=99, timed_out=True, stage="kubernetes", task="Join"))
    code, _, err = devenv("up", "-p", "aio", "--timeout", "10s")
    assert code == 5
    assert err.startswith("error: not done within 10 s, stopped at: Join")


@pytest.mark.parametrize(("present", "playbooks"), [(False, ["cluster", "destroy"]), (True, ["cluster"])])
def test_on_failure_destroy_removes_only_a_new_environment(
    devenv: Devenv,
    runs: Runs,
    made: Made,
    monkeypatch: pytest.MonkeyPatch,
    own_home: Path,
    present: bool,
    playbooks: list[str],
) -> None:
    if present:
        made("aio")
    original = runner.run

    def run(playbook: str, *arguments: Any) -> RunOutcome:
        if playbook == "cluster" and not present:
            (made("aio") / "runs" / "20260101T000000Z-run1").mkdir(parents=True)
        return original(playbook, *arguments)

    monkeypatch.setattr(runner, "run", run)
    runs.outcomes += [failed(), RunOutcome("run2")]
    code, _, err = devenv("up", "-p", "aio", "--on-failure", "destroy")
    assert code == 3
    if not present:
        assert err.splitlines()[-1].startswith(f"log: {own_home / 'history' / 'aio'}/")
    assert [request.playbook for request in runs.requests] == playbooks


def write_archive(path: Path) -> None:
    """Write what the playbook gather writes: an archive with an index."""
    rows = [
        {"name": "host", "files": 1, "bytes": 2, "seconds": 0.1, "trouble": ""},
        {"name": "nodes/worker-0", "files": 0, "bytes": 0, "seconds": 5.0, "trouble": "no route"},
    ]
    text = json.dumps({"parts": rows}).encode()
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo("top/index.json")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))


@pytest.fixture
def run_dir(made: Made) -> Path:
    """The directory of the run ``run1`` of the environment aio."""
    folder = made("aio") / "runs" / "20260101T000000Z-run1"
    folder.mkdir(parents=True)
    return folder


def test_a_failed_up_names_the_gathered_archive(devenv: Devenv, runs: Runs, run_dir: Path) -> None:
    row = {"stage": "kubernetes", "reason": "kubernetes_failed", "exit": 5, "message": "no"}
    (run_dir / "failure.json").write_text(json.dumps({**row, "gathered": str(run_dir / "gather.tar.gz")}))
    runs.outcomes += [failed(exit=5), failed(exit=5)]
    code, _, err = devenv("up", "-p", "aio")
    assert code == 5
    assert f"gathered: {run_dir / 'gather.tar.gz'}" in err.splitlines()
    devenv("up", "-p", "aio", "--no-gather")
    assert [dict(request.variables).get("devenv_gather") for request in runs.requests] == [None, False]
    assert devenv("up", "-p", "aio", "-e", "devenv_gather=false")[0] == 2


@pytest.mark.parametrize("ended", [failed(exit=4), RunOutcome("run1", code=99, signal=2)])
def test_failed_gathering_does_not_hide_the_failure(
    devenv: Devenv, runs: Runs, run_dir: Path, ended: RunOutcome
) -> None:
    row = {"stage": "prepare", "reason": "prepare_failed", "exit": 4, "message": "disk full", "gather_trouble": "no"}
    (run_dir / "failure.json").write_text(json.dumps(row))
    runs.outcomes.append(ended)
    code, _, err = devenv("up", "-p", "aio")
    assert code == 4
    assert err.startswith("error: disk full")
    assert "not gathered: no" in err.splitlines()


@pytest.mark.parametrize(("words", "gathered"), [([], True), (["--no-gather"], False)])
def test_a_run_that_times_out_gathers(
    devenv: Devenv,
    runs: Runs,
    run_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    words: list[str],
    gathered: bool,
) -> None:
    copies = tmp_path / "artifacts" / "aio-20260101T000000Z-run1"
    copies.mkdir(parents=True)

    def collect(source: archive.Source, output: Path, **_: Any) -> archive.Gathered:
        output.write_text(source.name)
        return archive.Gathered(output, ())

    monkeypatch.setattr(archive, "collect", collect)
    runs.outcomes.append(RunOutcome("run1", code=99, timed_out=True, stage="kubernetes", task="Join"))
    code, _, err = devenv("up", "-p", "aio", "--timeout", "10s", "--artifacts", str(copies.parent), *words)
    assert code == 5
    assert (f"gathered: {run_dir / 'gather.tar.gz'}" in err.splitlines()) is gathered
    assert (copies / "gather.tar.gz").exists() is gathered
    assert [request.playbook for request in runs.requests] == ["cluster"]


def test_gather_prints_the_archive_and_what_is_missing(
    devenv: Devenv, runs: Runs, made: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made("aio")
    original = runner.run

    def run(playbook: str, variables: Mapping[str, Any], *arguments: Any) -> RunOutcome:
        write_archive(Path(str(variables["devenv_output"])))
        return original(playbook, variables, *arguments)

    monkeypatch.setattr(runner, "run", run)
    runs.outcomes += [RunOutcome("run1", results=1), RunOutcome("run2", results=1)]
    code, out, err = devenv("gather", "-n", "aio", "-o", str(tmp_path / "x.tar.gz"))
    assert (code, out.strip()) == (0, str(tmp_path / "x.tar.gz"))
    assert "missing: nodes/worker-0: no route" in err
    code, out, _ = devenv("gather", "-n", "aio", "-o", str(tmp_path / "x.tar.gz"), "--json")
    documents = [json.loads(line) for line in out.splitlines()]
    assert (documents[0]["type"], documents[0]["path"]) == ("gathered", str(tmp_path / "x.tar.gz"))
    assert [part["name"] for part in documents[0]["parts"]] == ["host", "nodes/worker-0"]
    assert documents[-1]["exit"] == 0
    assert devenv("gather", "-n", "aio", "-o", "x.zip")[0] == 2


@pytest.mark.parametrize("ok", [True, False])
def test_validate_prints_one_line_per_check(devenv: Devenv, runs: Runs, made: Made, ok: bool) -> None:
    run_dir = made("aio") / "runs" / "20260101T000000Z-run1"
    run_dir.mkdir(parents=True)
    rows = [
        {"cluster": "main", "name": "api", "ok": True, "seconds": 0.25, "seen": "fine", "warnings": ["soon"]},
        {"cluster": "main", "name": "labels", "ok": ok, "seconds": 3, "seen": "a\nb", "warnings": []},
    ]
    (run_dir / "checks.json").write_text(json.dumps(rows))
    outcomes = [RunOutcome("run1", results=1)] if ok else [failed(exit=8)]
    runs.outcomes += outcomes * 2
    code, out, _ = devenv("validate", "-n", "aio", "--junit", "j.xml")
    assert code == (0 if ok else 8)
    assert out.splitlines()[:3] == [
        "ok      api        0.2s  fine",
        "                warning: soon",
        f"{'ok    ' if ok else 'failed'}  labels     3.0s  a b",
    ]
    assert runs.requests[0].variables["validate_junit"].endswith("/j.xml")
    assert runs.requests[0].variables["devenv_timeout"] == 120
    _, out, _ = devenv("validate", "-n", "aio", "--json")
    assert [json.loads(line) for line in out.splitlines()][:2] == [{"type": "check", **row} for row in rows]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["up"], 2, "no profile was given"),
        (["up", "-p", "aoi"], 2, "nearest name is aio"),
        (["up", "-p", "aio", "-n", "Bad_Name"], 2, "is not a valid name for an environment"),
        (["up", "-p", "aio", "--set", "nodes"], 2, "not path=value"),
        (["up", "-p", "aio", "--set", "nodes.master-0.memory=lots"], 2, "nodes.master-0.memory"),
        (["up", "-p", "aio", "--set", "colour=red"], 2, "unknown key"),
        (["up", "-p", "aio", "-e", "word"], 2, "neither key=value"),
        (["up", "-p", "aio", "-e", "profile=sno"], 2, "-e does not accept profile"),
        (["up", "-p", "aio", "--timeout", "10"], 2, "is not a valid time"),
        (["up", "-p", "aio", "--on-failure", "maybe"], 2, "neither keep nor destroy"),
        (["up", "-p", "aio", "stray"], 2, "stray"),
        (["up", "-p", "./missing.yml"], 2, "no such file"),
        (["up", "--no-such-option"], 2, "No such option"),
        (["upp"], 2, "Did you mean 'up'"),
        (["status"], 11, "no environment exists"),
        (["status", "-n", "lab"], 11, "environment lab does not exist"),
        (["inventory", "-n", "lab"], 11, "environment lab does not exist"),
        (["status", "--", "x"], 2, "accepts no arguments after --"),
        (["exec"], 2, "no command was given"),
        (["status", "--format", "xml"], 2, "is not a valid format"),
        (["prune", "--only", "everything"], 2, "is not a valid kind"),
        (["profile", "show", "nope"], 2, "no profile is named"),
        (["bundle", "verify", "1.36.3"], 12, "no bundle of 1.36.3"),
    ],
)
def test_a_user_error_is_one_line_and_runs_nothing(
    devenv: Devenv, runs: Runs, own_home: Path, words: list[str], code: int, message: str
) -> None:
    actual, out, err = devenv(*words)
    assert (actual, out) == (code, "")
    lines = err.splitlines()
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert all(line.startswith(("next: ", "log: ")) for line in lines[1:])
    assert runs.requests == []
    assert not (own_home / "environments").exists()


def test_a_profile_change_is_refused_before_ansible_starts(devenv: Devenv, runs: Runs, made: Made) -> None:
    made("lab")
    code, _, err = devenv("up", "-p", "aio-dualstack-static", "-n", "lab")
    assert code == 14
    assert "stack" in err
    assert runs.requests == []


def test_a_busy_environment_is_refused_with_its_holder(devenv: Devenv, runs: Runs, made: Made) -> None:
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import lock

    folder = made("lab")
    lock.acquire(folder, lock.holder_of(os.getpid(), "abc", "someone's up"))
    code, _, err = devenv("up", "-p", "aio", "-n", "lab")
    assert code == 10
    assert f"process {os.getpid()} (someone's up)" in err
    assert runs.requests == []


def test_a_defect_writes_its_traceback_to_a_file(devenv: Devenv, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(target, "resolve", broken)
    code, _, err = devenv("up", "-p", "aio")
    assert code == 1
    assert err.startswith("error: ZeroDivisionError: by zero [unexpected]\n")
    log = Path(err.splitlines()[-1].removeprefix("log: "))
    assert "Traceback" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600


# --- down, start, stop, validate -------------------------------------------------------------------------------------


def test_down_and_destroy_remove_the_environment(devenv: Devenv, runs: Runs, made: Made) -> None:
    made("lab")
    for word in ("down", "destroy"):
        code, out, err = devenv(word)
        assert (code, out) == (0, "changed=3\n")
        assert "devenv prune" in err
    assert [(request.playbook, dict(request.variables)) for request in runs.requests] == [
        ("destroy", {"devenv_name": "lab"})
    ] * 2


def test_down_of_a_missing_environment_changes_nothing(devenv: Devenv, runs: Runs, made: Made) -> None:
    made("other")
    code, out, err = devenv("down", "-n", "lab")
    assert (code, out, err) == (0, "changed=0\n", "environment lab does not exist\n")
    assert runs.requests == []


def test_down_without_any_environment_changes_nothing(devenv: Devenv, runs: Runs) -> None:
    assert devenv("down")[:2] == (0, "changed=0\n")


def _container(name: str, home: str, state: str = "running") -> podman.Container:
    return podman.Container(f"{name}-master-0", name, "master-0", home, state, 1, "image")


def test_down_of_an_orphan_works_from_labels(
    devenv: Devenv, runs: Runs, made: Made, monkeypatch: pytest.MonkeyPatch, own_home: Path
) -> None:
    monkeypatch.setattr(podman, "networks", lambda environment=None: [])
    monkeypatch.setattr(podman, "containers", lambda environment=None: [_container("lab", str(own_home))])
    assert devenv("down", "-n", "lab")[0] == 0
    assert [request.playbook for request in runs.requests] == ["destroy"]


def test_down_stops_a_dhcp_server_that_remained_alone(
    devenv: Devenv, runs: Runs, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    made("other")
    monkeypatch.setattr(dhcp, "servers", lambda environment: {7: "1-a"} if environment == "lab" else {})
    assert devenv("down", "-n", "lab")[0] == 0
    assert [request.playbook for request in runs.requests] == ["destroy"]


def test_down_refuses_an_environment_of_another_home(
    devenv: Devenv, runs: Runs, made: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made("here")
    (tmp_path / "elsewhere" / "environments" / "lab").mkdir(parents=True)
    monkeypatch.setattr(podman, "containers", lambda environment=None: [_container("lab", str(tmp_path / "elsewhere"))])
    code, _, err = devenv("down", "-n", "lab")
    assert code == 11
    assert "belongs to" in err
    assert runs.requests == []


@pytest.mark.parametrize(("word", "playbook"), [("start", "start"), ("stop", "stop"), ("validate", "validate")])
def test_a_command_runs_the_playbook_of_its_name(
    devenv: Devenv, runs: Runs, made: Made, word: str, playbook: str
) -> None:
    made("lab")
    assert devenv(word)[:2] == (0, "changed=3\n")
    assert runs.requests[0].playbook == playbook


def test_validate_always_probes_all_nodes(devenv: Devenv, runs: Runs, made: Made) -> None:
    made("lab", "master-2pipe")
    devenv("validate")
    assert runs.requests[0].variables["validate_probes"] == "always"
    assert runs.requests[0].variables["validate_nodes"] == ["master-0", "worker-0", "worker-1"]


def test_several_environments_must_be_named(devenv: Devenv, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    made("one")
    made("two")
    code, _, err = devenv("status")
    assert code == 2
    assert "one, two" in err
    monkeypatch.setenv("DEVENV_NAME", "two")
    assert devenv("status")[1].startswith("two: ")


def test_up_mentions_that_a_variable_selects_the_environment(
    devenv: Devenv, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEVENV_NAME", "aio")
    notes = [devenv("up", *words)[2] for words in (["-p", "ha"], ["-p", "aio"], ["-p", "ha", "-n", "lab"])]
    line = "DEVENV_NAME selects the environment aio; --name NAME selects another"
    assert [line in note.splitlines() for note in notes] == [True, False, False]
    assert [request.variables["devenv_name"] for request in runs.requests] == ["aio", "aio", "lab"]


# --- inspecting ------------------------------------------------------------------------------------------------------


def test_plan_of_a_new_environment_adds_its_nodes(devenv: Devenv, made: Made) -> None:
    made("other")
    code, out, _ = devenv("plan", "-p", "master-2pipe", "--json")
    plan = json.loads(out)
    assert code == 0
    assert plan["add"] == ["node master-0", "node worker-0", "node worker-1"]
    assert (plan["exists"], plan["change"], plan["remove"], plan["refused"]) == (False, [], [], [])


def test_plan_lists_starts_changes_and_removals(
    devenv: Devenv, made: Made, monkeypatch: pytest.MonkeyPatch, own_home: Path
) -> None:
    made("lab")
    containers = [
        _container("lab", str(own_home), "exited"),
        podman.Container("lab-worker-7", "lab", "worker-7", str(own_home), "running", 1, "i"),
    ]
    monkeypatch.setattr(podman, "containers", lambda environment=None: containers)
    code, out, _ = devenv("plan", "-p", "aio", "-n", "lab", "--set", "nodes.master-0.labels.extra=yes", "--json")
    plan = json.loads(out)
    assert (code, plan["add"], plan["start"], plan["remove"]) == (0, [], ["node master-0"], ["node worker-7"])
    assert "nodes.master-0.labels.extra" in plan["change"][0]
    code, out, _ = devenv("plan", "-p", "aio", "-n", "lab", "--set", "nodes.master-0.memory=5GiB")
    assert code == 14
    assert "! refused  nodes.master-0.memory" in out


def test_status_shows_the_actual_nodes(
    devenv: Devenv, made: Made, monkeypatch: pytest.MonkeyPatch, own_home: Path
) -> None:
    made("lab")
    assert "absent" in devenv("status")[1]
    monkeypatch.setattr(podman, "containers", lambda environment=None: [_container("lab", str(own_home))])
    status = json.loads(devenv("status", "--json")[1])
    assert status["state"] == "running"
    assert status["nodes"] == [
        {
            "name": "master-0",
            "group": "control_plane",
            "addresses": ["10.213.9.10"],
            "container": "running",
            "kubernetes": "absent",
            "cluster": "main",
        }
    ]
    assert status["clusters"] == [{"name": "main", "kubeconfig": None, "api": "not created yet"}]


def test_list_shows_orphans_and_environments_of_other_homes(
    devenv: Devenv, made: Made, monkeypatch: pytest.MonkeyPatch, own_home: Path, tmp_path: Path
) -> None:
    made("lab")
    (tmp_path / "elsewhere" / "environments" / "theirs").mkdir(parents=True)
    containers = [
        _container("lab", str(own_home)),
        _container("lost", str(own_home)),
        _container("theirs", str(tmp_path / "elsewhere")),
        _container("gone", str(tmp_path / "nowhere")),
    ]
    monkeypatch.setattr(podman, "containers", lambda environment=None: containers)
    states = {row["name"]: row["state"] for row in json.loads(devenv("list", "--json")[1])}
    assert states == {"lab": "running", "lost": "orphan", "theirs": "elsewhere", "gone": "orphan"}


def test_a_definition_of_a_machine_that_cannot_be_read_is_named(
    devenv: Devenv, made: Made, monkeypatch: pytest.MonkeyPatch, own_home: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(libvirt, "ROOT", tmp_path / "libvirt")
    for name in ("lab", "lost"):
        libvirt.write_network(Network(f"devenv-{name}", name, str(own_home), "dv-1", ["10.9.0.0/24"]))
        path = libvirt.definition_path(name, f"{name}-master-0")
        path.parent.mkdir()
        path.write_text("<")
    (tmp_path / "libvirt" / "bad").mkdir()
    (tmp_path / "libvirt" / "bad" / "environment.json").write_text("{")
    made("lab", "sno", overrides={"provider": "libvirt"})
    rows = {row["name"]: (row["state"], row["unreadable"]) for row in json.loads(devenv("list", "--json")[1])}
    assert rows == {
        "bad": ("orphan", ["network"]),
        "lab": ("broken", ["master-0"]),
        "lost": ("orphan", ["master-0"]),
    }
    shown = devenv("list")[1]
    assert "lab: cannot read the definition of master-0; " in shown
    assert "lost: cannot read the definition of master-0; " in shown
    code, out, _ = devenv("status", "-n", "lab")
    assert (code, "cannot read the definition of master-0" in out) == (15, True)
    assert json.loads(devenv("status", "-n", "lab", "--json")[1])["unreadable"] == ["master-0"]


def test_inventory_prints_the_static_inventory(devenv: Devenv, made: Made) -> None:
    folder = made("lab")
    assert devenv("inventory") == (0, (folder / "inventory.yml").read_text(), "")
    for words in (["--json"], ["--format", "json"]):
        assert json.loads(devenv("inventory", *words)[1])["all"]["hosts"]["master-0"]["ansible_host"] == "10.213.9.10"


def test_inventory_without_nodes_is_not_found(devenv: Devenv, made: Made) -> None:
    made("lab", claimed=False)
    code, _, err = devenv("inventory")
    assert code == 11
    assert "no nodes yet" in err


def write_kubeconfig(folder: Path, cluster: str = "main") -> Path:
    path = folder / "clusters" / cluster / "kubeconfig"
    path.parent.mkdir(parents=True)
    path.write_text("")
    return path


def test_env_can_be_evaluated_by_a_shell(devenv: Devenv, made: Made, own_home: Path) -> None:
    folder = made("lab")
    write_kubeconfig(folder)
    (folder / "kubeconfig").symlink_to("clusters/main/kubeconfig")
    out = devenv("env")[1]
    shown = subprocess.run(
        ["sh", "-c", f'{out}\nprintf "%s\\n" "$DEVENV_NAME" "$KUBECONFIG" "$ANSIBLE_INVENTORY"'],
        capture_output=True,
        text=True,
    )
    assert shown.stdout.splitlines() == ["lab", str(folder / "kubeconfig"), str(folder / "inventory.yml")]


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], Mapping[str, str]]]:
    """The programs that replaced the process, with their variables."""
    calls: list[tuple[list[str], Mapping[str, str]]] = []
    monkeypatch.setattr(os, "execvpe", lambda file, argv, env: calls.append((argv, env)))
    return calls


def test_ssh_builds_the_command_line(
    devenv: Devenv, made: Made, replaced: list[tuple[list[str], Mapping[str, str]]]
) -> None:
    folder = made("lab")
    devenv("ssh")
    devenv("ssh", "master-0", "--", "journalctl | tail")
    devenv("ssh", "--", "sh", "-c", "echo a b")
    assert replaced[0][0][:5] == ["ssh", "-o", "Port=22", "-i", str(folder / "ssh" / "id_ed25519")]
    assert "StrictHostKeyChecking=yes" in replaced[0][0]
    assert replaced[0][0][-4:] == ["-l", "root", "--", "10.213.9.10"]
    assert replaced[1][0][-2:] == ["10.213.9.10", "journalctl | tail"]
    assert replaced[2][0][-2:] == ["10.213.9.10", "sh -c 'echo a b'"]


THREE = ("master-0", "worker-0", "worker-1")


def test_ssh_and_logs_use_the_connection_of_existing_hosts(
    devenv: Devenv, made: Made, replaced: list[tuple[list[str], Mapping[str, str]]]
) -> None:
    hosts: dict[str, Any] = {name: {"addresses": [f"10.213.9.{9 + number}"]} for number, name in enumerate(THREE, 1)}
    hosts["worker-0"] |= {"user": "admin", "become": True, "port": 2222}
    made(
        "lab",
        "master-2pipe",
        overrides={"provider": "existing"} | {f"nodes.{name}.host": hosts[name] for name in THREE},
    )
    devenv("ssh", "worker-0", "--", "id", "-u")
    devenv("logs", "worker-0", "--unit", "kubelet", "--lines", "5")
    for (argv, _), line in zip(
        replaced, ("id -u", "sudo -n journalctl --no-pager --lines=5 --unit=kubelet"), strict=True
    ):
        assert argv[:3] == ["ssh", "-o", "Port=2222"]
        assert not {"-i", "IdentitiesOnly=yes"} & set(argv)
        assert argv[-5:] == ["-l", "admin", "--", "10.213.9.11", line]


def test_ssh_refuses_an_unknown_and_an_ambiguous_node(devenv: Devenv, made: Made, replaced: list[Any]) -> None:
    made("lab", "master-2pipe")
    code, _, err = devenv("ssh", "worker-9")
    assert code == 11
    assert "worker-1" in err
    assert devenv("ssh")[0] == 2
    assert replaced == []


def test_exec_sets_the_variables_of_the_environment(
    devenv: Devenv, made: Made, replaced: list[tuple[list[str], Mapping[str, str]]]
) -> None:
    made("lab")
    devenv("exec", "--", "env", "-i")
    argv, env = replaced[0]
    assert argv == ["env", "-i"]
    assert env["DEVENV_NAME"] == "lab"
    assert "HOME" in env


def test_logs_prints_runs_of_state_and_history(devenv: Devenv, made: Made, own_home: Path) -> None:
    folder = made("lab")
    for base, run, text in (
        (own_home / "history" / "lab", "20260101T000000Z-aaa", "old"),
        (folder / "runs", "20260102T000000Z-bbb", "new"),
    ):
        (base / run).mkdir(parents=True)
        (base / run / "log.txt").write_text(f"{text}\n")
    (folder / "runs" / "20260102T000000Z-bbb" / "summary.json").write_text('{"run": "bbb", "exit": 0, "changed": 4}')
    assert devenv("logs")[1] == "new\n"
    assert devenv("logs", "--run", "aaa")[1] == "old\n"
    assert devenv("logs", "--path")[1].strip().endswith("20260102T000000Z-bbb/log.txt")
    assert [row["run"] for row in json.loads(devenv("logs", "--runs", "--json")[1])] == ["aaa", "bbb"]
    assert devenv("logs", "--run", "zzz")[0] == 11


def test_kubeconfig_prints_merges_and_unmerges(
    devenv: Devenv, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made("lab")
    assert devenv("kubeconfig")[0] == 11
    kubeconfig = folder / "clusters" / "main" / "kubeconfig"
    kubeconfig.parent.mkdir(parents=True)
    kubeconfig.write_text(yaml.safe_dump({"contexts": [{"name": "devenv-lab", "context": {}}]}))
    assert devenv("kubeconfig")[1] == kubeconfig.read_text()
    assert devenv("kubeconfig", "--path")[1] == f"{kubeconfig}\n"
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "mine"))
    assert devenv("kubeconfig", "--merge")[0] == 0
    assert "devenv-lab" in (tmp_path / "mine").read_text()
    assert devenv("kubeconfig", "--unmerge")[0] == 0
    assert not (tmp_path / "mine").exists()
    assert devenv("kubeconfig", "--merge", "--path")[0] == 2


# --- profiles, this machine ------------------------------------------------------------------------------------------


def test_profile_list_shows_short_names_and_axes(devenv: Devenv) -> None:
    lines = devenv("profile", "list")[1].splitlines()
    names = [line.split()[0] for line in lines[1 : lines.index("")]]
    assert names == sorted(path.stem for path in (paths.CONFIGS / "profiles").glob("*.yml"))
    assert "stack:      ipv4, ipv6, dualstack, dualstack6" in lines
    assert "addressing: static, dhcp" in lines


def test_profile_list_all_has_every_full_name(devenv: Devenv) -> None:
    rows = json.loads(devenv("profile", "list", "--json")[1])
    lines = devenv("profile", "list", "--all")[1].splitlines()
    assert [line.split()[0] for line in lines[1:]] == [row["profile"] for row in rows]
    assert f"all {len(rows)} full names" in devenv("profile", "list")[1]
    assert len(rows) == len(profile_names.canonical())


def test_profile_show_and_validate_resolve_the_profile(devenv: Devenv) -> None:
    assert yaml.safe_load(devenv("profile", "show", "aio")[1])["profile"] == "aio-ipv4-static"
    assert json.loads(devenv("profile", "show", "sno", "--json")[1])["topology"] == "sno"
    assert devenv("profile", "validate", "aio")[1].startswith("aio: aio-ipv4-static, 1 nodes")


def test_profile_diff_marks_what_can_be_applied(devenv: Devenv, made: Made) -> None:
    assert devenv("profile", "diff", "aio", "aio-ipv4-static")[1] == "no difference\n"
    assert "~ nodes.master-0.labels.pipe: true -> None" in devenv("profile", "diff", "aio", "sno")[1]
    assert "! stack: ipv4 -> ipv6" in devenv("profile", "diff", "aio", "aio-ipv6-static")[1]
    made("lab", "sno")
    assert "~ nodes.master-0.labels.pipe: None -> true" in devenv("profile", "diff", "aio")[1]


def test_warnings_are_printed_and_engine_limits_refused(devenv: Devenv, runs: Runs) -> None:
    code, out, err = devenv("profile", "show", "4control")
    assert (code, yaml.safe_load(out)["topology"]) == (0, "4control")
    assert err.startswith("warning: cluster main: 4 etcd members")
    assert devenv("profile", "show", "tna")[0] == 0
    for command in (["profile", "validate", "tna"], ["up", "--profile", "tna"], ["plan", "--profile", "tna"]):
        code, _, err = devenv(*command)
        assert (code, "the engine kubeadm does not support arbiters (tna-ipv4-static) [engine_cannot]" in err) == (
            2,
            True,
        )
    assert runs.requests == []


def test_existing_hosts_count_as_running(devenv: Devenv, made: Made) -> None:
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import state
    from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
    from ansible_collections.devenv.lab.plugins.plugin_utils.providers.existing import provider as existing

    host = {"provider": "existing", "nodes.master-0.host": {"addresses": ["192.0.2.10"]}}
    folder = made("lab", "sno")
    resolved = resolve("sno", overrides=host)
    state.write_profile(folder, resolved)
    state.write_network(folder, existing.network(resolved, None))
    (folder / "kubeconfig").unlink(missing_ok=True)
    (row,) = json.loads(devenv("list", "--json")[1])
    assert (row["state"], row["running"]) == ("running", 1)
    assert json.loads(devenv("status", "--json")[1])["nodes"][0]["container"] == "running"


def test_profile_env_prints_shell_exports(devenv: Devenv) -> None:
    out = devenv("profile", "env", "master-2pipe")[1]
    assert "export DEVENV_NODES='master-0 worker-0 worker-1'\n" in out
    assert "export DEVENV_PROFILE=master-2pipe-ipv4-static\n" in out


def test_profile_env_accepts_changes_and_more_variables(devenv: Devenv, tmp_path: Path) -> None:
    more = tmp_path / "more.yml"
    more.write_text("TESTS: [a, b]\nSUITE: other\n")
    arguments = ("--set", "kubernetes.version=1.35.4", "-e", f"@{more}", "-e", "SUITE='smoke it'", "-e", "{N: 3}")
    variables = json.loads(devenv("profile", "env", "aio", *arguments, "--json")[1])
    assert variables["DEVENV_KUBERNETES_VERSION"] == "1.35.4"
    assert (variables["SUITE"], variables["N"], variables["TESTS"]) == ("smoke it", "3", '["a","b"]')
    assert "SUITE='smoke it'\n" in devenv("profile", "env", "aio", *arguments, "--format", "dotenv")[1]


@pytest.mark.parametrize(
    ("form", "line"),
    [
        ("shell", "export DEVENV_PROFILE=aio-ipv4-static"),
        ("dotenv", "DEVENV_PROFILE=aio-ipv4-static"),
        ("github", "DEVENV_PROFILE=aio-ipv4-static"),
        ("prow", '  DEVENV_PROFILE: "aio-ipv4-static"'),
        ("json", '  "DEVENV_PROFILE": "aio-ipv4-static",'),
    ],
)
def test_profile_env_writes_each_format(devenv: Devenv, form: str, line: str) -> None:
    code, out, err = devenv("profile", "env", "aio", "--format", form)
    assert (code, err) == (0, "")
    assert line in out.splitlines()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--format", "csh"), "shell, dotenv, github, prow, json"),
        (("--format", "shell", "--json"), "--json and --format shell"),
        (("-e", "what"), "-e what"),
        (("-e", "@nowhere.yml"), "no such file"),
        (("-e", '{"a-b": 1}'), "a-b"),
        (("-e", "GITHUB_SHA=1", "--format", "github"), "GITHUB_SHA"),
    ],
)
def test_profile_env_refuses_invalid_options(devenv: Devenv, arguments: tuple[str, ...], words: str) -> None:
    code, out, err = devenv("profile", "env", "aio", *arguments)
    assert (code, out) == (2, "")
    assert words in err


def test_an_invalid_profile_is_reported_with_file_and_line(devenv: Devenv, tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_text("extends: aio\nkubernetes:\n  verson: 1\n")
    code, _, err = devenv("profile", "validate", str(path))
    assert code == 2
    assert f"{path}, line 3" in err
    assert "meant version?" in err


def test_doctor_shows_only_problems_and_exits_with_9_for_missing_ones(
    devenv: Devenv, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ansible_collections.devenv.lab.plugins.plugin_utils.host.probes import Probe
    from ansible_collections.devenv.lab.plugins.plugin_utils.providers import preflight

    good = Probe("root", True, "user id 0", "user id 0", "", "root_needed")
    advice = Probe("limit", False, "128", "512", "sysctl -w limit=512", "kernel_feature_missing", required=False)
    monkeypatch.setattr(preflight, "doctor", lambda: [good, advice])
    code, out, _ = devenv("doctor")
    assert code == 0
    assert "sysctl -w limit=512" in out
    assert "root" not in out
    assert out.endswith("2 checks: 1 ok, 0 missing, 1 advised\n")
    assert "root" in devenv("doctor", "--all")[1]
    assert [row["name"] for row in json.loads(devenv("doctor", "--json")[1])] == ["root", "limit"]
    missing = Probe("program podman", False, "not found", "on PATH", "apt-get install podman", "program_missing")
    monkeypatch.setattr(preflight, "doctor", lambda: [good, missing])
    code, out, _ = devenv("doctor")
    assert code == 9
    assert "MISSING" in out
    assert "apt-get install podman" in out
    monkeypatch.setattr(preflight, "doctor", lambda: [good])
    assert devenv("doctor")[:2] == (0, "1 checks: 1 ok, 0 missing, 0 advised\n")


def test_prune_removes_history_unless_dry_run(
    devenv: Devenv, own_home: Path, monkeypatch: pytest.MonkeyPatch, made: Made
) -> None:
    monkeypatch.setattr(podman, "podman", lambda *words, timeout=0: "[]")
    log = own_home / "history" / "lab" / "20260101T000000Z-aaa" / "log.txt"
    log.parent.mkdir(parents=True)
    log.write_text("x" * 2048)
    code, out, _ = devenv("prune", "--dry-run")
    assert code == 0
    assert re.search(r"history +2\.0 KiB +would be removed", out)
    assert log.exists()
    assert "total: 2.0 KiB" in devenv("prune", "--only", "history")[1]
    assert not log.exists()


def test_prune_keeps_images_in_use(devenv: Devenv, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [
        {"Names": ["localhost/devenv-node:1", "localhost/other:1"], "Size": 5, "Id": "a"},
        {"Names": ["localhost/devenv-node:2"], "Size": 7, "Id": "b"},
    ]
    calls: list[tuple[str, ...]] = []

    def answer(*words: str, timeout: float = 0) -> str:
        calls.append(words)
        return json.dumps(images)

    monkeypatch.setattr(podman, "podman", answer)
    used = podman.Container("lab-master-0", "lab", "master-0", "", "running", 1, "localhost/devenv-node:1")
    monkeypatch.setattr(podman, "containers", lambda environment=None: [used])
    states = {row["what"]: row["state"] for row in json.loads(devenv("prune", "--only", "node-image", "--json")[1])}
    assert states == {"localhost/devenv-node:1": "kept: used by lab-master-0", "localhost/devenv-node:2": "removed"}
    assert [words for words in calls if words[0] == "image"] == [("image", "rm", "localhost/devenv-node:2")]


def test_prune_keeps_the_extracted_tarball_in_use(devenv: Devenv, monkeypatch: pytest.MonkeyPatch, made: Made) -> None:
    monkeypatch.setattr(podman, "podman", lambda *words, timeout=0: "[]")
    made("other")
    folder = made("lab")
    resolved = state.read_profile(folder)
    assert resolved is not None
    resolved["kubernetes"]["gravity"] = {"tarball": "/srv/lab.tar", "sha256": "a" * 64}
    state.write_profile(folder, resolved)
    cached = {letter: paths.cache() / "gravity" / (letter * 64) for letter in "ab"}
    for folder in cached.values():
        folder.mkdir(parents=True)
        (folder / "gravity").write_text("program")
    rows = json.loads(devenv("prune", "--json")[1])
    assert {row["what"]: row["state"] for row in rows if row["kind"] == "gravity"} == {
        str(cached["a"]): "kept: used by lab",
        str(cached["b"]): "removed",
    }
    assert (cached["a"].exists(), cached["b"].exists()) == (True, False)


def test_the_help_of_prune_names_every_kind(devenv: Devenv) -> None:
    """The help text repeats the list, because loading the kinds takes time."""
    text = " ".join(devenv("prune", "--help")[1].split())
    assert [kind for kind in prune.kinds() if not re.search(rf"\b{kind}[,.]", text)] == []


def test_version_names_devenv_and_kubernetes(devenv: Devenv) -> None:
    versions = json.loads(devenv("version", "--json")[1])
    assert versions["devenv"] == "0.1.0"
    assert versions["kubernetes"] in versions["kubernetes_versions"]


# --- help, start-up time, completion ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, *_ in commands.COMMANDS])
def test_every_command_has_help(devenv: Devenv, name: str) -> None:
    code, out, _ = devenv(name, "--help")
    assert code == 0
    assert f"devenv {name}" in out


def test_help_fits_on_one_screen(devenv: Devenv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = devenv("--help")[1].splitlines()
    assert 24 <= len(lines) <= 40
    rows = [line for line in lines if line.startswith("│")]
    assert len(rows) == len([name for name, *_ in commands.COMMANDS if name not in commands.HIDDEN]), (
        "one line per command"
    )


def test_help_of_up_groups_the_options_of_ansible(devenv: Devenv) -> None:
    before, _, after = devenv("up", "--help")[1].partition("Options of Ansible")
    for option in ("--extra-vars", "--tags", "--limit", "--check", "--diff", "--verbose", "--forks"):
        assert (option in before, option in after) == (False, True)
    assert "--profile" in before


def test_help_lists_every_command_except_hidden_ones(devenv: Devenv) -> None:
    out = devenv("--help")[1]
    for name, *_ in commands.COMMANDS:
        assert (re.search(rf"^\W+{name} ", out, re.MULTILINE) is not None) is (name not in commands.HIDDEN)


@pytest.mark.parametrize(
    ("words", "heavy"),
    [
        (["status"], ["ansible", "ansible_runner", "kubernetes", "rich", "jsonschema"]),
        (["inventory"], ["ansible", "ansible_runner", "kubernetes", "rich", "jsonschema"]),
        (["env"], ["ansible", "ansible_runner", "kubernetes", "rich", "jsonschema"]),
        (["version"], ["ansible", "ansible_runner", "kubernetes", "rich"]),
    ],
)
def test_quick_commands_load_nothing_heavy(made: Made, words: list[str], heavy: list[str]) -> None:
    write_kubeconfig(made("lab"))
    program = (
        "import sys; from devenv import cli; code = cli.main(sys.argv[2:]); "
        "print([name for name in sys.argv[1].split(',') if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program, ",".join(heavy), *words], capture_output=True, text=True)
    # The node of this environment is absent, so status exits with 16.
    assert (done.returncode, done.stderr.splitlines()[-1]) == (16 if words == ["status"] else 0, "[]")


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("10m", 600), ("1h30m", 5400), ("1.5m", 90), ("2h0s", 7200)]
)
def test_a_time_has_units(text: str, seconds: float) -> None:
    assert options.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "s", "-5s", "10 m", "10x", "0s", "m10"])
def test_a_time_without_a_unit_is_refused(text: str) -> None:
    with pytest.raises(errors.UsageError):
        options.seconds(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (3 << 30, "3.0 GiB"), (5 << 40, "5120.0 GiB")],
)
def test_a_size_has_a_binary_unit(count: int, text: str) -> None:
    assert output.size(count) == text


def test_completion_of_names_nodes_and_profiles(made: Made) -> None:
    made("one")
    made("two", "master-2pipe")
    assert options.complete_name("t") == ["two"]
    assert "aio" in options.complete_profile("ai")

    context = types.SimpleNamespace(params={"name": "two"})
    assert options.complete_node(context, "worker") == ["worker-0", "worker-1"]  # type: ignore[arg-type]


def test_shell_completion_answers(made: Made) -> None:
    made("lab")
    env = {**os.environ, "_DEVENV_COMPLETE": "complete_bash", "COMP_WORDS": "devenv status -n ", "COMP_CWORD": "3"}
    done = subprocess.run([sys.executable, "-m", "devenv"], env=env, capture_output=True, text=True)
    assert done.stdout.split() == ["lab"]


def test_doctor_fix_raises_limits_and_prune_host_restores_them(
    devenv: Devenv, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ansible_collections.devenv.lab.plugins.plugin_utils.host import limits
    from ansible_collections.devenv.lab.plugins.plugin_utils.providers import preflight, registry
    from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import Machine

    root = tmp_path / "sys"
    (root / "fs/inotify").mkdir(parents=True)
    setting = root / "fs/inotify/max_user_instances"
    setting.write_text("128")
    record = tmp_path / "record.json"
    monkeypatch.setattr(limits.raise_limits, "__defaults__", (root, record))
    monkeypatch.setattr(limits.restore, "__defaults__", (root, record))
    monkeypatch.setattr(limits.recorded, "__defaults__", (record,))
    monkeypatch.setattr(preflight, "doctor", list)
    code, _, err = devenv("doctor", "--fix")
    assert (code, setting.read_text()) == (0, "512")
    assert "fs.inotify.max_user_instances: 128 -> 512 (devenv prune --host restores it)" in err
    machine = Machine("lab-master-0", "lab", "master-0", "/home", "running", 1)
    monkeypatch.setattr(registry, "machines", lambda: [machine])
    code, _, err = devenv("prune", "--host")
    assert (code, setting.read_text()) == (2, "512")
    assert "environments need the limits: lab" in err
    monkeypatch.setattr(registry, "machines", list)
    assert json.loads(devenv("prune", "--host", "--dry-run", "--json")[1]) == {
        "restored": ["fs.inotify.max_user_instances: would be 128 again"]
    }
    code, out, _ = devenv("prune", "--host")
    assert (code, out, setting.read_text()) == (0, "fs.inotify.max_user_instances: 512 -> 128\n", "128")
    assert devenv("prune", "--host")[1] == "nothing on this machine was changed\n"


def test_up_accepts_the_loss_of_a_cluster(devenv: Devenv, runs: Runs) -> None:
    assert devenv("up", "--profile", "aio", "--recreate")[0] == 0
    assert runs.requests[0].variables["devenv_recreate"] is True
    code, _out, err = devenv("up", "--profile", "aio", "-e", "devenv_recreate=true")
    assert (code, "--recreate" in err) == (2, True)
