"""The base class of the collection's action plugins: ``class ActionModule(Action, ActionBase)``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.core import files, options, progress
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError, as_result
from ansible_collections.devenv.lab.plugins.plugin_utils.core.options import Spec
from ansible_collections.devenv.lab.plugins.plugin_utils.core.program import ProgramFailed

# If the option has the value, these options are required.
Condition = tuple[str, str, tuple[str, ...]]


class Action:
    """Validates the task's options, runs ``act`` and returns a DevenvError as a failed result.

    The options are those that the module of the same name documents; with ``VALIDATES = False``, the module itself
    validates them. ``SELECT`` names an option whose value is the name of the method that does the work, with an
    underscore in front. Without it, a plugin defines ``act``. ``PROGRAM_REASON`` is the reason of a failed program;
    without it, a failed program is a bug.
    """

    VALIDATES: ClassVar[bool] = True
    REQUIRED_IF: ClassVar[Sequence[Condition]] = ()
    SELECT: ClassVar[str] = ""
    PROGRAM_REASON: ClassVar[str] = ""
    _requires_connection = False
    # Of Ansible's ActionBase, the other base class.
    _task: Any
    _display: Any
    validate_argument_spec: Callable[..., tuple[Any, dict[str, Any]]]

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the task's result."""
        result: dict[str, Any] = cast(Any, super()).run(tmp, task_vars)
        args = self._validated() if self.VALIDATES else dict(self._task.args)
        files.tighten_umask()
        try:
            return {**result, **self.act(args, task_vars or {})}
        except DevenvError as error:
            return as_result(error)
        except ProgramFailed as error:
            if not self.PROGRAM_REASON:
                raise
            return as_result(DevenvError(self.PROGRAM_REASON, str(error)))

    def _validated(self) -> dict[str, Any]:
        """Return the task's options. Those of ``REQUIRED_IF`` get their defaults last: for Ansible, an option with a
        default is never missing.
        """
        spec = self.spec()
        late = {name: spec[name].get("default") for _option, _value, names in self.REQUIRED_IF for name in names}
        early = {name: {**option, "default": None} if name in late else option for name, option in spec.items()}
        validated = self.validate_argument_spec(argument_spec=early, required_if=list(self.REQUIRED_IF))[1]
        args: dict[str, Any] = plain(validated)
        return args | {name: default for name, default in late.items() if args.get(name) is None}

    def spec(self) -> Spec:
        """Return the argument specification of the plugin."""
        return options.documented(type(self).__module__.rpartition(".")[2])

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Do the work with validated options; ``variables`` are the host's."""
        done: dict[str, Any] = getattr(self, f"_{args[self.SELECT]}")(args, variables)
        return done

    @property
    def check(self) -> bool:
        """Whether the run is in check mode."""
        return bool(self._task.check_mode)

    def progress(self, text: str) -> None:
        """Print one line of progress. The command shows it next to the stage, plain Ansible as a line."""
        self._display.display(f"{progress.MARK}{text}")


def difference(name: str, before: Any, after: Any) -> dict[str, str]:
    """Return a difference for Ansible's ``--diff``: both values as YAML, an empty one as no text."""
    texts = {key: yaml.safe_dump(value) if value else "" for key, value in (("before", before), ("after", after))}
    return {"before_header": name, "after_header": name, **texts}


def plain(value: Any) -> Any:
    """Return ``value`` with Python's own strings and numbers, since yaml cannot write Ansible's types to a file."""
    for kind in (bool, str, int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value
