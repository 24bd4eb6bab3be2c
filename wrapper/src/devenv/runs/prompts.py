"""Arguments with which ansible-playbook would wait for input: a run has no terminal, so it would wait forever."""

from __future__ import annotations

import re
from collections.abc import Sequence

from devenv import errors

_ASKING = ("--ask-pass", "--ask-become-pass", "--ask-vault-password", "--ask-vault-pass", "--step")
_SHORT = re.compile(r"-[vCDbh]*[KkJ]")  # argparse accepts several letters in one word
_VAULT_ID = re.compile(r"(.*@)?prompt\w*")
_PASSWORD_FILES = ("--become-pass", "--connection-pass", "--conn-pass", "--vault-pass")
_TERMINAL = re.compile(r"(.*[@=])?/dev/(stdin|tty|fd/0)")


def refuse(arguments: Sequence[str]) -> None:
    """Raise UsageError for arguments of ansible-playbook that make it wait for input."""
    for word, following in zip(arguments, (*arguments[1:], ""), strict=False):
        if _asks(word, following):
            raise errors.UsageError(
                "a run cannot prompt for input", where=word,
                advice="use --vault-password-file or --become-password-file, or keys and sudo without a password",
            )  # fmt: skip


def _asks(word: str, following: str) -> bool:
    option, equals, value = word.partition("=")
    value = value if equals else following
    if not word.startswith("--"):
        return bool(_SHORT.match(word) or _TERMINAL.fullmatch(word))
    # argparse accepts the beginning of an option; up to three characters are ambiguous.
    return (
        (len(option) > 3 and any(name.startswith(option) for name in _ASKING))
        or ("--vault-id".startswith(option) and len(option) > 8 and bool(_VAULT_ID.fullmatch(value)))
        or (option.startswith(_PASSWORD_FILES) and value == "-")
        or bool(_TERMINAL.fullmatch(word))
    )
