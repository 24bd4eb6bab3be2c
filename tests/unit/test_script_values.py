"""Declarations of a script's variables: conversion to texts and facts, and invalid values."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.module_utils.node.redact import RedactedLines
from ansible_collections.devenv.lab.plugins.module_utils.script import values as script_values
from ansible_collections.devenv.lab.plugins.module_utils.script.values import Invalid
from hypothesis import given
from hypothesis import strategies as st


def texts(declaration: Any, **parameters: Any) -> script_values.Texts:
    return script_values.texts(
        script_values.declare({"X": declaration}), parameters.get("values", {}), parameters.get("secrets", {})
    )


@pytest.mark.parametrize(
    ("declaration", "value", "text"),
    [
        ("str", "two  words\n", "two  words\n"),
        ("str", 3, "3"),
        (None, "x", "x"),
        ({}, "x", "x"),
        ("int", "042", "42"),
        ("int", -1, "-1"),
        ("float", "1.50", "1.5"),
        ("bool", True, "true"),
        ("bool", "no", "false"),
        ({"type": "bool", "words": ["1", ""]}, "on", "1"),
        ({"type": "bool", "words": ["1", ""]}, False, ""),
        ("list", ["a", 2], "a 2"),
        ({"type": "list", "separator": ","}, ["a b", "c"], "a b,c"),
        ("list", [], ""),
        ("json", {"a": ["ü"]}, '{"a":["ü"]}'),
        ("json", '{"a": 1}', '{"a": 1}'),
        ("json", True, "true"),
        ("path", "~/x", "HOME/x"),
        ({"type": "str", "choices": ["a", "b"]}, "b", "b"),
        ({"type": "int", "choices": [1, 2]}, "2", "2"),
        ({"default": "d"}, None, "d"),
        ({"type": "bool", "default": False}, None, "false"),
        ({"type": "int", "default": 0}, None, "0"),
        ({"default": "d"}, "", ""),
        ("str", None, None),
    ],
)
def test_values_become_texts(monkeypatch: pytest.MonkeyPatch, declaration: Any, value: Any, text: str | None) -> None:
    monkeypatch.setenv("HOME", "HOME")
    assert texts(declaration, values={"X": value}).variables == {"X": text}


@pytest.mark.parametrize(
    ("declaration", "value", "words"),
    [
        ("str", True, "is a boolean"),
        ("str", ["a"], "is not a valid str"),
        ("str", "a\0b", "NUL"),
        ("int", "1.5", "is not a valid int"),
        ("int", "x", "is not a valid int"),
        ("float", "x", "is not a valid float"),
        ("bool", "perhaps", "neither true nor false"),
        ("list", "a", "is not a list"),
        ("list", ["a b"], "separated by ' '"),
        ("list", [""], "separated by"),
        ("list", [{"a": 1}], "declare the type json"),
        ("json", "{", "is not valid JSON"),
        ({"choices": ["a", "b"]}, "c", "must be one of a, b"),
        ({"required": True}, None, "no value for X"),
        ("secret", "x", "give it in secrets"),
    ],
)
def test_invalid_values_are_refused(declaration: Any, value: Any, words: str) -> None:
    with pytest.raises(Invalid, match=words) as caught:
        texts(declaration, values={"X": value})
    assert "X" in str(caught.value)


@pytest.mark.parametrize(
    ("declaration", "words"),
    [
        ("text", "unknown type 'text'"),
        ({"type": "str", "defualt": 1}, "unknown keys: defualt"),
        (["str"], "not by list"),
        ({"type": "bool", "words": [True, False]}, "quote yes and no"),
        ({"type": "bool", "words": ["1"]}, "two strings"),
        ({"type": "secret", "by": "argv"}, "file, fd, env"),
        ({"type": "str", "by": "fd"}, "only for the type secret"),
        ({"type": "secret", "default": "x"}, "cannot have a default"),
        ({"choices": "ab"}, "must be a list"),
    ],
)
def test_invalid_declarations_are_refused(declaration: Any, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        script_values.declare({"X": declaration})


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A\n", "BASH_ENV", "DEVENV_SCRIPT", 3])
@pytest.mark.parametrize("declare", [script_values.declare, script_values.exports])
def test_invalid_names_are_refused(declare: Any, name: Any) -> None:
    with pytest.raises(Invalid):
        declare({name: "str"})


def test_undeclared_values_are_all_named() -> None:
    with pytest.raises(Invalid, match="A is not declared; B is not declared; X is not declared as a secret"):
        texts("str", values={"A": 1}, secrets={"B": 1, "X": 2})


def test_secrets_are_separate_from_variables() -> None:
    result = texts({"type": "secret", "by": "fd"}, secrets={"X": {"a": 1}})
    assert (result.variables, result.secrets, result.deliveries) == ({}, {"X": '{"a":1}'}, {"X": "fd"})


def test_the_message_of_a_refused_secret_does_not_show_it() -> None:
    with pytest.raises(Invalid) as caught:
        texts("secret", secrets={"X": "hush\0hush"})
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("declaration", "text", "value"),
    [
        ("str", "a b\n", "a b\n"),
        ("int", "42", 42),
        ("float", "1.5", 1.5),
        ("bool", "yes", True),
        ("bool", "", False),
        ({"type": "bool", "words": ["on!", "off!"]}, "off!", False),
        ("list", " a  b\nc ", ["a", "b", "c"]),
        ({"type": "list", "separator": ","}, "a b,c,", ["a b", "c"]),
        ("json", '{"a": [1]}', {"a": [1]}),
        ("path", "/x", "/x"),
    ],
)
def test_exported_texts_become_facts(declaration: Any, text: str, value: Any) -> None:
    (export,) = script_values.exports({"X": declaration})
    assert script_values.read_back(export, text) == value


@pytest.mark.parametrize(("kind", "text"), [("int", "x"), ("float", ""), ("json", "{"), ("bool", "perhaps")])
def test_invalid_texts_do_not_become_facts(kind: str, text: str) -> None:
    (export,) = script_values.exports({"X": kind})
    with pytest.raises(Invalid, match=r"^exports: X: "):
        script_values.read_back(export, text)


@pytest.mark.parametrize(
    ("declaration", "words"),
    [
        ({"A": {"fact": "ansible_host"}}, "is not a valid name for a fact"),
        ({"A": {"fact": "a-b"}}, "is not a valid name for a fact"),
        ({"A": "secret"}, "cannot become a fact"),
        ({"A": {"fact": "same"}, "B": {"fact": "same"}}, "several variables"),
        ({"A": {"default": 1}}, "unknown keys"),
    ],
)
def test_invalid_exports_are_refused(declaration: Any, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        script_values.exports(declaration)


# -- output without secrets --

SECRET = """it's "Pa$$w0rd" & more"""


@pytest.mark.parametrize(
    "line",
    [
        SECRET,
        f"x{SECRET}y",
        json.dumps({"password": SECRET}),
        "+ curl 'it'\\''s \"Pa$$w0rd\" & more'",
        "aXQncyAiUGEkJHcwcmQiICYgbW9yZQ==",
        "aXQncyAiUGEkJHcwcmQiICYgbW9yZQo=",
        "?p=it%27s%20%22Pa%24%24w0rd%22%20%26%20more",
    ],
)
def test_a_secret_is_redacted_in_all_its_forms(line: str) -> None:
    (output,) = RedactedLines([SECRET]).feed(f"before {line} after\n".encode())
    assert output.startswith("before ")
    assert output.endswith(" after")
    assert "[secret redacted]" in output
    assert not [part for part in ("Pa$$", "w0rd", "UGEkJ", "%24") if part in output]


def test_each_line_of_a_secret_is_redacted() -> None:
    lines = RedactedLines(["first-line\nsecond-line\n"])
    assert lines.feed(b"a first-line\nb second-line\n") == ["a [secret redacted]", "b [secret redacted]"]


@given(st.lists(st.integers(1, 9), max_size=30))
def test_a_secret_that_arrives_in_pieces_is_redacted(sizes: list[int]) -> None:
    lines = RedactedLines(["hunter2hunter2"])
    data, output = b"say hunter2hunter2 twice\nhunter2hunter2", []
    for size in [*sizes, len(data)]:
        piece, data = data[:size], data[size:]
        output += lines.feed(piece)
    assert [*output, *lines.end()] == ["say [secret redacted] twice", "[secret redacted]"]


def test_a_private_key_of_several_lines_is_redacted() -> None:
    kind = "PRIVATE KEY"
    text = f"a\nkey: -----BEGIN RSA {kind}-----\nMIIE\nabcd==\n-----END RSA {kind}-----\nb\n"
    assert RedactedLines().feed(text.encode()) == ["a", "key: [private key redacted]", "b"]


def test_a_private_key_without_an_end_does_not_hide_the_rest() -> None:
    begin = "-----BEGIN " + "PRIVATE KEY-----"
    text = f"{begin}\nMIIE\nwords & more\nb\n"
    assert RedactedLines().feed(text.encode()) == ["[private key redacted]", "words & more", "b"]


def test_an_endless_line_is_not_kept() -> None:
    lines = RedactedLines()
    for _number in range(20):
        assert lines.feed(b"x" * (1 << 17)) == []
    assert lines.feed(b"\nnext\n") == [f"(a line of more than {1 << 20} bytes, not kept)", "next"]


def test_invalid_bytes_are_replaced() -> None:
    assert RedactedLines().feed(b"\xff\xfe a\r\n") == ["�� a"]
