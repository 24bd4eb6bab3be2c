"""Put secrets and variables where a script finds them."""

from __future__ import annotations

import os
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.node import files
from ansible_collections.devenv.lab.plugins.module_utils.script import output, request, shell
from ansible_collections.devenv.lab.plugins.module_utils.script.control import MARKER
from ansible_collections.devenv.lab.plugins.module_utils.script.programs import Programs, Stop
from ansible_collections.devenv.lab.plugins.module_utils.script.request import Call


class Delivery:
    """Delivers to one run, by its private ``folder``: secrets as variables, files or descriptors, and an environment.

    Files are for this user alone. Each has a folder of its own kind: names are the user's, and others stand beside it.
    """

    def __init__(self, call: Call, params: dict[str, Any], folder: str, programs: Programs) -> None:
        self._call, self._params, self._programs = call, params, programs
        self.folder = folder
        self._sourced: dict[str, str] | None = None
        self._where: dict[str, str] = {}  # variables that say where a secret is
        for name, text in call.texts.secrets.items():
            way = call.texts.ways[name]
            self._where[name] = text if way == "env" else self._secret_file(name, text, by_descriptor=way == "fd")

    def _secret_file(self, name: str, text: str, by_descriptor: bool) -> str:
        path = os.path.join(self.folder, "secrets", name)
        files.write(path, text)
        if not by_descriptor:
            return path
        number = os.open(path, os.O_RDONLY)
        os.unlink(path)
        self._programs.keep.append(number)
        return f"/dev/fd/{number}"

    def script(self, call: Call) -> str:
        """Return the path of the script, which is written when it was given as text."""
        if not call.content:
            return call.path
        path = os.path.join(self.folder, "script", call.name)
        files.write(path, call.content)
        return path

    def rewind(self) -> None:
        """Let descriptors be read from their beginning again."""
        for number in self._programs.keep:
            os.lseek(number, 0, os.SEEK_SET)

    def environment(self) -> dict[str, str]:
        """Return the environment of the script; files are sourced once. Raises Stop."""
        given = dict(os.environ)
        if self._sourced is None and self._params["source"]:
            self._sourced = self._source(self._with_variables(given))
        return self._with_variables(self._sourced or given)

    def _with_variables(self, given: dict[str, str]) -> dict[str, str]:
        found = {**given, **self._where, MARKER: os.path.basename(self.folder)}
        for name, text in self._call.texts.variables.items():
            if text is None:
                found.pop(name, None)
            else:
                found[name] = text
        return found

    def _source(self, env: dict[str, str]) -> dict[str, str]:
        dump = os.path.join(self.folder, "sourced")
        ended = self._programs.ask("source", shell.sourcing(self._params["source"], dump), env)
        found = shell.read_dump(dump)
        if found is None or ended.code != 0:
            raise Stop("failed", f"the files to source ended with code {ended.code}", ended)
        os.unlink(dump)
        self._programs.lines.hide(
            text for name, text in found.items() if output.looks_secret(name) and len(text) >= request.SHORTEST_SECRET
        )
        return {name: text for name, text in found.items() if name not in ("_", "SHLVL", "PWD", "OLDPWD")}
