"""The node that code changes: its files, programs and clock, and the error of a failed step."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from ansible_collections.devenv.lab.plugins.module_utils.node import files, net, program, redact, wait

LOGS = "/var/log/devenv"
RUNTIME = "/run/devenv"  # in memory
TAIL = 60  # lines of an output in a result


class StepFailed(Exception):
    """A failed step. ``reason`` is the id of a reason in the catalogue, ``output`` has redacted lines."""

    def __init__(self, reason: str, message: str, output: Sequence[str] = ()) -> None:
        self.reason = reason
        self.output = list(output)[-TAIL:]
        super().__init__(redact.redact(message))

    def result(self) -> dict[str, Any]:
        """Return the arguments for fail_json."""
        return {"msg": str(self), "devenv_reason": self.reason, "output": self.output}


class Machine:
    """This node. Tests pass a folder as ``root``, and their own programs, HTTP responses and clock."""

    def __init__(
        self,
        root: str = "/",
        *,
        clock: wait.Clock = wait.REAL,
        run: Callable[..., program.ProgramResult] = program.run,
        http_status: Callable[..., int | None] = net.http_status,
    ) -> None:
        self.root, self.clock, self.run, self.http_status = root, clock, run, http_status

    def http_ok(self, *words: Any, **more: Any) -> bool:
        """Return whether the status of a GET, as of `net.http_status`, is 200."""
        return self.http_status(*words, **more) == 200

    def path(self, path: str) -> str:
        """Return the actual path of the node's file ``path``."""
        return files.under(self.root, path)

    def log(self, name: str) -> str:
        """Return the path of a log file; its folder exists."""
        os.makedirs(self.path(LOGS), mode=0o755, exist_ok=True)
        return self.path(f"{LOGS}/{name}.log")

    def exists(self, path: str) -> bool:
        return os.path.exists(self.path(path))

    def now(self) -> float:
        """Return the time on the clock of deadlines."""
        return self.clock.now()


def carry_out(module: Any, work: Callable[[], dict[str, Any]], reason: str = "node_config_failed") -> None:
    """Exit an Ansible module with the result of ``work``, or with its error; ``reason`` is that of an OSError."""
    try:
        result = work()
    except StepFailed as error:
        module.fail_json(**error.result())
    except OSError as error:
        module.fail_json(msg=str(error), devenv_reason=reason)
    module.exit_json(**result)
