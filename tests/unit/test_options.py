"""The options of action plugins, which come from the documentation of their modules."""

from __future__ import annotations

import importlib

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.devenv.lab.plugins.plugin_utils.bundle import downloads, sources
from ansible_collections.devenv.lab.plugins.plugin_utils.core import options
from unit.test_repository import ROOT

ACTIONS = sorted(path.stem for path in (ROOT / "plugins" / "action").glob("*.py"))


def test_options_of_fragments_are_included_and_can_be_replaced() -> None:
    spec = options.documented("libvirt_nodes")
    assert spec["environment"] == {"type": "str", "required": True}
    assert spec["grace"] == {"type": "int", "default": 90}
    assert options.documented("podman_nodes")["grace"]["default"] == 30


def test_only_what_ansible_validates_is_kept() -> None:
    assert options.documented("join_secret") == {
        "path": {"type": "path", "required": True},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    }


@pytest.mark.parametrize("name", ACTIONS)
def test_the_defaults_of_every_action_plugin_are_valid(name: str) -> None:
    spec = {key: {**option, "required": False} for key, option in options.documented(name).items()}
    plugin = importlib.import_module(f"ansible_collections.devenv.lab.plugins.action.{name}").ActionModule
    assert ArgumentSpecValidator(spec).validate({}).error_messages == []
    assert {option for _name, _value, names in plugin.REQUIRED_IF for option in names} <= spec.keys()
    assert not plugin.SELECT or all(hasattr(plugin, f"_{value}") for value in spec[plugin.SELECT]["choices"])


def test_the_documented_download_sites_are_the_official_ones() -> None:
    spec = options.documented("bundle")
    assert spec["source"]["choices"] == list(sources.SOURCES)
    assert {name: spec[f"{name}_url"]["default"] for name in downloads.official()} == downloads.official()
