"""What the collection's action plugins have in common: ``class ActionModule(Action, ActionBase)``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, cast

from ansible_collections.devenv.lab.plugins.plugin_utils.core import progress
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError, as_result
from ansible_collections.devenv.lab.plugins.plugin_utils.core.program import ProgramFailed

Spec = dict[str, dict[str, Any]]
# If the option has the value, these options are required.
Condition = tuple[str, str, tuple[str, ...]]


class _Display(Protocol):
    def display(self, msg: str) -> None: ...


class _Task(Protocol):
    args: Mapping[str, Any]
    check_mode: bool


class _ActionBase(Protocol):
    _task: _Task
    _display: _Display

    def validate_argument_spec(
        self, *, argument_spec: Spec, required_if: list[Condition]
    ) -> tuple[Any, dict[str, Any]]: ...


class Action:
    """Validates the task's options, runs ``act`` and returns a DevenvError as a failed result.

    ``SPEC`` holds the options; None leaves them to the module. ``SELECT`` names an option: the method ``_<its value>``
    does the work. Others define ``act``. ``PROGRAM_REASON`` is the reason of a failed program (else: a bug).
    """

    SPEC: ClassVar[Spec | None] = None
    REQUIRED_IF: ClassVar[Sequence[Condition]] = ()
    SELECT: ClassVar[str] = ""
    PROGRAM_REASON: ClassVar[str] = ""
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the task's result."""
        result: dict[str, Any] = cast(Any, super()).run(tmp, task_vars)
        base = cast(_ActionBase, self)
        args = dict(base._task.args)
        if self.SPEC is not None:
            args = _validated(base, self.SPEC, self.REQUIRED_IF)
        try:
            return {**result, **self.act(args, task_vars or {})}
        except DevenvError as error:
            return as_result(error)
        except ProgramFailed as error:
            if not self.PROGRAM_REASON:
                raise
            return as_result(DevenvError(self.PROGRAM_REASON, str(error)))

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Do the work with validated options; ``variables`` are the host's."""
        done: dict[str, Any] = getattr(self, f"_{args[self.SELECT]}")(args, variables)
        return done

    @property
    def check(self) -> bool:
        """Whether the run is in check mode."""
        return bool(cast(_ActionBase, self)._task.check_mode)

    def say(self, text: str) -> None:
        """Print one line of progress. The command shows it beside the stage, plain Ansible as a line."""
        cast(_ActionBase, self)._display.display(f"{progress.MARK}{text}")


def _validated(base: _ActionBase, spec: Spec, required_if: Sequence[Condition]) -> dict[str, Any]:
    """Return the task's options. Those of ``required_if`` get their defaults last: to Ansible, a default is given."""
    late = {name: spec[name].get("default") for _option, _value, names in required_if for name in names}
    early = {name: {**option, "default": None} if name in late else option for name, option in spec.items()}
    args: dict[str, Any] = plain(base.validate_argument_spec(argument_spec=early, required_if=list(required_if))[1])
    return args | {name: default for name, default in late.items() if args.get(name) is None}


def plain(value: Any) -> Any:
    """Return ``value`` with Python's own texts and numbers: yaml writes no types of Ansible into a file."""
    for kind in (bool, str, int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value
