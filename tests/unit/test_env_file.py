"""Env files are read back by what really reads them."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from typing import Any

import dotenv
import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.devenv.lab.plugins.filter.env_file import FilterModule as EnvFile
from ansible_collections.devenv.lab.plugins.filter.profile_env import FilterModule as ProfileEnv
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import env_file
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from hypothesis import example, given, settings
from hypothesis import strategies as st

# What every reader of dotenv files agrees on.
EASY = {
    "PLAIN": "ha-ipv4-static",
    "EMPTY": "",
    "WORDS": "two  words ",
    "SINGLE": "it's",
    "DOUBLE": 'say "yes"',
    "LINES": "first\nsecond\n\nlast\n",
    "APOSTROPHES": "it's\nhers",
    "DOLLAR": "a $HOME b",
    "HASH": "a # b",
    "EQUALS": "a=b=c",
    "BACKTICK": "`id`",
    "ONE_BACKSLASH": r"C:\temp",
    "JSON": '{"a": [1, "b c"]}',
    "UMLAUT": "für 日本",
    "SPACE": " ",
    "TILDE": "~/x",
}
# What only a shell and python-dotenv are promised.
HARD = {
    **EASY,
    "QUOTES": """it's "all"\nof $X `them` \\ """,
    "BRACE": "${HOME}",
    "BRACES": """a' ${HOME:-x} "${B}" """,
    "BACKSLASHES": r"\\server\share" + "\\\\",
    "LAST": "a\\",
    "RETURN": "a\r\nb'\r",
    "ESCAPES": r"""\n'\t"\'""",
    "TAB": "a\tb",
}
VALUES = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=30)
NASTY = st.text(st.sampled_from(list("ab'\"\\$`{}()\n\r #=:-!&*|<>%@~")), max_size=12)


def by_shell(text: str, names: list[str], program: str) -> dict[str, str]:
    script = f'{text}\nfor name in {" ".join(names)}; do eval "printf \'%s\\\\0\' \\"\\${{$name}}\\""; done'
    done = subprocess.run([program], input=script.encode(), capture_output=True, check=True, env={"HOME": "/h"})
    assert done.stderr == b""
    return dict(zip(names, done.stdout.decode().split("\0")[:-1], strict=True))


def by_dotenv(text: str) -> dict[str, str | None]:
    return dict(dotenv.dotenv_values(stream=io.StringIO(text, newline="")))


def by_github(text: str) -> dict[str, str]:
    """As GitHub documents the file: NAME=VALUE, or NAME<<END, lines, END."""
    variables, lines = {}, iter(text.split("\n"))
    for line in lines:
        if not line:
            continue
        equals, begin = line.find("="), line.find("<<")
        if equals >= 0 and (begin < 0 or equals < begin):
            variables[line[:equals]] = line[equals + 1 :]
            continue
        name, end = line[:begin], line[begin + 2 :]
        value = []
        for inner in lines:
            if inner == end:
                break
            value.append(inner)
        variables[name] = "\n".join(value)
    return variables


def by_kubelet(value: str) -> str:
    """$(NAME) of a variable that exists, $$ as one dollar (Kubernetes API, EnvVar.value)."""
    return re.sub(r"\$(\$|\(HOME\))", lambda match: "$" if match[1] == "$" else "/h", value)


@pytest.mark.parametrize("program", ["sh", "bash"])
def test_a_shell_reads_it_back(program: str) -> None:
    assert by_shell(env_file.render(HARD, "shell"), list(HARD), program) == HARD


def test_a_child_of_the_shell_has_the_variables() -> None:
    text = env_file.render({"A": "x\ny"}, "shell") + "env -0"
    assert b"A=x\ny\0" in subprocess.run(["sh", "-c", text], capture_output=True, check=True).stdout


@pytest.mark.parametrize("program", ["sh", "bash"])
def test_a_shell_reads_a_dotenv_file_of_what_all_agree_on(program: str) -> None:
    assert by_shell(env_file.render(EASY, "dotenv"), list(EASY), program) == EASY


def test_python_dotenv_reads_it_back() -> None:
    assert by_dotenv(env_file.render(HARD, "dotenv")) == HARD


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_node_reads_a_dotenv_file_of_what_all_agree_on() -> None:
    program = (
        "const {parseEnv} = require('util'); const fs = require('fs');"
        "console.log(JSON.stringify(parseEnv(fs.readFileSync(0, 'utf8'))))"
    )
    done = subprocess.run(
        ["node", "-e", program], input=env_file.render(EASY, "dotenv").encode(), capture_output=True, check=True
    )
    assert json.loads(done.stdout) == EASY


@given(st.one_of(VALUES, NASTY))
@example("${:-$}{")
@example("$${A}")
@example("\\${A}")
def test_python_dotenv_reads_any_value_back(value: str) -> None:
    assert by_dotenv(env_file.render({"A": value, "B": "b"}, "dotenv")) == {"A": value, "B": "b"}


@settings(max_examples=40)
@given(st.lists(st.one_of(VALUES, NASTY), max_size=5))
def test_a_shell_reads_any_values_back(values: list[str]) -> None:
    variables = {f"V{number}": value for number, value in enumerate(values)}
    assert by_shell(env_file.render(variables, "shell"), list(variables), "sh") == variables


@given(st.one_of(VALUES, NASTY))
def test_github_reads_any_value_back(value: str) -> None:
    assert by_github(env_file.render({"A": value, "B": "b"}, "github")) == {"A": value, "B": "b"}


def test_difficult_values_survive_the_format_of_github() -> None:
    assert by_github(env_file.render(HARD, "github")) == HARD


@pytest.mark.parametrize("name", ["GITHUB_TOKEN", "RUNNER_OS", "NODE_OPTIONS"])
def test_variables_reserved_by_github_are_rejected(name: str) -> None:
    with pytest.raises(DevenvError, match=name):
        env_file.render({name: "x"}, "github")
    assert env_file.render({name: "x"}, "shell") == f"export {name}=x\n"


@given(st.one_of(VALUES.filter(lambda text: text.isprintable()), NASTY))
@example("$(HOME)")
@example("$$(HOME)")
@example("$$$HOME")
@example("yes")
@example("0x10")
def test_a_ci_job_reads_any_value_back(value: str) -> None:
    read = yaml.safe_load(env_file.render({"A": value, "B": "b"}, "prow"))
    assert {name: by_kubelet(text) for name, text in read["env"].items()} == {"A": value, "B": "b"}


def test_a_ci_job_without_variables() -> None:
    assert yaml.safe_load(env_file.render({}, "prow")) == {"env": {}}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (False, "false"),
        (None, ""),
        (3, "3"),
        (1.5, "1.5"),
        (["a", "b c"], '["a","b c"]'),
        ({"a": True, "ü": None}, '{"a":true,"ü":null}'),
    ],
)
def test_other_values_become_text(value: Any, text: str) -> None:
    assert env_file.checked({"A": value}) == {"A": text}


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "A=B", "A\n", "Ä", 3, None])
@pytest.mark.parametrize("form", env_file.FORMATS)
def test_invalid_names_are_rejected(name: Any, form: str) -> None:
    with pytest.raises(DevenvError) as caught:
        env_file.render({name: "x"}, form)
    assert caught.value.reason.id == "env_file_invalid"


def test_a_nul_character_is_refused_by_name() -> None:
    with pytest.raises(DevenvError, match=r"^BAD: "):
        env_file.render({"GOOD": "a", "BAD": "a\0b"}, "shell")


def test_an_unknown_format_is_rejected_with_the_known_ones() -> None:
    with pytest.raises(DevenvError, match="shell, dotenv, github, prow"):
        env_file.render({"A": "b"}, "csh")


def test_a_profile_gives_variables_of_nodes_and_subnets() -> None:
    variables = env_file.of_profile(resolve("master-2pipe-dualstack-static"))
    assert variables["DEVENV_FAMILIES"] == "ipv4 ipv6"
    assert variables["DEVENV_NODES"] == "master-0 worker-0 worker-1"
    assert (variables["DEVENV_CONTROL_PLANE"], variables["DEVENV_WORKERS"]) == ("master-0", "worker-0 worker-1")
    assert len(variables["DEVENV_POD_SUBNETS"].split()) == len(variables["DEVENV_SERVICE_SUBNETS"].split()) == 2
    assert json.loads(variables["DEVENV_NODE_LABELS"])["worker-0"] == {"pipe": "true"}


def test_the_filters_match_the_functions() -> None:
    render, of_profile = EnvFile().filters()["env_file"], ProfileEnv().filters()["profile_env"]
    assert render({"A": "b c"}) == "export A='b c'\n"
    assert render({"A": "b c"}, "github") == "A=b c\n"
    assert of_profile("aio")["DEVENV_NODES"] == "master-0"
    assert of_profile("aio", {"kubernetes.version": "1.35.4"})["DEVENV_KUBERNETES_VERSION"] == "1.35.4"
    assert of_profile(resolve("aio")) == of_profile("aio")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: EnvFile().filters()["env_file"](["a"]), "mapping"),
        (lambda: EnvFile().filters()["env_file"]({"A-B": "c"}), "env_file_invalid"),
        (lambda: ProfileEnv().filters()["profile_env"]("nothing-like-it"), "profile"),
        (lambda: ProfileEnv().filters()["profile_env"]({"profile": "x"}), "not a resolved profile"),
    ],
)
def test_filters_report_errors(call: Any, words: str) -> None:
    with pytest.raises(AnsibleFilterError, match=words):
        call()
