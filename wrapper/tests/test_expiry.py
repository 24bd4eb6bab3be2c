"""Environments that expire, and the removal of several environments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.records import expiry
from support.runs import Request, Runs

from devenv.runs.outcome import RunOutcome

Devenv = Callable[..., tuple[int, str, str]]
Made = Callable[..., Path]

PAST = datetime.now(UTC) - timedelta(days=1)


def test_up_passes_the_time_to_the_playbook(devenv: Devenv, requests: list[Request]) -> None:
    assert devenv("up", "-p", "aio", "--ttl", "2h")[0] == 0
    assert requests[0].variables["devenv_ttl"] == "2h"


@pytest.mark.parametrize("ttl", ["2", "2x", "0h"])
def test_up_refuses_another_time_before_the_run(devenv: Devenv, requests: list[Request], ttl: str) -> None:
    code, _, err = devenv("up", "-p", "aio", "--ttl", ttl)
    assert (code, requests) == (2, [])
    assert "not a valid time" in err


def test_list_and_status_show_the_expiry(devenv: Devenv, made: Made) -> None:
    expiry.start(made("lab"), "2h")
    assert "in 1h59m" in devenv("list")[1]
    assert "expires: in 1h59m" in devenv("status", "-n", "lab")[1]
    expires = json.loads(devenv("status", "-n", "lab", "--json")[1])["expires"]
    assert datetime.fromisoformat(expires) > datetime.now(UTC)
    assert json.loads(devenv("list", "--json")[1])[0]["expires"] == expires


def test_extend_needs_an_environment_that_expires(devenv: Devenv, made: Made, requests: list[Request]) -> None:
    folder = made("lab")
    assert devenv("extend", "2h")[0] == 2
    expiry.start(folder, "1h")
    assert devenv("extend", "2h")[0] == 0
    assert (requests[0].playbook, requests[0].variables["devenv_ttl"]) == ("extend", "2h")


def test_prune_removes_the_expired_environments_only(devenv: Devenv, made: Made, requests: list[Request]) -> None:
    for name in ("old", "new", "kept"):
        made(name)
    expiry.start(made("gone"), "1h", PAST)
    expiry.start(Path(os.environ["DEVENV_HOME"]) / "environments" / "old", "1h", PAST)
    expiry.start(Path(os.environ["DEVENV_HOME"]) / "environments" / "new", "1h")
    shown = json.loads(devenv("prune", "--expired", "--dry-run", "--json")[1])
    assert [row["environment"] for row in shown] == ["gone", "old"]
    assert requests == []
    assert devenv("prune", "--expired")[0] == 0
    assert [(request.playbook, request.variables["devenv_name"]) for request in requests] == [
        ("destroy", "gone"),
        ("destroy", "old"),
    ]
    assert devenv("prune", "--expired", "--only", "history")[0] == 2


def test_prune_continues_after_a_failure_and_reports_it(devenv: Devenv, made: Made, runs: Runs) -> None:
    for name in ("a", "b"):
        expiry.start(made(name), "1h", PAST)
    failure = {"exit": 10, "reason": "environment_busy", "message": "busy", "stage": "down"}
    runs.outcomes = [RunOutcome("run1", code=2, failure=failure) for _ in range(2)]
    code, _, err = devenv("prune", "--expired")
    assert code == 10
    assert "not removed: a, b: busy" in err
    assert len(runs.requests) == 2


def test_down_all_removes_every_environment(
    devenv: Devenv, made: Made, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert devenv("down", "--all")[:2] == (0, "changed=0\n")
    made("a")
    made("b")
    monkeypatch.setenv("DEVENV_NAME", "a")
    assert devenv("down", "--all")[0] == 0
    assert [request.variables["devenv_name"] for request in requests] == ["a", "b"]
    assert devenv("down", "--all", "--name", "a")[0] == 2


def test_the_timer_runs_prune_for_this_home(devenv: Devenv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / 'ho "me" 100%'
    monkeypatch.setenv("DEVENV_HOME", str(home))
    code, out, err = devenv("prune", "--timer", str(tmp_path))
    assert code == 0, err
    service, timer = (Path(line) for line in out.splitlines())
    assert (service.name, timer.name) == ("devenv-prune.service", "devenv-prune.timer")
    escaped = str(home).replace('"', '\\"').replace("%", "%%")
    assert f'Environment="DEVENV_HOME={escaped}"' in service.read_text()
    assert f'ExecStart="{sys.executable}" -m devenv prune --expired' in service.read_text()
    assert "OnCalendar=" in timer.read_text()
    code, _, err = devenv("prune", "--timer", "/there/is/none")
    assert code == 2
    done = subprocess.run([sys.executable, "-m", "devenv", "prune", "--expired", "--only", "x"], capture_output=True)
    assert done.returncode == 2


def test_export_prints_a_profile_that_creates_the_same(devenv: Devenv, made: Made, tmp_path: Path) -> None:
    folder = made("lab", "master-2pipe", overrides={"nodes.worker-2.memory": "3GiB", "nodes.worker-0": None})
    (folder / "variables.yml").write_text("engine_kubeadm_encryption: RSA-2048\n")
    text = devenv("profile", "export", "lab")[1]
    assert '# needs -e \'{"engine_kubeadm_encryption": "RSA-2048"}\'' in text
    path = tmp_path / "x.yml"
    path.write_text(text)
    assert devenv("profile", "diff", str(path), "--name", "lab")[1] == "no difference\n"
    plan = json.loads(devenv("plan", "-p", str(path), "-n", "lab", "--json")[1])
    assert (plan["change"], plan["refused"]) == ([], [])
    assert plan["variables"] == {"engine_kubeadm_encryption": "RSA-2048"}


def test_export_of_existing_hosts_keeps_them(devenv: Devenv, made: Made, tmp_path: Path) -> None:
    host = {"addresses": ["10.213.9.10"], "user": "admin", "port": 2222, "become": True}
    made("lab", "sno", overrides={"provider": "existing", "nodes.master-0.host": host})
    path = tmp_path / "x.yml"
    path.write_text(devenv("profile", "export")[1])
    assert devenv("profile", "diff", str(path))[1] == "no difference\n"


def test_plan_shows_a_refused_variable(devenv: Devenv, made: Made) -> None:
    folder = made("lab")
    (folder / "clusters" / "main").mkdir(parents=True)
    (folder / "clusters" / "main" / "kubeconfig").touch()
    code, out, _ = devenv("plan", "-e", "engine_kubeadm_encryption=RSA-2048")
    assert code == 14
    assert "engine_kubeadm_encryption" in out


@pytest.mark.parametrize(
    "words",
    [
        ["-e", "devenv_name=b"],
        ["--", "-e", "devenv_name=b"],
        ["--", "-edevenv_name=b"],
        ["--", "-De", "devenv_name=b"],
        ["--", "--extra-vars", "devenv_name=b"],
        ["--", "--extra-vars=devenv_name=b"],
        ["--", "--extra-v", '{"devenv_name": "b"}'],
        ["-e", "@x.yml"],
        ["--", "-e", "@x.yml"],
    ],
)
def test_no_form_of_extra_variables_contradicts_the_name(
    devenv: Devenv, requests: list[Request], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.yml").write_text("devenv_name: b\n")
    code, _, err = devenv("up", "-p", "aio", "--name", "a", *words)
    assert (code, requests) == (2, [])
    assert "-e does not accept devenv_name" in err
    assert "use --name" in err
