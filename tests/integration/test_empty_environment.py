"""Commands on an environment without nodes, or with a broken state: an exit code and advice that fit, never a bug."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import network_plan, state
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from support.commands import Typed


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    folder = tmp_path / "environments" / "lab"
    folder.mkdir(parents=True)
    state.write_profile(folder, resolve("sno"))
    return folder


@pytest.mark.parametrize(
    "words", [["stop"], ["start"], ["certs", "renew"], ["snapshot", "save", "one"], ["image", "load", "x:1"]]
)
@pytest.mark.parametrize("profile", [True, False])
def test_a_run_on_an_environment_without_nodes_exits_with_11(
    lab: Path, tmp_path: Path, words: list[str], profile: bool
) -> None:
    if not profile:
        (lab / "profile.yml").unlink()
    done = Typed(tmp_path).devenv(*words, "--name", "lab", code=11)
    assert "[nodes_none]" in done.stderr
    assert "next: devenv up creates them" in done.stderr


@pytest.mark.parametrize("file", ["profile.yml", "network.yml", "inventory.yml"])
@pytest.mark.parametrize("content", ["{[", "[1]", "7", "{}", None])
def test_a_broken_file_of_the_state_is_named(lab: Path, tmp_path: Path, file: str, content: str | None) -> None:
    resolved = resolve("sno")
    state.write_network(lab, {**network_plan.make(resolved, {"ipv4": "10.213.9.0/24"}), "bridge": "podman9"})
    state.write_inventory(lab)
    (lab / file).unlink()
    if content is None:
        (lab / file).mkdir()
    else:
        (lab / file).write_text(content)
    words = ["inventory", "--json"] if file == "inventory.yml" else ["status"]
    code = 11 if file == "inventory.yml" and content is None else 2
    done = Typed(tmp_path).devenv(*words, "--name", "lab", code=code)
    assert "bug" not in done.stderr
    assert code == 11 or f"{file}) [state_broken]" in done.stderr
    if file != "inventory.yml":
        assert Typed(tmp_path).data("list")[0]["state"] == "broken"
