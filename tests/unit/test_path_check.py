"""Paths that work, and those that are refused by name."""

from __future__ import annotations

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.host import path_check


@pytest.mark.parametrize(
    "name", ["a b", "100%", "Jürgen's", "日本", "a,b", "#1", "(a)", "a&b;c", "x" * 200, "a/" * 900]
)
def test_ordinary_names_work(name: str) -> None:
    path_check.require_usable({"DEVENV_HOME": f"/srv/{name}", "XDG_CACHE_HOME": f"/srv/{name}"})


@pytest.mark.parametrize("variable", ["DEVENV_HOME", "XDG_CACHE_HOME"])
@pytest.mark.parametrize(
    "name", ["a:b", 'a"b', "a\\b", "a\nb", "a\tb", "a\x7f", "a{{b}}", "a$b", "a\udcff", "a/" * 1900]
)
def test_a_name_that_other_programs_misread_is_refused(variable: str, name: str) -> None:
    usable = {"DEVENV_HOME": "/srv/home", "XDG_CACHE_HOME": "/srv/cache"}
    with pytest.raises(DevenvError) as caught:
        path_check.require_usable({**usable, variable: f"/srv/{name}"})
    assert (caught.value.reason.id, caught.value.exit_code) == ("path_unusable", 9)
    assert f"Set {variable} " in caught.value.advice
    assert str(caught.value).isprintable()
