"""Runs that options reduce to nothing or to a part: refused, or ended with what was done; never with success.

Without machines: every run stops before it creates a node.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.commands import ROOT, Typed, finish, start_ansible

LISTED = "addons, bundle, kubernetes, labels, preflight, prepare, provision, validate"
REFUSED = [
    ("cluster", ["--tags", "nosuch"], f"--tags nosuch matches no task of the playbook; its tags are: {LISTED}"),
    ("cluster", ["--tags", "labels,nosuch"], "--tags nosuch matches no task"),
    ("cluster", ["--skip-tags", "nosuch"], "--skip-tags nosuch matches no task"),
    ("cluster", ["--skip-tags", "all"], "the tags select no task"),
    ("cluster", ["--tags", "never"], "the tags select no task"),
    ("cluster", ["--limit", "worker-0"], "--limit worker-0 excludes localhost"),
    ("cluster", ["--limit", "localhost,master-0,worker-9"], "--limit worker-9 matches no host"),
    ("cluster", ["--limit", "localhost:!worker-0"], "--limit leaves us with no hosts"),
    (
        "cluster",
        ["--limit", "localhost,master-0,worker-0"],
        "the limit excludes master-1, master-2, worker-1, but the stage",
    ),
    ("cluster", ["--tags", "prepare,kubernetes", "--limit", "localhost,master-0"], "the limit excludes master-1"),
    ("cluster", ["--start-at-task", "nonsense"], "the playbook has no task of this name"),
    ("cluster", ["--start-at-task", "Create the nodes"], "would skip the task that takes the lock"),
    ("stop", ["--limit", "worker-0"], "excludes localhost"),
    ("stop", ["--tags", "provision"], "--tags provision matches no task of the playbook; it has no tags"),
    ("start", ["--tags", "nosuch"], "its tags are: validate"),
    ("validate", ["--limit", "worker-0"], "excludes localhost"),
    ("upgrade", ["--tags", "nosuch"], "its tags are: bundle, validate"),
    ("node_add", ["--limit", "worker-0"], "excludes localhost"),
    ("node_remove", ["--tags", "nosuch"], "matches no task"),
    ("image_load", ["--limit", "worker-0"], "excludes localhost"),
    ("gather", ["--limit", "worker-0"], "excludes localhost"),
]


def plain(home: Path, playbook: str, *words: str, code: int, **variables: str) -> str:
    words = (str(ROOT / "playbooks" / f"{playbook}.yml"), "-e", "profile=ha", *words)
    return finish(start_ansible(*words, home=home, cwd=ROOT, variables=variables), 120, code).stdout


@pytest.mark.parametrize(("playbook", "words", "message"), REFUSED)
def test_ansible_refuses_options_that_select_nothing(
    tmp_path: Path, playbook: str, words: list[str], message: str
) -> None:
    # Ansible itself exits with 1 if no host remains.
    text = plain(tmp_path, playbook, *words, code=1 if "leaves us" in message else 2)
    assert message in text
    assert "PLAY [" not in text
    assert not list(tmp_path.iterdir())


def test_ansible_refuses_tags_of_the_environment(tmp_path: Path) -> None:
    assert "--tags nosuch matches no task" in plain(tmp_path, "cluster", code=2, ANSIBLE_RUN_TAGS="nosuch")
    assert not list(tmp_path.iterdir())


def test_other_stages_accept_a_limit(tmp_path: Path) -> None:
    text = plain(tmp_path, "cluster", "--tags", "preflight", "--limit", "localhost,master-0", code=0)
    assert "ha: done to preflight" in text


def test_a_partial_run_of_ansible_ends_with_what_was_done(tmp_path: Path) -> None:
    text = plain(tmp_path, "cluster", "--tags", "preflight", code=0)
    assert "is up" not in text
    assert "ha: done to preflight; not done: bundle, provision, prepare, kubernetes, labels, addons, validate" in text
    assert "Fetch the bundle" not in text
    folder = tmp_path / "environments" / "ha"
    ledger = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["result"]) for line in ledger] == [("preflight", "begun"), ("preflight", "done")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--limit", "nosuch"], "--limit matches no host of the inventory"),
        (["--tags", "nosuch"], "--tags nosuch matches no task"),
        (["--", "--tags=nosuch"], "--tags nosuch matches no task"),
        (["--", "--start-at-task", "x"], "the playbook has no task of this name"),
    ],
)
def test_up_refuses_options_that_select_nothing(tmp_path: Path, words: list[str], message: str) -> None:
    done = Typed(tmp_path).devenv("up", "--profile", "ha", *words, code=2)
    assert message in done.stderr
    assert "[selection_empty]" in done.stderr
    assert "is up" not in done.stderr
    assert not (tmp_path / "environments").exists()


@pytest.mark.parametrize(
    ("word", "printed"),
    [
        ("--list-tasks", "Record the state after this run"),
        ("--list-hosts", "localhost"),
        ("--syntax-check", "playbook: "),
    ],
)
def test_up_prints_what_ansible_lists_and_claims_nothing(tmp_path: Path, word: str, printed: str) -> None:
    done = Typed(tmp_path).devenv("up", "--profile", "ha", "--name", "lab", "--", word)
    assert printed in done.stdout
    assert done.stderr.splitlines()[-1] == "lab: nothing was done"
    assert not (tmp_path / "environments").exists()


def test_up_with_tags_reports_what_was_done(tmp_path: Path) -> None:
    user = Typed(tmp_path)
    done = user.devenv("up", "--profile", "aio", "--tags", "preflight")
    line = "aio: done to preflight; not done: bundle, provision, prepare, kubernetes, labels, addons, validate"
    assert done.stderr.splitlines()[-1] == line
    assert "Apply labels" not in done.stderr
    lines = user.objects("up", "--name", "aio", "--tags", "preflight")
    assert {"type": "partial", "lines": [line]} in lines
    assert [entry["stage"] for entry in lines if entry["type"] == "stage"] == ["preflight", "preflight"]
    # The same words after -- and as an option of the check.
    done = user.devenv("up", "--name", "aio", "--", "--check", "--tags", "preflight")
    assert "is up" not in done.stderr
