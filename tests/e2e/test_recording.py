"""The recording in the README is what the commands print; with DEVENV_RECORD=1 this test writes it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support import recording
from support.commands import Typed

pytestmark = pytest.mark.cluster

# What depends on how long a step takes, and on who else uses the host.
VARIABLE = re.compile(r"^\w+ +(current task:|waiting for|restored on the host:) ")
PICTURE = Path(__file__).resolve().parents[2] / "docs" / "images" / "up.svg"


def test_the_recording_of_the_readme_is_what_devenv_prints(user: Typed, new_name: Callable[[str], str]) -> None:
    name = new_name("recording")
    devenv = str(Path(sys.executable).with_name("devenv"))
    commands = [
        ("devenv up --profile aio", [devenv, "up", "--profile", "aio", "--name", name]),
        ("devenv status", [devenv, "status", "--name", name]),
        ("devenv down", [devenv, "down", "--name", name]),
    ]
    lines = recording.record(commands, user.environment(), user.cwd)
    # As it is on a machine with this environment alone.
    option = re.compile(rf" (-n|--name) {name}")
    plain = [
        replace(line, text=option.sub("", line.text).replace(name, "aio"))
        for line in lines
        if not VARIABLE.search(line.text)
    ]
    drawn = recording.render(plain)
    if os.environ.get("DEVENV_RECORD"):
        PICTURE.write_text(drawn)
    assert recording.words(drawn) == recording.words(PICTURE.read_text()), "run this test with DEVENV_RECORD=1"
