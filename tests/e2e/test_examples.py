"""The examples, as their reader runs them: three shapes of a cluster and a host of none, each made for real."""

from __future__ import annotations

import pytest
from support.commands import ROOT, Typed, shown

pytestmark = [pytest.mark.cluster, pytest.mark.nightly]


def test_the_examples_pass(user: Typed) -> None:
    done = user.run("pytest", "-v", "-p", "no:cacheprovider", "--color=no", str(ROOT / "examples"), seconds=3600)
    assert "6 passed" in done.stdout.splitlines()[-1], shown(done)
