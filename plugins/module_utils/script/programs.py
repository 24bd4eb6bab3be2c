"""Run the programs of one script, with its variables, secrets and output."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.node import files
from ansible_collections.devenv.lab.plugins.module_utils.node.redact import RedactedLines
from ansible_collections.devenv.lab.plugins.module_utils.script import output, request, shell
from ansible_collections.devenv.lab.plugins.module_utils.script.control import MARKER, Control, Ended, Interrupted
from ansible_collections.devenv.lab.plugins.module_utils.script.request import Call


class Stop(Exception):
    """The run is over without success. ``ended`` is how, as in the module's result."""

    def __init__(self, ended: str, message: str, how: Ended | None = None, ran: bool = False) -> None:
        self.ended, self.message, self.how, self.ran = ended, message, how, ran
        super().__init__(message)


class Programs:
    """Runs programs in the script's environment. ``folder`` is private to the run, ``lines`` redacts secrets, and
    ``screen`` receives the output.

    Files are in one subfolder per kind, since users choose the names, and readable by this user only.
    """

    def __init__(self, call: Call, params: dict[str, Any], folder: str, control: Control) -> None:
        self.folder = folder
        self.lines = RedactedLines(call.texts.secrets.values())
        self._call, self._params, self._control = call, params, control
        self._descriptors: list[int] = []  # of secrets, which programs inherit
        self._sourced: dict[str, str] | None = None
        self._secrets = {name: self._deliver(name, text) for name, text in call.texts.secrets.items()}
        self.open_screen(-1)

    def open_screen(self, log: int) -> None:
        """Start an empty screen, which writes to the descriptor ``log`` (-1: none)."""
        params = self._params
        pattern = params["changed_pattern"] if params["changed_when"] == "pattern" else ""
        self.screen = output.Screen(self.lines, log, params["output_lines"], params["show_pattern"], pattern)

    def _deliver(self, name: str, secret: str) -> str:
        """Return the value of the variable of a secret: the secret itself, or the path to read it from."""
        delivery = self._call.texts.deliveries[name]
        if delivery == "env":
            return secret
        path = os.path.join(self.folder, "secrets", name)
        files.write(path, secret)
        if delivery == "file":
            return path
        number = os.open(path, os.O_RDONLY)
        os.unlink(path)
        self._descriptors.append(number)
        return f"/dev/fd/{number}"

    def script(self) -> str:
        """Return the path of the script, which is written first if it was given as text."""
        if not self._call.content:
            return self._call.path
        path = os.path.join(self.folder, "script", self._call.name)
        files.write(path, self._call.content)
        return path

    def environment(self) -> dict[str, str]:
        """Return the environment of the script; files are sourced once. Raises Stop."""
        inherited = dict(os.environ)
        if self._sourced is None and self._params["source"]:
            self._sourced = self._source(self._with_variables(inherited))
        return self._with_variables(self._sourced or inherited)

    def _with_variables(self, inherited: dict[str, str]) -> dict[str, str]:
        variables = self._call.texts.variables
        kept = {name: text for name, text in inherited.items() if name not in variables}
        declared = {name: text for name, text in variables.items() if text is not None}
        return {**kept, **self._secrets, MARKER: os.path.basename(self.folder), **declared}

    def _source(self, env: dict[str, str]) -> dict[str, str]:
        dump = os.path.join(self.folder, "sourced")
        ended = self.query("source", shell.sourcing(self._params["source"], dump), env)
        variables = shell.read_dump(dump)
        if variables is None or ended.code != 0:
            raise Stop("failed", f"the files to source ended with code {ended.code}", ended)
        os.unlink(dump)
        self.lines.hide(
            text
            for name, text in variables.items()
            if output.SECRET_NAME.search(name) and len(text) >= request.SHORTEST_SECRET
        )
        return {name: text for name, text in variables.items() if name not in ("_", "SHLVL", "PWD", "OLDPWD")}

    def run(self, argv: Sequence[str], env: dict[str, str], ran: bool = False) -> Ended:
        """Run a program; ``ran``: it is the script itself. Raises Stop."""
        for number in self._descriptors:
            os.lseek(number, 0, os.SEEK_SET)
        try:
            ended = self._control.run(
                argv,
                env=env,
                cwd=self._call.chdir,
                timeout=self._params["timeout"],
                grace=self._params["grace"],
                keep=self._descriptors,
                write=self.screen.write,
            )
        except Interrupted as stop:
            self.screen.end()
            how = Ended(-1, False, stop.remaining)
            raise Stop("interrupted", f"{self._call.name} was interrupted and terminated", how, ran) from None
        except OSError as error:
            raise Stop("failed", f"{argv[0]} cannot be started: {error.strerror}") from None
        self.screen.end()
        return ended

    def query(self, what: str, argv: Sequence[str], env: dict[str, str]) -> Ended:
        """Run a program that is not the script itself. Raises Stop."""
        ended = self.run(argv, env)
        if ended.timed_out:
            raise Stop("timeout", f"{what} did not end in {self._params['timeout']:g} s and was terminated", ended)
        return ended

    def wait(self, seconds: float) -> None:
        """Wait between attempts. Raises Stop."""
        try:
            self._control.wait(seconds)
        except Interrupted:
            raise Stop("interrupted", f"{self._call.name} was interrupted between attempts", ran=True) from None
