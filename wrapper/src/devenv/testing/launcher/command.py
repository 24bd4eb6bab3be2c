"""The command line of pytest for `devenv test run`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

# What run/local.sh and run/aws.sh of the original add.
LOCAL = ("-p", "pytest_subprocessor", "--sf=-p pytest_automation_infra", "-s")
PROVISIONED = ("-p", "pytest_grouper", "-p", "pytest_provisioner")
PROGRAMS = ("python", "python3", "pytest")
_PROVISIONER = "--provisioner"


def of(words: Sequence[str], env: Mapping[str, str], python: str) -> list[str]:
    """Return the command line for what the user typed: options and paths for pytest, to which those of the original's
    scripts are added, or a whole command that begins with one of PROGRAMS. ``python``: the interpreter.
    """
    typed = list(_with_quoted_flags(words))
    name = os.path.basename(typed[0]) if typed else ""
    if name == "pytest":
        return [python, "-m", "pytest", *typed[1:]]
    if name in PROGRAMS:
        return [python, *typed[1:]]
    requested = any(word.partition("=")[0] == _PROVISIONER for word in typed)
    provisioned = PROVISIONED if requested or env.get("HABERTEST_PROVISIONER") else ()
    return [python, "-m", "pytest", *LOCAL, *provisioned, *typed]


def _with_quoted_flags(words: Sequence[str]) -> Iterator[str]:
    r"""Yield the words, with ``--sf=\"-p a --install\"``, which the shell splits at its blanks, as one."""
    remaining = iter(words)
    for word in remaining:
        if word.startswith('--sf="'):
            while not (word.endswith('"') and len(word) > len('--sf="')):
                more = next(remaining, None)
                if more is None:
                    break
                word = f"{word} {more}"
        yield word
