"""The user's environment does not change a run: variables, locale, shell start-up files; and no run prompts."""

from __future__ import annotations

import locale
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from support.plays import comparing
from support.runs import Runs

from devenv import errors
from devenv.runs import inherited, prompts, runner, settings
from devenv.runs.outcome import RunOutcome
from devenv.runs.supervision import Silent

Devenv = Callable[..., tuple[int, str, str]]
Made = Callable[..., Path]
Write = Callable[[str], str]

USER = {
    "LC_ALL": "POSIX",
    "LANG": "de_DE.ISO-8859-1",
    "HOME": "/proc/nowhere",
    "ANSIBLE_STRATEGY": "free",
    "ANSIBLE_FORKS": "abc",
    "ANSIBLE_HOME": "/proc/nowhere",
    "ANSIBLE_STDOUT_CALLBACK": "yaml",
    "ANSIBLE_CALLBACK_PLUGINS": "/proc/nowhere",
    "ANSIBLE_TRANSPORT": "chroot",
    "ANSIBLE_RUN_TAGS": "nothing",
    "ANSIBLE_GATHERING": "implicit",
    "ANSIBLE_BECOME_ASK_PASS": "1",
    "ANSIBLE_VAULT_PASSWORD_FILE": "/proc/nowhere",
    "PYTHONWARNINGS": "error",
    "PYTHONOPTIMIZE": "2",
    "BASH_ENV": "/proc/nowhere",
    "BASH_FUNC_ls%%": "() { exit 7; }",
}

CHECKS = """
- name: one | Check
  hosts: localhost
  tasks:
    - name: Write a file, which needs a temporary directory
      ansible.builtin.copy:
        content: "gr\u00fc\u00dfe"
        dest: "{{ target }}"
        mode: "0600"
    - name: Compare
      ansible.builtin.assert:
        that:
          - lookup('ansible.builtin.env', 'LC_ALL') == 'C.UTF-8'
          - query('ansible.builtin.env', 'LANG', 'BASH_ENV', 'PYTHONWARNINGS') | select | list == []
          - query('ansible.builtin.env', 'BASH_FUNC_ls%%', 'PYTHONOPTIMIZE') | select | list == []
          - lookup('ansible.builtin.config', 'DEFAULT_FORKS') == 16
          - lookup('ansible.builtin.config', 'DEFAULT_STRATEGY') in ('linear', 'ansible.builtin.linear')
          - lookup('ansible.builtin.config', 'DEFAULT_GATHERING') == 'explicit'
"""


class Warnings(Silent):
    """Collects the warnings of a run."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def event(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "warning":
            self.texts.append(str(event["stdout"]))


def go(
    playbook: str, inventory: Path, variables: Mapping[str, Any] | None = None, **options: Any
) -> tuple[RunOutcome, list[str]]:
    warnings = Warnings()
    outcome = runner.run(playbook, variables or {}, runner.Options(watcher=warnings, **options), inventory)
    return outcome, warnings.texts


def test_a_run_ignores_the_users_environment_and_names_each_variable_once(
    playbook: Write, inventory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in USER.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(runner, "_named", set())
    path, variables = playbook(CHECKS), {"target": str(tmp_path / "written")}
    outcome, warnings = go(path, inventory, variables)
    assert outcome.failure is None
    assert (tmp_path / "written").read_text(encoding="utf-8") == "gr\u00fc\u00dfe"
    assert len(warnings) == 1
    for name in USER:
        assert len(re.findall(rf"\b{re.escape(name)}\b", warnings[0])) == name.startswith("ANSIBLE_"), name
    assert go(path, inventory, variables)[1] == []


def test_a_requested_variable_reaches_the_run(playbook: Write, inventory: Path) -> None:
    text = comparing(
        "lookup('ansible.builtin.config', 'DEFAULT_FORKS') == 3",
        "lookup('ansible.builtin.config', 'CALLBACKS_ENABLED') == ['ansible.posix.timer', 'devenv.lab.record']",
    )
    variables = {"ANSIBLE_FORKS": "3", "ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.timer"}
    outcome, _ = go(playbook(text), inventory, ansible_env=variables)
    assert outcome.failure is None


def test_a_run_speaks_english_whatever_the_users_language(tmp_path: Path) -> None:
    # As a function only: the C library would keep the translated errors for the tests that follow in this process.
    assert "LANGUAGE" not in settings.environment("abc", {"LANGUAGE": "de"}, tmp_path)


def test_variables_that_change_nothing_are_kept_and_not_named(tmp_path: Path) -> None:
    user = {"PYTHONPATH": "/p", "HTTPS_PROXY": "http://p:1", "SSH_AUTH_SOCK": "/s", "ANSIBLE_FORKS": "16"}
    effective = settings.environment("abc", {**user, "ANSIBLE_NOCOLOR": "0", "ANSIBLE_INVENTORY": "/i"}, tmp_path)
    assert user.items() <= effective.items()
    assert inherited.ignored({**user, "ANSIBLE_NOCOLOR": "0", "ANSIBLE_INVENTORY": "/i"}, effective) == []
    assert inherited.ignored({"ANSIBLE_FORKS": "5"}, effective) == ["ANSIBLE_FORKS"]


def test_ansible_env_passes_the_callers_or_a_given_value(
    devenv: Devenv, runs: Runs, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    made("aio")
    monkeypatch.setenv("ANSIBLE_FORKS", "7")
    assert devenv("stop", "--ansible-env", "ANSIBLE_FORKS", "--ansible-env", "ANSIBLE_TIMEOUT=9")[0] == 0
    assert runs.requests[-1].options.ansible_env == {"ANSIBLE_FORKS": "7", "ANSIBLE_TIMEOUT": "9"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("ANSIBLE_NOT_SET", "ANSIBLE_NOT_SET is not set"),
        ("PATH=/x", "'PATH' is not a variable of Ansible"),
        ("ANSIBLE_STDOUT_CALLBACK=yaml", "cannot be passed"),
        ("ANSIBLE_BECOME_ASK_PASS=1", "cannot be passed"),
        ("ANSIBLE_ASK_VAULT_PASS=1", "cannot be passed"),
    ],
)
def test_ansible_env_refuses_what_it_cannot_pass(
    devenv: Devenv, runs: Runs, made: Made, value: str, message: str
) -> None:
    made("aio")
    code, _, err = devenv("stop", "--ansible-env", value)
    assert (code, message in err, runs.requests) == (2, True, [])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--ask-become-pass"], ["--ask-pass"], ["--ask-vault-password"], ["--ask-vault-pass"], ["--step"], ["-K"],
        ["-k"], ["-J"], ["-vK"], ["-bDk"], ["--ask-b"], ["--ste"], ["-e", "a=b", "--step"], ["--vault-id", "prompt"],
        ["--vault-id=lab@prompt"], ["--vault-id", "lab@prompt_ask_vault_pass"], ["--become-password-file", "-"],
        ["--become-pass-file=/dev/stdin"], ["--vault-password-file", "/dev/tty"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", [["up", "--profile", "aio"], ["stop"], ["down"]])
def test_arguments_that_prompt_are_refused(
    devenv: Devenv, runs: Runs, made: Made, command: list[str], arguments: list[str]
) -> None:
    made("aio")
    code, _, err = devenv(*command, "--", *arguments)
    assert (code, "a run cannot prompt" in err, runs.requests) == (2, True, [])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--syntax-check"], ["--skip-tags", "x"], ["-e", "a=K"], ["-vvv"], ["-bC"], ["--vault-id", "lab@/secret"],
        ["-t", "k"], ["--vault-password-file", "/secret"], ["-e", "mode=prompt"], ["-eK=1"], ["-lK"],
        ["--start-at-task", "step"],
    ],
)  # fmt: skip
def test_arguments_that_do_not_prompt_are_accepted(arguments: list[str]) -> None:
    prompts.refuse(arguments)


def test_a_machine_without_a_utf8_locale_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    existing = {"C"}

    def setlocale(category: int, name: str | None = None) -> str:
        if name not in (None, *existing):
            raise locale.Error
        return name or "C"

    monkeypatch.setattr(locale, "setlocale", setlocale)
    with pytest.raises(errors.PreflightFailed, match="no UTF-8 locale"):
        inherited.utf8_locale.__wrapped__("de_DE.UTF-8")
    existing.add("de_DE.UTF-8")
    assert inherited.utf8_locale.__wrapped__("de_DE.UTF-8") == "de_DE.UTF-8"


@pytest.mark.parametrize("name", ["C", "POSIX", "xx_XX.UTF-8", "en_US.ISO-8859-1", "C.UTF-8"])
def test_every_locale_reads_and_writes_utf8(name: str, tmp_path: Path) -> None:
    """The two in the middle: one that is not installed, and one with another encoding."""
    profile = tmp_path / "gr\u00fc\u00dfe.yml"
    profile.write_text("extends: aio\nJ\u00f6rg: 1\n", encoding="utf-8")
    locales = tmp_path / "locales"
    locales.mkdir()
    made = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(locales / "en_US.ISO-8859-1")]
    if subprocess.run(made, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs Debian's package locales")
    env = {**os.environ, "LC_ALL": name, "LOCPATH": str(locales)}
    env.pop("PYTHONUTF8", None)
    command = [sys.executable, "-m", "devenv", "profile", "validate", str(profile)]
    done = subprocess.run(command, env=env, capture_output=True, check=False)
    assert ("gr\u00fc\u00dfe.yml".encode() in done.stderr, "J\u00f6rg".encode() in done.stderr) == (True, True), (
        done.stderr
    )
    assert done.returncode == 2
