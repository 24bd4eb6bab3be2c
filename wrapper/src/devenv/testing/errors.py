"""Errors of tests with hardware."""

from __future__ import annotations

from collections.abc import Sequence


class TestingError(Exception):
    """Base of the errors of this package."""

    # pytest would collect a class of this name.
    __test__ = False


class PluginUnknown(TestingError, AttributeError):
    """No host or cluster plugin has this name."""


class ExtensionInvalid(TestingError):
    """An entry point cannot be imported, or names an object of the wrong type."""


class NotAvailable(TestingError):
    """The request cannot be met here; the message states why."""


class AllocationFailed(TestingError):
    """No machines, or no cluster on them."""


class CommandFailed(TestingError):
    """A command on a host ended with a code other than 0; ``code``, ``stdout`` and ``stderr`` are its results."""

    def __init__(self, host: str, command: str, code: int, stdout: str, stderr: str) -> None:
        self.host, self.command, self.code, self.stdout, self.stderr = host, command, code, stdout, stderr
        output = (stderr.strip() or stdout.strip())[-2000:]
        super().__init__(f"{host}: {command[:200]!r} ended with {code}{': ' + output if output else ''}")


class Unreachable(CommandFailed):
    """ssh itself failed: no connection, a refused key, an unknown host key."""


class CommandTimeout(TestingError):
    """A command did not end in time and was stopped."""

    def __init__(self, host: str, command: str, seconds: float) -> None:
        self.host, self.command, self.seconds = host, command, seconds
        super().__init__(f"{host}: {command[:200]!r} did not end within {seconds:g} s")


class SeveralFailed(TestingError):
    """Several hosts failed in the same call; ``errors`` has the error of each."""

    def __init__(self, errors: Sequence[Exception]) -> None:
        self.errors = tuple(errors)
        super().__init__("; ".join(str(error) for error in errors))


class PluginFailed(TestingError):
    """A plugin's ``ping``, ``verify_functionality`` or ``reset_state`` failed at its point of the test run."""

    def __init__(self, owner: str, plugin: str, method: str, error: Exception) -> None:
        super().__init__(f"plugin {plugin} of {owner}: {method}: {error}")
        self.__cause__ = error
