"""Start the programs of a run, and stop the run where one ends badly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.node.redact import RedactedLines
from ansible_collections.devenv.lab.plugins.module_utils.script import output
from ansible_collections.devenv.lab.plugins.module_utils.script.control import Control, Ended, Interrupted
from ansible_collections.devenv.lab.plugins.module_utils.script.request import Call


class Stop(Exception):
    """The run is over, and not well."""

    def __init__(self, ended: str, message: str, how: Ended | None = None, ran: bool = False) -> None:
        self.ended = ended
        self.message = message
        self.code = how.code if how else None
        self.left = how.left if how else []
        self.ran = ran
        super().__init__(message)


class Programs:
    """Starts programs where the script runs. ``screen`` is where their output goes, ``keep`` descriptors that they
    inherit, ``lines`` what takes secrets out.
    """

    def __init__(self, call: Call, params: dict[str, Any], control: Control) -> None:
        self._call, self._params, self._control = call, params, control
        self.lines = RedactedLines(call.texts.secrets.values())
        self.keep: list[int] = []
        self.show(-1)

    def show(self, log: int) -> None:
        """Begin a new screen with the log's descriptor ``log`` (-1: none)."""
        params = self._params
        pattern = params["changed_pattern"] if params["changed_when"] == "pattern" else ""
        self.screen = output.Screen(self.lines, log, params["output_lines"], params["show_pattern"], pattern)

    def run(self, argv: Sequence[str], env: dict[str, str], ran: bool = False) -> Ended:
        """Run a program (the script itself: ``ran``). Raises Stop."""
        try:
            ended = self._control.run(
                argv,
                env=env,
                cwd=self._call.chdir,
                timeout=self._params["timeout"],
                grace=self._params["grace"],
                keep=self.keep,
                write=self.screen.write,
            )
        except Interrupted as stop:
            self.screen.end()
            how = Ended(-1, 0, False, stop.left)
            raise Stop("interrupted", f"{self._call.name} was interrupted and ended", how, ran) from None
        except OSError as error:
            raise Stop("failed", f"{argv[0]} cannot be started: {error.strerror}") from None
        self.screen.end()
        return ended

    def ask(self, what: str, argv: Sequence[str], env: dict[str, str]) -> Ended:
        """Run a program that is not the script itself. Raises Stop."""
        ended = self.run(argv, env)
        if ended.timed_out:
            raise Stop("timeout", f"{what} did not end in {self._params['timeout']:g} s and was ended", ended)
        return ended

    def wait(self, seconds: float) -> None:
        """Let time pass between attempts. Raises Stop."""
        try:
            self._control.wait(seconds)
        except Interrupted:
            raise Stop("interrupted", f"{self._call.name} was interrupted between attempts", ran=True) from None
