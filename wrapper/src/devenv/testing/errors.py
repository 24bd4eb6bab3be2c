"""What goes wrong in tests with hardware."""

from __future__ import annotations

from collections.abc import Sequence


class TestingError(Exception):
    """Base of the errors of this package."""

    # pytest takes classes of this name for tests.
    __test__ = False


class PluginUnknown(TestingError, AttributeError):
    """There is no host or cluster plugin of this name."""


class NotAvailable(TestingError):
    """What was asked for cannot be had here; the message says why."""


class AllocationFailed(TestingError):
    """No machines, or no cluster on them."""


class CommandFailed(TestingError):
    """A command on a host ended with another code than 0. ``code``, ``stdout`` and ``stderr`` are what it left."""

    def __init__(self, host: str, command: str, code: int, stdout: str, stderr: str) -> None:
        self.host, self.command, self.code, self.stdout, self.stderr = host, command, code, stdout, stderr
        said = (stderr.strip() or stdout.strip())[-2000:]
        super().__init__(f"{host}: {command[:200]!r} ended with {code}{': ' + said if said else ''}")


class Unreachable(CommandFailed):
    """ssh itself failed: no connection, a key that is refused, a host key that is not known."""


class CommandTimeout(TestingError):
    """A command did not end in time, and was ended."""

    def __init__(self, host: str, command: str, seconds: float) -> None:
        self.host, self.command, self.seconds = host, command, seconds
        super().__init__(f"{host}: {command[:200]!r} was not done within {seconds:g} s")


class SeveralFailed(TestingError):
    """Several hosts failed at the same call; ``errors`` has each one's."""

    def __init__(self, errors: Sequence[Exception]) -> None:
        self.errors = tuple(errors)
        super().__init__("; ".join(str(error) for error in errors))
