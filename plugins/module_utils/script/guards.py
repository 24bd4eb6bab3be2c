"""Decide whether a script has anything to do."""

from __future__ import annotations

import glob
import os
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.script.delivery import Delivery
from ansible_collections.devenv.lab.plugins.module_utils.script.programs import Programs
from ansible_collections.devenv.lab.plugins.module_utils.script.request import Call


class Guards:
    """What may hold a run back: a file that is there, nothing that differs from the ``record`` of the last run, a
    command that succeeds. ``described`` is what this run depends on.
    """

    def __init__(
        self, call: Call, params: dict[str, Any], described: dict[str, str], record: dict[str, Any], delivery: Delivery
    ) -> None:
        self._call, self._params, self._delivery = call, params, delivery
        self._described, self._record = described, record

    def holding(self, programs: Programs) -> str:
        """Return which guard says that nothing is to be done, "" for none. Raises Stop."""
        creates, unless = self._params["creates"], self._params["unless"]
        if creates and glob.glob(os.path.join(self._call.chdir, os.path.expanduser(creates))):
            return "creates"
        if self._params["rerun"] == "changed" and self._record.get("described") == self._described:
            return "rerun"
        if unless and programs.ask("unless", ["bash", "-c", unless], self._delivery.environment()).code == 0:
            return "unless"
        return ""

    def result(self, guard: str) -> dict[str, Any]:
        """Return the result of a run that ``guard`` held back, with the facts of the last one."""
        why = {
            "creates": f"{self._params['creates']} is there",
            "unless": "unless holds",
            "rerun": "nothing differs from the last run that succeeded",
        }
        facts = self._record.get("facts") or {}
        found = {one.fact: facts[one.fact] for one in self._call.exports if one.fact in facts}
        result = {"changed": False, "ran": False, "skipped_by": guard, "msg": f"not run: {why[guard]}"}
        return {**result, **as_facts(found)}


def as_facts(found: dict[str, Any]) -> dict[str, Any]:
    """Return what was exported as part of a result."""
    return {"ansible_facts": found, "exported": found} if found else {}
