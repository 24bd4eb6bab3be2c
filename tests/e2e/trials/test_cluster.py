"""The shared cluster of the trials itself."""

from __future__ import annotations

import json

import pytest
from support.commands import Typed

pytestmark = pytest.mark.cluster


def test_the_shared_cluster_is_up(user: Typed, trial: str) -> None:
    status = json.loads(user.devenv("status", "--name", trial, "--json").stdout)
    assert [node["name"] for node in status["nodes"]] == ["master-0"]
