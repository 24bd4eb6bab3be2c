"""Numbers that versions of YAML read differently are refused wherever a number is expected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import data
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve

# 18, 22 * 60 + 22, 1000, 3, 16 and 10.0 for YAML 1.1.
WRITTEN = ["0022", "22:22", "1_000", "0b11", "0x10", "-0x1", "1:30", "+022", "1_0.0", "1:30.5", ".5", ".inf"]


@pytest.mark.parametrize("text", WRITTEN)
def test_a_number_that_is_not_plain_stays_as_written(text: str) -> None:
    value = yaml.load(f"[{text}]", Loader=data.PlainLoader)[0]
    assert isinstance(value, data.NotPlain)
    assert value == text
    assert data.not_plain({"a": [1, {"b": value}]}) == text


@pytest.mark.parametrize(("text", "value"), [("22", 22), ("0", 0), ("-3", -3), ("1.5", 1.5), ("1e3", "1e3")])
def test_a_plain_number_is_a_number(text: str, value: Any) -> None:
    assert yaml.load(text, Loader=data.PlainLoader) == value


@pytest.mark.parametrize("text", [*WRITTEN, "1e3", "2.0", "yes", "on", "0o22"])
@pytest.mark.parametrize(
    "key",
    [
        "nodes: {master-0: {cpus: %s}}",
        "network: {node_prefix: %s}",
        "validate: {checks: [{name: one, command: [a], timeout: %s}]}",
        "provider: existing\nnodes: {master-0: {host: {addresses: [10.0.0.1], port: %s}}}",
        "nodes: {master-0: {memory: %s}}",
    ],
)
def test_a_profile_with_it_is_refused_by_name(tmp_path: Path, key: str, text: str) -> None:
    path = tmp_path / "mine.yml"
    path.write_text(f"extends: aio\n{key % text}\n")
    with pytest.raises(DevenvError) as caught:
        resolve(str(path))
    assert caught.value.exit_code == 2
    assert any(word in str(caught.value) for word in ("cpus", "node_prefix", "timeout", "port", "memory"))


@pytest.mark.parametrize("text", [*WRITTEN, "1e3", "2.0", "yes"])
def test_an_override_with_it_is_refused(text: str) -> None:
    with pytest.raises(DevenvError, match=r"cpus: must be a whole number"):
        resolve("aio", overrides={"nodes.master-0.cpus": text})


@pytest.mark.parametrize("text", ["0022", "22:22", "yes", "on", "1_000"])
def test_text_that_looks_like_it_needs_quotes(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yml"
    path.write_text(f"extends: aio\nnodes: {{master-0: {{labels: {{team: {text}}}}}}}\n")
    with pytest.raises(DevenvError, match=r"labels\.team.*in quotes"):
        resolve(str(path))
    path.write_text(f"extends: aio\nnodes: {{master-0: {{labels: {{team: '{text.replace(':', '-')}'}}}}}}\n")
    assert resolve(str(path))["nodes"][0]["labels"]["team"] == text.replace(":", "-")


def test_the_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_text("extends: aio\nnodes:\n  master-0:\n    cpus: 0022\n")
    with pytest.raises(DevenvError, match=r"line 4: nodes\.master-0\.cpus: 0022 is not a plain number"):
        resolve(str(path))
