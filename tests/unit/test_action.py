"""The base class of the action plugins, on top of a stand-in for Ansible's base class."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action, difference, plain
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.core.options import Spec
from ansible_collections.devenv.lab.plugins.plugin_utils.core.program import ProgramFailed


class Base:
    """The part of Ansible's ActionBase that the class uses."""

    def __init__(self, args: dict[str, Any], check: bool = False) -> None:
        self.lines: list[str] = []
        self._task = SimpleNamespace(args=args, check_mode=check)
        self._display = SimpleNamespace(display=self.lines.append)

    def run(self, _tmp: str | None, _variables: dict[str, Any] | None) -> dict[str, Any]:
        return {"base": True}

    def validate_argument_spec(self, *, argument_spec: Spec, required_if: list[Any]) -> tuple[None, dict[str, Any]]:
        assert set(self._task.args) <= set(argument_spec)
        assert required_if == [("state", "present", ("name",))]
        return None, {"state": "present", **self._task.args}


class Text(str):
    """Represents the types of Ansible's strings."""


class Number(int):
    """Represents the types of Ansible's numbers."""


class Module(Action, Base):
    SELECT = "state"
    REQUIRED_IF = (("state", "present", ("name",)),)

    def spec(self) -> Spec:
        return {"state": {"type": "str"}, "name": {"type": "str"}}

    def _present(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        self.progress(f"creates {args['name']}")
        return {"changed": not self.check, "type": type(args["name"]), "variables": variables}

    def _absent(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        raise DevenvError("node_image_failed", "cannot", where=args["name"])

    def _broken(self, _args: dict[str, Any], _variables: dict[str, Any]) -> dict[str, Any]:
        raise ProgramFailed(["ip"], 1, "no such device")


class Validated(Action, Base):
    """With Ansible's own validation."""

    SELECT = "state"
    REQUIRED_IF = (("state", "removed", ("names",)),)

    def spec(self) -> Spec:
        return {
            "state": {"type": "str", "required": True, "choices": ["kept", "removed"]},
            "names": {"type": "list", "elements": "str", "default": []},
            "grace": {"type": "int", "default": 30},
        }

    def validate_argument_spec(self, *, argument_spec: Spec, required_if: list[Any]) -> tuple[None, dict[str, Any]]:
        validation = ArgumentSpecValidator(argument_spec, required_if=required_if).validate(self._task.args)
        if validation.error_messages:
            raise ValueError("; ".join(validation.error_messages))
        return None, validation.validated_parameters

    def _kept(self, args: dict[str, Any], _variables: dict[str, Any]) -> dict[str, Any]:
        return {"args": args}

    _removed = _kept


class Named(Module):
    PROGRAM_REASON = "node_image_failed"


class Passing(Action, Base):
    VALIDATES = False

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        return {"args": args}


@pytest.mark.parametrize("check", [False, True])
def test_the_selected_method_does_the_work(check: bool) -> None:
    module = Module({"name": Text("n")}, check)
    assert module.run(None, {"a": 1}) == {"base": True, "changed": not check, "type": str, "variables": {"a": 1}}
    assert module.lines == ["progress: creates n"]


def test_an_option_with_a_default_can_be_required() -> None:
    assert Validated({"state": "kept"}).run()["args"] == {"state": "kept", "names": [], "grace": 30}
    assert Validated({"state": "removed", "names": []}).run()["args"]["names"] == []
    with pytest.raises(ValueError, match="state is removed but all of the following are missing: names"):
        Validated({"state": "removed"}).run()


def test_an_error_becomes_a_failed_result() -> None:
    result = Module({"state": "absent", "name": "n"}).run()
    assert (result["failed"], result["msg"], result["devenv_reason"]) == (True, "n: cannot", "node_image_failed")


def test_a_failed_program_is_a_bug_unless_it_has_a_reason() -> None:
    with pytest.raises(ProgramFailed):
        Module({"state": "broken"}).run()
    result = Named({"state": "broken"}).run()
    assert result["devenv_reason"] == "node_image_failed"
    assert "no such device" in result["msg"]


def test_a_plugin_that_does_not_validate_gets_the_options_unchanged() -> None:
    text = Text("n")
    module = Passing({"anything": text})
    result = module.run()
    assert result["args"]["anything"] is text
    assert result["args"] is not module._task.args


def test_plain_reaches_into_lists_and_mappings() -> None:
    value = plain({Text("a"): [Text("b"), {"c": Text("d")}], "e": Number(1), "f": True, "g": None, "h": 0.5})
    assert value == {"a": ["b", {"c": "d"}], "e": 1, "f": True, "g": None, "h": 0.5}
    assert (type(value["e"]), type(value["f"])) == (int, bool)
    assert {type(key) for key in value} == {str}
    assert type(value["a"][0]) is type(value["a"][1]["c"]) is str


def test_a_difference_shows_an_empty_value_as_no_text() -> None:
    assert difference("n", None, {"a": 1}) == {
        "before_header": "n",
        "after_header": "n",
        "before": "",
        "after": "a: 1\n",
    }
