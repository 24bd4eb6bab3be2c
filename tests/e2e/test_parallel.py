"""Four environments with different stacks, created at the same time by four users of one machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import machine
from support.commands import Typed, finish_all

pytestmark = [pytest.mark.cluster, pytest.mark.alone, pytest.mark.nightly]

PROFILES = ("sno-ipv4-static", "master-2pipe-ipv6-static", "sno-dualstack-dhcp", "sno-dualstack6-static")


def together(users: list[Typed], commands: list[list[str]]) -> None:
    """Run one command of each user at the same time."""
    finish_all([user.start("devenv", *argv) for user, argv in zip(users, commands, strict=True)], seconds=1800)


def test_four_stacks_at_once(new_name: Callable[[str], str], tmp_path: Path) -> None:
    users = [Typed(tmp_path / f"home-{number}") for number in range(len(PROFILES))]
    names = [new_name("four") for _ in PROFILES]
    before = machine.snapshot()
    try:
        together(
            users,
            [
                ["up", "--profile", profile, "--name", name, "--timeout", "25m"]
                for profile, name in zip(PROFILES, names, strict=True)
            ],
        )
        together(users, [["validate", "--name", name] for name in names])
        for user, name in zip(users, names, strict=True):
            assert user.objects("up", "--name", name)[-1]["changed"] == 0
    finally:
        together(users, [["down", "--name", name] for name in names])
    assert machine.difference(before, machine.snapshot(), ignore=machine.OTHERS) == {}
