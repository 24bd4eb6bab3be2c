"""What a run reports: complete, partial, failed."""

from __future__ import annotations

import pytest
from support.commands import Typed

pytestmark = pytest.mark.cluster


def test_up_with_tags_runs_one_stage_and_reports_it(user: Typed, trial: str) -> None:
    user.kubectl(trial, "label", "node", "master-0", "memsql-")
    done = user.devenv("up", "--name", trial, "--tags", "labels")
    line = f"{trial}: done to labels; not done: preflight, bundle, provision, prepare, kubernetes, addons, validate"
    assert done.stderr.splitlines()[-1] == line
    assert "memsql=true" in user.kubectl(trial, "get", "node", "master-0", "--show-labels").stdout


def test_a_limit_that_excludes_nothing_is_a_complete_run(user: Typed, trial: str) -> None:
    done = user.devenv("up", "--name", trial, "--limit", "localhost,master-0")
    assert f"{trial} is up: 1 node" in done.stderr
