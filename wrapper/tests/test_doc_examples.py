"""What README and docs/ show: every command line, option, profile and program is read by the real program."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from configparser import ConfigParser
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main
import yaml
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve

from devenv.cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELLS = ("sh", "bash", "console")
PROFILE_KEYS = json.loads((ROOT / "configs" / "schema" / "profile.json").read_text())["properties"].keys()
# Options of programs that the pages only mention.
OTHERS = {"--add-host", "--ipam-driver"}
# Pages whose blocks are parts of files; tests/integration/test_contributing.py follows them.
INSTRUCTIONS = ROOT / "docs" / "contributing"
# Words in an example that stand for a value of the reader.
PLACEHOLDERS = {"NAME": "lab", "NODE": "master-0", "...": "x", "DIR": "folder", "FILE": "file", "TIME": "30s"}


def blocks(page: Path, *languages: str) -> list[str]:
    return [text for language, text in BLOCK.findall(page.read_text()) if language in languages]


def shell_lines(page: Path) -> Iterator[str]:
    """Yield the command lines of a page, without prompts, comments and output."""
    for language, text in BLOCK.findall(page.read_text()):
        if language not in SHELLS:
            continue
        joined = text.replace("\\\n", " ")
        for line in joined.splitlines():
            if language == "console":
                if not line.startswith("$ "):
                    continue
                line = line[2:]
            yield line


def commands(line: str) -> Iterator[list[str]]:
    """Yield the single commands of a shell line as words; those in $(...), too."""
    for inner in re.findall(r"\$\(([^()]*)\)", line):
        yield from commands(inner)
    plain = re.sub(r"\$\([^()]*\)", "x", line)
    lexer = shlex.shlex(plain, posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word and set(word) <= set("|&;<>()"):
            if words:
                yield words
            words = []
        else:
            words.append(word)


def calls(page: Path, program: str) -> list[list[str]]:
    """Return the arguments of each call of ``program`` in the code blocks of a page and in its running text."""
    inline = [
        text for text in re.findall(r"`([^`\n]+)`", BLOCK.sub("", page.read_text())) if text.startswith(f"{program} ")
    ]
    return [
        arguments
        for line in [*shell_lines(page), *inline]
        for words in commands(line)
        if (arguments := after(program, words)) is not None
    ]


def after(program: str, words: list[str]) -> list[str] | None:
    """Return what follows ``program``, behind assignments, sudo and time."""
    for index, word in enumerate(words):
        if word == program or word.endswith(f"/bin/{program}"):
            return [PLACEHOLDERS.get(word, word) for word in (word.strip("[]") for word in words[index + 1 :]) if word]
        if "=" not in word and word not in ("sudo", "time", "eval", "timeout", "env", "exec"):
            return None
    return None


@cache
def command() -> Any:
    return typer.main.get_command(app.build())


def parse(arguments: list[str], command: Any, parent: Any = None) -> None:
    """Parse a command line as devenv does, without running it; raises ClickException for what it refuses."""
    with command.make_context("devenv", [*arguments], parent=parent) as context:
        if hasattr(command, "commands"):
            words = [*context._protected_args, *context.args]
            if words:
                _, child, remaining = command.resolve_command(context, words)
                assert child is not None
                parse(remaining, child, context)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_devenv_accepts_every_command_line(page: Path) -> None:
    refused = []
    for arguments in calls(page, "devenv"):
        # What follows -- belongs to another program.
        devenv_arguments = arguments[: arguments.index("--")] if "--" in arguments else arguments
        try:
            parse(devenv_arguments, command())
        except (typer.Exit, SystemExit):
            continue
        # Typer's own copy of click, whose exceptions have no public name. Running text may leave out arguments.
        except Exception as error:
            if type(error).__name__ not in ("MissingParameter", "NoArgsIsHelpError"):
                refused.append(f"devenv {shlex.join(arguments)}: {error}")
    assert refused == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_ansible_accepts_every_playbook_call(page: Path) -> None:
    from ansible.cli.playbook import PlaybookCLI

    for arguments in calls(page, "ansible-playbook"):
        cli = PlaybookCLI(["ansible-playbook", *arguments])
        cli.init_parser()
        options = cli.parser.parse_args(arguments)
        for playbook in options.args:
            if playbook.startswith("playbooks/"):
                assert (ROOT / playbook).is_file(), playbook
            elif playbook.startswith("devenv.lab."):
                assert (ROOT / "playbooks" / f"{playbook.removeprefix('devenv.lab.')}.yml").is_file(), playbook
        for words in options.extra_vars or []:
            for name in re.findall(r'(?:^|[\s{,"])(devenv_\w+|profile)(?:=|":)', words):
                assert name in known_variables(), f"nothing reads {name}"


@cache
def known_variables() -> set[str]:
    """Return the variables that playbooks, roles and plugins read."""
    files = [path for folder in ("playbooks", "roles", "plugins") for path in (ROOT / folder).rglob("*.*")]
    text = "\n".join(path.read_text() for path in files if path.suffix in (".yml", ".py"))
    return set(re.findall(r"\b(?:devenv_\w+|profile)\b", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_option_exists(page: Path) -> None:
    text = BLOCK.sub("", page.read_text())
    options = {match[1] for match in re.finditer(r"`(--[a-z][a-z-]+)", text)}
    assert options - known_options() == set()


# Plugins of devenv-lab-compat with options.
COMPAT = ("-p", "pytest_subprocessor", "-p", "pytest_automation_infra")


@cache
def known_options() -> set[str]:
    """Return the long options of devenv, of its pytest plugin and of the programs that the pages explain."""

    def of(group: Any) -> Iterator[str]:
        for parameter in group.params:
            yield from (*parameter.opts, *parameter.secondary_opts)
        if hasattr(group, "commands"):
            for child in group.commands.values():
                yield from of(child)

    options = OTHERS | {option for option in of(command()) if option.startswith("--")}
    for program in (["pytest", *COMPAT], ["ansible-playbook"], ["ansible-galaxy", "collection", "install"]):
        path = str(Path(sys.executable).with_name(program[0]))
        helped = subprocess.run([path, *program[1:], "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
        options |= set(re.findall(r"(--[a-z][a-z-]+)", helped.stdout))
    return options


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for arguments in calls(page, "make"):
        named = [word for word in arguments if "=" not in word and not word.startswith("-")]
        assert set(named) <= targets, arguments


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_can_be_read(page: Path, tmp_path: Path) -> None:
    for text in blocks(page, "yaml"):
        document = yaml.safe_load(text)
        if isinstance(document, dict) and document.keys() <= PROFILE_KEYS and page.parent != INSTRUCTIONS:
            check_profile(text, document, tmp_path)
    for text in blocks(page, "json"):
        for line in text.splitlines() if text.startswith('{"') else [text]:
            json.loads(line)
    for text in blocks(page, "toml"):
        tomllib.loads(text)
    for text in blocks(page, "ini"):
        ConfigParser().read_string(text)


def check_profile(text: str, document: dict[str, Any], folder: Path) -> None:
    """Resolve a profile; what shows some keys of one only is completed to a single node."""
    if not document.keys() & {"extends", "topology", "nodes"}:
        text = f"extends: sno\n{text}"
    path = folder / "example.yml"
    path.write_text(text)
    assert resolve(str(path))["nodes"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_program_can_be_read(page: Path) -> None:
    for text in blocks(page, "python") if page.parent != INSTRUCTIONS else []:
        # An example may end with a decorator.
        tree = ast.parse(text + "def test(): ..." if text.rstrip().splitlines()[-1].startswith("@") else text)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("devenv"):
                module = importlib.import_module(str(node.module))
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
    for line in blocks(page, "sh", "bash"):
        checked = subprocess.run(["bash", "-n"], input=line, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
