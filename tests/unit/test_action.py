"""What all action plugins have in common, under a stand-in for Ansible's base class."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.devenv.lab.plugins.plugin_utils.core.action import Action, Spec, plain
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.core.program import ProgramFailed


class Base:
    """As far as the class uses Ansible's ActionBase."""

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
    """Stands for the types that Ansible's texts have."""


class Number(int):
    """Stands for the types that Ansible's numbers have."""


class Module(Action, Base):
    SELECT = "state"
    SPEC: ClassVar[Spec] = {"state": {"type": "str"}, "name": {"type": "str"}}
    REQUIRED_IF = (("state", "present", ("name",)),)

    def _present(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        self.say(f"makes {args['name']}")
        return {"changed": not self.check, "type": type(args["name"]), "variables": variables}

    def _absent(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        raise DevenvError("node_image_failed", "cannot", where=args["name"])

    def _broken(self, _args: dict[str, Any], _variables: dict[str, Any]) -> dict[str, Any]:
        raise ProgramFailed(["ip"], 1, "no such device")


class Validated(Action, Base):
    """With Ansible's own validation."""

    SELECT = "state"
    SPEC: ClassVar[Spec] = {
        "state": {"type": "str", "required": True, "choices": ["kept", "removed"]},
        "names": {"type": "list", "elements": "str", "default": []},
        "grace": {"type": "int", "default": 30},
    }
    REQUIRED_IF = (("state", "removed", ("names",)),)

    def validate_argument_spec(self, *, argument_spec: Spec, required_if: list[Any]) -> tuple[None, dict[str, Any]]:
        found = ArgumentSpecValidator(argument_spec, required_if=required_if).validate(self._task.args)
        if found.error_messages:
            raise ValueError("; ".join(found.error_messages))
        return None, found.validated_parameters

    def _kept(self, args: dict[str, Any], _variables: dict[str, Any]) -> dict[str, Any]:
        return {"args": args}

    _removed = _kept


class Named(Module):
    PROGRAM_REASON = "node_image_failed"


class Passing(Action, Base):
    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        return {"args": args}


@pytest.mark.parametrize("check", [False, True])
def test_the_selected_method_does_the_work(check: bool) -> None:
    module = Module({"name": Text("n")}, check)
    assert module.run(None, {"a": 1}) == {"base": True, "changed": not check, "type": str, "variables": {"a": 1}}
    assert module.lines == ["progress: makes n"]


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


def test_without_a_spec_the_options_are_passed_on_as_they_are() -> None:
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
