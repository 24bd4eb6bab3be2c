"""Files on this machine that a profile names."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import stages
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.checks import local_files
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve

HOST = "registry.example.com:5000"


def test_files_of_registries_must_exist_before_a_run_begins(tmp_path: Path) -> None:
    access = {"ca": str(tmp_path / "ca.pem"), "user": "ci", "password_file": str(tmp_path / "password")}
    (tmp_path / "ca.pem").write_text("x")
    resolved = resolve("aio", overrides={"registry": {"hosts": {HOST: access}}})
    assert sorted(local_files.named(resolved)) == [f"registry.hosts.{HOST}.ca", f"registry.hosts.{HOST}.password_file"]
    with pytest.raises(DevenvError, match=rf"registry\.hosts\.{HOST}\.password_file: .* is not a readable file"):
        stages.compare(tmp_path / "lab", resolved)
    (tmp_path / "password").write_text("x")
    stages.compare(tmp_path / "lab", resolved)


@pytest.mark.parametrize("access", [{"user": "ci"}, {"password_file": "/a"}, {"ca": "relative.pem"}, {"user": "a:b"}])
def test_half_an_access_is_refused(access: dict[str, str]) -> None:
    with pytest.raises(DevenvError, match=r"registry\.hosts\."):
        resolve("aio", overrides={"registry": {"hosts": {HOST: access}}})
