"""The command: arguments, output, exit codes. Runs are replaced here; test_runner has real ones."""

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
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import cli as podman

from devenv import errors
from devenv.cli import app as commands
from devenv.cli import options, output
from devenv.environments import prune, target
from devenv.runs import runner
from devenv.runs.outcome import RunOutcome

Devenv = Callable[..., tuple[int, str, str]]
Made = Callable[..., Path]


class Runs:
    """Stands in for the runner: keeps the requests, gives the outcomes that a test has put there."""

    def __init__(self) -> None:
        self.requests: list[runner.Request] = []
        self.outcomes: list[RunOutcome] = []

    def __call__(self, request: runner.Request, watcher: Any = None, env: Any = None) -> RunOutcome:
        self.requests.append(request)
        return self.outcomes.pop(0) if self.outcomes else RunOutcome("run1", changed=3, seconds=1.5)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    found = Runs()
    monkeypatch.setattr(runner, "run", found)
    return found


def failed(**failure: Any) -> RunOutcome:
    row = {
        "stage": "provision",
        "reason": "podman_failed",
        "exit": 3,
        "message": "no room",
        "advice": "make some",
        "host": "master-0",
    }
    return RunOutcome("run1", code=2, failure={**row, "task": "create | Make", "file": "/x.yml:3", **failure})


# --- up --------------------------------------------------------------------------------------------------------------


def test_up_asks_for_the_profile_and_ends_with_how_to_go_on(devenv: Devenv, runs: Runs) -> None:
    code, out, err = devenv("up", "--profile", "aio")
    assert code == 0
    assert out == "changed=3\n"
    assert [line.split(":")[0] for line in err.splitlines()[-3:]] == ["aio is up", "use it", "remove it"]
    request = runs.requests[0]
    assert request.playbook == "cluster"
    assert dict(request.variables) == {"devenv_name": "aio", "profile": "aio", "devenv_full": True}
    assert request.environment["DEVENV_COMMAND"].startswith("devenv")


def test_up_passes_on_what_ansible_knows(devenv: Devenv, runs: Runs, tmp_path: Path) -> None:
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
    assert request.arguments == [
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
    assert request.extra == [{"x": "1"}, given]
    assert (request.verbosity, request.timeout) == (2, 90.0)
    assert dict(request.variables) == {
        "devenv_name": "lab",
        "profile": "aio",
        "devenv_full": True,
        "devenv_overrides": {"nodes.master-0.memory": "3GiB"},
        "devenv_timeout": 90,
        "devenv_artifacts": str(Path("out").absolute()),
    }


def test_up_of_a_file(devenv: Devenv, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("My Lab.yml").write_text("extends: aio\n")
    assert devenv("up", "--profile", "./My Lab.yml")[0] == 0
    profile = str(tmp_path / "My Lab.yml")
    assert dict(runs.requests[0].variables) == {"devenv_name": "my-lab", "profile": profile, "devenv_full": True}


def test_up_without_a_profile_keeps_the_environments_own(devenv: Devenv, runs: Runs, made: Made) -> None:
    made("lab")
    assert devenv("up")[0] == 0
    assert dict(runs.requests[0].variables) == {"devenv_name": "lab", "devenv_full": True}


def test_up_as_json_is_one_object_a_line(devenv: Devenv, runs: Runs) -> None:
    code, out, err = devenv("up", "-p", "aio", "--json")
    assert code == 0
    assert err == ""
    documents = [json.loads(line) for line in out.splitlines()]
    assert documents[-1] == {"type": "end", "exit": 0, "changed": 3, "seconds": documents[-1]["seconds"]}


def test_a_failure_is_told_in_three_lines(devenv: Devenv, runs: Runs, own_home: Path) -> None:
    folder = own_home / "environments" / "aio" / "runs" / "20260101T000000Z-run1"
    folder.mkdir(parents=True)
    runs.outcomes.append(failed())
    code, out, err = devenv("up", "-p", "aio")
    assert code == 3
    assert out == ""
    assert err.splitlines() == [
        "error: no room (master-0, create | Make, /x.yml:3) [podman_failed]",
        "next: make some",
        f"log: {folder / 'log.txt'}",
    ]


def test_the_recorded_failure_goes_before_the_events(devenv: Devenv, runs: Runs, own_home: Path) -> None:
    folder = own_home / "environments" / "aio" / "runs" / "20260101T000000Z-run1"
    folder.mkdir(parents=True)
    (folder / "failure.json").write_text(
        json.dumps({"stage": "validate", "reason": "validate_failed", "exit": 8, "message": "dns", "advice": "look"})
    )
    runs.outcomes.append(failed())
    code, _, err = devenv("up", "-p", "aio")
    assert code == 8
    assert err.startswith("error: dns [validate_failed]\nnext: look\n")


def test_a_failure_as_json(devenv: Devenv, runs: Runs) -> None:
    runs.outcomes.append(failed())
    code, out, _ = devenv("up", "-p", "aio", "--json")
    documents = [json.loads(line) for line in out.splitlines()]
    assert code == 3
    assert documents[-2] == {
        "type": "error", "exit": 3, "reason": "podman_failed", "stage": "provision", "message": "no room",
        "where": "master-0, create | Make, /x.yml:3", "advice": "make some", "log": documents[-2]["log"],
        "gathered": None,
    }  # fmt: skip
    assert (documents[-1]["type"], documents[-1]["exit"]) == ("end", 3)


@pytest.mark.parametrize("code", [3, 4, 5, 6, 7, 8, 9, 12, 13])
def test_the_exit_code_is_the_stages(devenv: Devenv, runs: Runs, code: int) -> None:
    runs.outcomes.append(failed(exit=code))
    assert devenv("up", "-p", "aio")[0] == code


def test_an_interrupted_run(devenv: Devenv, runs: Runs) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        runs.outcomes.append(RunOutcome("run1", code=99, signal=int(number)))
        code, _, err = devenv("up", "-p", "aio")
        assert code == 128 + number
        assert err.startswith("interrupted: ")


def test_time_over_has_the_stages_code(devenv: Devenv, runs: Runs) -> None:
    runs.outcomes.append(RunOutcome("run1", code=99, timed_out=True, stage="kubernetes", task="Join"))
    code, _, err = devenv("up", "-p", "aio", "--timeout", "10s")
    assert code == 5
    assert err.startswith("error: not done within 10 s, ended at: Join")


@pytest.mark.parametrize(("present", "playbooks"), [(False, ["cluster", "destroy"]), (True, ["cluster"])])
def test_on_failure_destroy_takes_only_a_new_environment(
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

    def run(request: runner.Request, *rest: Any) -> RunOutcome:
        if request.playbook == "cluster" and not present:
            (made("aio") / "runs" / "20260101T000000Z-run1").mkdir(parents=True)
        return original(request, *rest)

    monkeypatch.setattr(runner, "run", run)
    runs.outcomes += [failed(), RunOutcome("run2")]
    code, _, err = devenv("up", "-p", "aio", "--on-failure", "destroy")
    assert code == 3
    if not present:
        assert err.splitlines()[-1].startswith(f"log: {own_home / 'history' / 'aio'}/")
    assert [request.playbook for request in runs.requests] == playbooks


def gathered(folder: Path) -> Callable[[runner.Request], None]:
    """What the playbook gather leaves: an archive with an index."""

    def write(request: runner.Request) -> None:
        path = Path(str(request.variables["devenv_output"]))
        rows = [{"name": "host", "files": 1, "bytes": 2, "seconds": 0.1, "trouble": ""},
                {"name": "nodes/worker-0", "files": 0, "bytes": 0, "seconds": 5.0, "trouble": "no route"}]  # fmt: skip
        text = json.dumps({"parts": rows}).encode()
        with tarfile.open(path, "w:gz") as tar:
            info = tarfile.TarInfo("top/index.json")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))

    return write


@pytest.fixture
def run_dir(made: Made) -> Path:
    """The folder of the run ``run1`` of the environment aio."""
    place = made("aio") / "runs" / "20260101T000000Z-run1"
    place.mkdir(parents=True)
    return place


def test_what_a_failed_up_gathered_is_told(devenv: Devenv, runs: Runs, run_dir: Path) -> None:
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
def test_gathering_that_fails_hides_nothing(devenv: Devenv, runs: Runs, run_dir: Path, ended: RunOutcome) -> None:
    row = {"stage": "prepare", "reason": "prepare_failed", "exit": 4, "message": "no room", "gather_trouble": "no"}
    (run_dir / "failure.json").write_text(json.dumps(row))
    runs.outcomes.append(ended)
    code, _, err = devenv("up", "-p", "aio")
    assert code == 4
    assert err.startswith("error: no room")
    assert "not gathered: no" in err.splitlines()


@pytest.mark.parametrize(("words", "told"), [([], True), (["--no-gather"], False)])
def test_a_run_whose_time_is_over_is_gathered(
    devenv: Devenv,
    runs: Runs,
    run_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    words: list[str],
    told: bool,
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
    assert (f"gathered: {run_dir / 'gather.tar.gz'}" in err.splitlines()) is told
    assert (copies / "gather.tar.gz").exists() is told
    assert [request.playbook for request in runs.requests] == ["cluster"]


def test_gather_tells_where_and_what_is_missing(
    devenv: Devenv, runs: Runs, made: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made("aio")
    original, write = runner.run, gathered(tmp_path)

    def run(request: runner.Request, *rest: Any) -> RunOutcome:
        write(request)
        return original(request, *rest)

    monkeypatch.setattr(runner, "run", run)
    runs.outcomes += [RunOutcome("run1"), RunOutcome("run2")]
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
def test_validate_prints_a_line_a_check(devenv: Devenv, runs: Runs, made: Made, ok: bool) -> None:
    place = made("aio") / "runs" / "20260101T000000Z-run1"
    place.mkdir(parents=True)
    rows = [
        {"cluster": "main", "name": "api", "ok": True, "seconds": 0.25, "seen": "fine", "warnings": ["soon"]},
        {"cluster": "main", "name": "labels", "ok": ok, "seconds": 3, "seen": "a\nb", "warnings": []},
    ]
    (place / "checks.json").write_text(json.dumps(rows))
    outcomes = [RunOutcome("run1")] if ok else [failed(exit=8)]
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
    ("words", "code", "said"),
    [
        (["up"], 2, "no profile was given"),
        (["up", "-p", "aoi"], 2, "nearest name is aio"),
        (["up", "-p", "aio", "-n", "Bad_Name"], 2, "no name for an environment"),
        (["up", "-p", "aio", "--set", "nodes"], 2, "not path=value"),
        (["up", "-p", "aio", "--set", "nodes.master-0.memory=lots"], 2, "nodes.master-0.memory"),
        (["up", "-p", "aio", "--set", "colour=red"], 2, "unknown key"),
        (["up", "-p", "aio", "-e", "word"], 2, "neither key=value"),
        (["up", "-p", "aio", "-e", "profile=sno"], 2, "profile is not given by -e"),
        (["up", "-p", "aio", "--timeout", "10"], 2, "is no time"),
        (["up", "-p", "aio", "--on-failure", "maybe"], 2, "neither keep nor destroy"),
        (["up", "-p", "aio", "stray"], 2, "stray"),
        (["up", "-p", "./missing.yml"], 2, "no such file"),
        (["up", "--no-such-option"], 2, "No such option"),
        (["upp"], 2, "Did you mean 'up'"),
        (["status"], 11, "there is no environment"),
        (["status", "-n", "lab"], 11, "there is no environment lab"),
        (["inventory", "-n", "lab"], 11, "there is no environment lab"),
        (["status", "--", "x"], 2, "takes nothing after --"),
        (["exec"], 2, "which command?"),
        (["status", "--format", "xml"], 2, "is no format"),
        (["prune", "--only", "everything"], 2, "is no kind"),
        (["profile", "show", "nope"], 2, "no profile is named"),
        (["bundle", "verify", "1.36.3"], 12, "no bundle of 1.36.3"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    devenv: Devenv, runs: Runs, own_home: Path, words: list[str], code: int, said: str
) -> None:
    found, out, err = devenv(*words)
    assert (found, out) == (code, "")
    lines = err.splitlines()
    assert lines[0].startswith("error: ")
    assert said in lines[0]
    assert all(line.startswith(("next: ", "log: ")) for line in lines[1:])
    assert runs.requests == []
    assert not (own_home / "environments").exists()


def test_a_profile_change_is_refused_before_ansible_starts(devenv: Devenv, runs: Runs, made: Made) -> None:
    made("lab")
    code, _, err = devenv("up", "-p", "aio-dualstack-static", "-n", "lab")
    assert code == 14
    assert "stack" in err
    assert runs.requests == []


def test_a_busy_environment_names_its_holder(devenv: Devenv, runs: Runs, made: Made) -> None:
    from ansible_collections.devenv.lab.plugins.plugin_utils.environments import lock

    folder = made("lab")
    lock.acquire(folder, lock.holder_of(os.getpid(), "abc", "someone's up"))
    code, _, err = devenv("up", "-p", "aio", "-n", "lab")
    assert code == 10
    assert f"process {os.getpid()} (someone's up)" in err
    assert runs.requests == []


def test_a_defect_goes_to_a_file(devenv: Devenv, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(target, "resolve", broken)
    code, _, err = devenv("up", "-p", "aio")
    assert code == 1
    assert err.startswith("error: ZeroDivisionError: by zero [unexpected]\n")
    log = Path(err.splitlines()[-1].removeprefix("log: "))
    assert "Traceback" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600


# --- down and the others ---------------------------------------------------------------------------------------------


def test_down(devenv: Devenv, runs: Runs, made: Made) -> None:
    made("lab")
    for word in ("down", "destroy"):
        code, out, err = devenv(word)
        assert (code, out) == (0, "changed=3\n")
        assert "devenv prune" in err
    assert [(request.playbook, dict(request.variables)) for request in runs.requests] == [
        ("destroy", {"devenv_name": "lab"})
    ] * 2


def test_down_of_what_is_not_there(devenv: Devenv, runs: Runs, made: Made) -> None:
    made("other")
    code, out, err = devenv("down", "-n", "lab")
    assert (code, out, err) == (0, "changed=0\n", "there is no environment lab\n")
    assert runs.requests == []


def test_down_with_no_environment_at_all(devenv: Devenv, runs: Runs) -> None:
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


def test_down_ends_a_dhcp_server_that_is_all_that_is_left(
    devenv: Devenv, runs: Runs, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    made("other")
    monkeypatch.setattr(dhcp, "servers", lambda environment: {7: "1-a"} if environment == "lab" else {})
    assert devenv("down", "-n", "lab")[0] == 0
    assert [request.playbook for request in runs.requests] == ["destroy"]


def test_down_leaves_what_another_home_has(
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
def test_simple_runs(devenv: Devenv, runs: Runs, made: Made, word: str, playbook: str) -> None:
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
    assert devenv("status")[0] == 0


# --- looking ---------------------------------------------------------------------------------------------------------


def test_plan_of_a_new_environment(devenv: Devenv, made: Made) -> None:
    made("other")
    code, out, _ = devenv("plan", "-p", "master-2pipe", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["add"] == ["node master-0", "node worker-0", "node worker-1"]
    assert (found["exists"], found["change"], found["remove"], found["refused"]) == (False, [], [], [])


def test_plan_of_changes(devenv: Devenv, made: Made, monkeypatch: pytest.MonkeyPatch, own_home: Path) -> None:
    made("lab")
    containers = [
        _container("lab", str(own_home), "exited"),
        podman.Container("lab-worker-7", "lab", "worker-7", str(own_home), "running", 1, "i"),
    ]
    monkeypatch.setattr(podman, "containers", lambda environment=None: containers)
    code, out, _ = devenv("plan", "-p", "aio", "-n", "lab", "--set", "nodes.master-0.labels.extra=yes", "--json")
    found = json.loads(out)
    assert (code, found["add"], found["start"], found["remove"]) == (0, [], ["node master-0"], ["node worker-7"])
    assert "nodes.master-0.labels.extra" in found["change"][0]
    code, out, _ = devenv("plan", "-p", "aio", "-n", "lab", "--set", "nodes.master-0.memory=5GiB")
    assert code == 14
    assert "! refused  nodes.master-0.memory" in out


def test_status(devenv: Devenv, made: Made, monkeypatch: pytest.MonkeyPatch, own_home: Path) -> None:
    made("lab")
    assert "absent" in devenv("status")[1]
    monkeypatch.setattr(podman, "containers", lambda environment=None: [_container("lab", str(own_home))])
    found = json.loads(devenv("status", "--json")[1])
    assert found["state"] == "running"
    assert found["nodes"] == [
        {
            "name": "master-0",
            "group": "control_plane",
            "addresses": ["10.213.9.10"],
            "container": "running",
            "kubernetes": "absent",
        }
    ]


def test_list_shows_orphans_and_what_is_elsewhere(
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
    found = {row["name"]: row["state"] for row in json.loads(devenv("list", "--json")[1])}
    assert found == {"lab": "running", "lost": "orphan", "theirs": "elsewhere", "gone": "orphan"}


def test_inventory(devenv: Devenv, made: Made) -> None:
    folder = made("lab")
    assert devenv("inventory") == (0, (folder / "inventory.yml").read_text(), "")
    for words in (["--json"], ["--format", "json"]):
        assert json.loads(devenv("inventory", *words)[1])["all"]["hosts"]["master-0"]["ansible_host"] == "10.213.9.10"


def test_inventory_before_there_are_nodes(devenv: Devenv, made: Made) -> None:
    made("lab", claimed=False)
    code, _, err = devenv("inventory")
    assert code == 11
    assert "no nodes yet" in err


def test_env_is_for_eval(devenv: Devenv, made: Made, own_home: Path) -> None:
    folder = made("lab")
    (folder / "kubeconfig").write_text("")
    out = devenv("env")[1]
    shown = subprocess.run(
        ["sh", "-c", f'{out}\nprintf "%s\\n" "$DEVENV_NAME" "$KUBECONFIG" "$ANSIBLE_INVENTORY"'],
        capture_output=True,
        text=True,
    )
    assert shown.stdout.splitlines() == ["lab", str(folder / "kubeconfig"), str(folder / "inventory.yml")]


class Replaced(Exception):
    pass


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], Mapping[str, str]]]:
    """What the command became."""
    calls: list[tuple[list[str], Mapping[str, str]]] = []
    monkeypatch.setattr(os, "execvpe", lambda file, argv, env: calls.append((argv, env)))
    return calls


def test_ssh(devenv: Devenv, made: Made, replaced: list[tuple[list[str], Mapping[str, str]]]) -> None:
    folder = made("lab")
    devenv("ssh")
    devenv("ssh", "master-0", "--", "journalctl | tail")
    devenv("ssh", "--", "sh", "-c", "echo a b")
    assert replaced[0][0][:3] == ["ssh", "-i", str(folder / "ssh" / "id_ed25519")]
    assert "StrictHostKeyChecking=yes" in replaced[0][0]
    assert replaced[0][0][-4:] == ["-l", "root", "--", "10.213.9.10"]
    assert replaced[1][0][-2:] == ["10.213.9.10", "journalctl | tail"]
    assert replaced[2][0][-2:] == ["10.213.9.10", "sh -c 'echo a b'"]


THREE = ("master-0", "worker-0", "worker-1")


def test_ssh_and_logs_of_existing_hosts(
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


def test_ssh_to_what_is_not_there(devenv: Devenv, made: Made, replaced: list[Any]) -> None:
    made("lab", "master-2pipe")
    code, _, err = devenv("ssh", "worker-9")
    assert code == 11
    assert "worker-1" in err
    assert devenv("ssh")[0] == 2
    assert replaced == []


def test_exec(devenv: Devenv, made: Made, replaced: list[tuple[list[str], Mapping[str, str]]]) -> None:
    made("lab")
    devenv("exec", "--", "env", "-i")
    argv, env = replaced[0]
    assert argv == ["env", "-i"]
    assert env["DEVENV_NAME"] == "lab"
    assert "HOME" in env


def test_logs(devenv: Devenv, made: Made, own_home: Path) -> None:
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


def test_kubeconfig(devenv: Devenv, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made("lab")
    assert devenv("kubeconfig")[0] == 11
    own = folder / "clusters" / "main" / "kubeconfig"
    own.parent.mkdir(parents=True)
    own.write_text(yaml.safe_dump({"contexts": [{"name": "devenv-lab", "context": {}}]}))
    assert devenv("kubeconfig")[1] == own.read_text()
    assert devenv("kubeconfig", "--path")[1] == f"{own}\n"
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "mine"))
    assert devenv("kubeconfig", "--merge")[0] == 0
    assert "devenv-lab" in (tmp_path / "mine").read_text()
    assert devenv("kubeconfig", "--unmerge")[0] == 0
    assert "devenv-lab" not in (tmp_path / "mine").read_text()
    assert devenv("kubeconfig", "--merge", "--path")[0] == 2


# --- profiles, this machine ------------------------------------------------------------------------------------------


def test_profile_list_and_show(devenv: Devenv) -> None:
    assert "aio-ipv4-static" in devenv("profile", "list")[1]
    assert yaml.safe_load(devenv("profile", "show", "aio")[1])["profile"] == "aio-ipv4-static"
    assert json.loads(devenv("profile", "show", "sno", "--json")[1])["topology"] == "sno"
    assert devenv("profile", "validate", "aio")[1].startswith("aio: aio-ipv4-static, 1 nodes")


def test_profile_diff(devenv: Devenv, made: Made) -> None:
    assert devenv("profile", "diff", "aio", "aio-ipv4-static")[1] == "no difference\n"
    assert "~ nodes.master-0.labels.pipe: true -> None" in devenv("profile", "diff", "aio", "sno")[1]
    assert "! stack: ipv4 -> ipv6" in devenv("profile", "diff", "aio", "aio-ipv6-static")[1]
    made("lab", "sno")
    assert "~ nodes.master-0.labels.pipe: None -> true" in devenv("profile", "diff", "aio")[1]


def test_warnings_and_what_an_engine_cannot_make(devenv: Devenv, runs: Runs) -> None:
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


def test_existing_hosts_are_there_without_containers(devenv: Devenv, made: Made) -> None:
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


def test_profile_env(devenv: Devenv) -> None:
    out = devenv("profile", "env", "master-2pipe")[1]
    assert "export DEVENV_NODES='master-0 worker-0 worker-1'\n" in out
    assert "export DEVENV_PROFILE=master-2pipe-ipv4-static\n" in out


def test_profile_env_takes_changes_and_further_variables(devenv: Devenv, tmp_path: Path) -> None:
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
def test_profile_env_formats(devenv: Devenv, form: str, line: str) -> None:
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
def test_profile_env_refuses(devenv: Devenv, arguments: tuple[str, ...], words: str) -> None:
    code, out, err = devenv("profile", "env", "aio", *arguments)
    assert (code, out) == (2, "")
    assert words in err


def test_a_broken_profile_is_told_by_file_and_line(devenv: Devenv, tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_text("extends: aio\nkubernetes:\n  verson: 1\n")
    code, _, err = devenv("profile", "validate", str(path))
    assert code == 2
    assert f"{path}, line 3" in err
    assert "meant version?" in err


def test_doctor_ends_with_9_when_something_is_missing(devenv: Devenv, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.devenv.lab.plugins.plugin_utils.host.probes import Probe
    from ansible_collections.devenv.lab.plugins.plugin_utils.providers import preflight

    good = Probe("root", True, "user id 0", "user id 0", "", "root_needed")
    advice = Probe("limit", False, "128", "512", "sysctl -w limit=512", "kernel_feature_missing", required=False)
    monkeypatch.setattr(preflight, "doctor", lambda: [good, advice])
    code, out, _ = devenv("doctor")
    assert code == 0
    assert "sysctl -w limit=512" in out
    missing = Probe("program podman", False, "not found", "on PATH", "apt-get install podman", "program_missing")
    monkeypatch.setattr(preflight, "doctor", lambda: [good, missing])
    code, out, _ = devenv("doctor")
    assert code == 9
    assert "MISSING" in out
    assert "apt-get install podman" in out


def test_prune(devenv: Devenv, own_home: Path, monkeypatch: pytest.MonkeyPatch, made: Made) -> None:
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
    found = {row["what"]: row["state"] for row in json.loads(devenv("prune", "--only", "node-image", "--json")[1])}
    assert found == {"localhost/devenv-node:1": "kept: lab-master-0 uses it", "localhost/devenv-node:2": "removed"}
    assert [words for words in calls if words[0] == "image"] == [("image", "rm", "localhost/devenv-node:2")]


def test_prune_keeps_what_was_taken_out_of_a_tarball_in_use(
    devenv: Devenv, monkeypatch: pytest.MonkeyPatch, made: Made
) -> None:
    monkeypatch.setattr(podman, "podman", lambda *words, timeout=0: "[]")
    made("other")
    folder = made("lab")
    resolved = state.read_profile(folder)
    assert resolved is not None
    resolved["kubernetes"]["gravity"] = {"tarball": "/srv/lab.tar", "sha256": "a" * 64}
    state.write_profile(folder, resolved)
    cached = {letter: paths.cache() / "gravity" / (letter * 64) for letter in "ab"}
    for one in cached.values():
        one.mkdir(parents=True)
        (one / "gravity").write_text("program")
    rows = json.loads(devenv("prune", "--json")[1])
    assert {row["what"]: row["state"] for row in rows if row["kind"] == "gravity"} == {
        str(cached["a"]): "kept: lab uses it",
        str(cached["b"]): "removed",
    }
    assert (cached["a"].exists(), cached["b"].exists()) == (True, False)


def test_prune_names_every_kind(devenv: Devenv) -> None:
    """The help text has the list once more, as loading the kinds takes time."""
    told = " ".join(devenv("prune", "--help")[1].split())
    assert [kind for kind in prune.kinds() if not re.search(rf"\b{kind}[,.]", told)] == []


def test_version(devenv: Devenv) -> None:
    found = json.loads(devenv("version", "--json")[1])
    assert found["devenv"] == "0.1.0"
    assert found["kubernetes"] in found["kubernetes_versions"]


# --- the shape of the whole ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, *_ in commands.COMMANDS])
def test_every_command_has_help(devenv: Devenv, name: str) -> None:
    code, out, _ = devenv(name, "--help")
    assert code == 0
    assert f"devenv {name}" in out


def test_help_lists_every_command_but_aliases(devenv: Devenv) -> None:
    out = devenv("--help")[1]
    for name, *_ in commands.COMMANDS:
        assert (re.search(rf"^\W+{name} ", out, re.MULTILINE) is not None) is (name != "destroy")


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
    made("lab")
    program = (
        "import sys; from devenv import cli; code = cli.main(sys.argv[2:]); "
        "print([name for name in sys.argv[1].split(',') if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program, ",".join(heavy), *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "[]")


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("10m", 600), ("1h30m", 5400), ("1.5m", 90), ("2h0s", 7200)]
)
def test_times(text: str, seconds: float) -> None:
    assert options.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "s", "-5s", "10 m", "10x", "0s", "m10"])
def test_times_refused(text: str) -> None:
    with pytest.raises(errors.UsageError):
        options.seconds(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (3 << 30, "3.0 GiB"), (5 << 40, "5120.0 GiB")],
)
def test_sizes(count: int, text: str) -> None:
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
