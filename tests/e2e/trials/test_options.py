"""Options and extra variables on a living cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from support.commands import Typed, finish
from support.waits import until

pytestmark = pytest.mark.cluster


def test_a_variable_of_the_cluster_is_refused_and_others_by_name(user: Typed, trial: str) -> None:
    user.devenv("up", "-n", trial, "-e", "engine_kubeadm_encryption=RSA-2048", code=14)
    assert user.data("plan", "-n", trial)["variables"] == {}
    user.devenv("up", "-n", trial, "-e", "validate_timout=9", code=2)


def test_the_exported_profile_is_the_environment(user: Typed, trial: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yml"
    path.write_text(user.devenv("profile", "export", trial).stdout)
    assert "topology" in yaml.safe_load(path.read_text())
    plan = user.data("plan", "-p", str(path), "-n", trial)
    assert not any(plan[key] for key in ("add", "start", "change", "remove", "refused"))


def test_the_environment_expires_only_while_it_has_a_time(user: Typed, trial: str) -> None:
    user.devenv("up", "-n", trial, "--ttl", "2h")
    assert "in 1h5" in user.devenv("status", "-n", trial).stdout
    user.devenv("extend", "2h", "-n", trial)
    assert "in 3h5" in user.devenv("status", "-n", trial).stdout
    assert user.data("prune", "--expired") == []
    user.devenv("extend", "never", "-n", trial)
    assert user.data("status", "-n", trial)["expires"] is None


def test_logs_follow_a_running_command_from_another_terminal(user: Typed, trial: str) -> None:
    running = user.start("devenv", "validate", "-n", trial)
    until(lambda: user.data("status", "-n", trial)["busy"])
    followed = user.devenv("logs", "--follow", "-n", trial).stdout
    finish(running, user.seconds)
    runs = user.data("logs", "--runs", "-n", trial)
    assert runs[-1]["command"].startswith("devenv validate")
    assert followed == user.devenv("logs", "-n", trial).stdout
