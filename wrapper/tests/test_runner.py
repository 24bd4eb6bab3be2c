"""The runner with real ansible runs of small playbooks."""

from __future__ import annotations

import configparser
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.core import paths
from support.plays import comparing
from support.sleepers import sleepers
from support.waits import until

from devenv import errors
from devenv.runs import extra_vars, runner, settings, supervision
from devenv.runs.outcome import RunOutcome
from devenv.runs.progress import Tracker, Update

Write = Callable[[str], str]


class Recorder:
    def __init__(self) -> None:
        self.tracker = Tracker()
        self.updates: list[Update] = []
        self.names: list[str] = []

    def event(self, event: Mapping[str, Any]) -> None:
        self.names.append(str(event["event"]))
        self.updates += self.tracker.feed(event)

    def tick(self) -> None:
        return

    def end(self) -> None:
        self.names.append("end")


def go(
    playbook: str, inventory: Path, variables: Mapping[str, Any] | None = None, **options: Any
) -> tuple[RunOutcome, Recorder]:
    recorder = Recorder()
    outcome = runner.run(playbook, variables or {}, runner.Options(watcher=recorder, **options), inventory)
    return outcome, recorder


def test_stages_are_in_order_and_changes_are_counted(playbook: Write, inventory: Path) -> None:
    text = """
    - name: one | First
      hosts: localhost
      tasks:
        - name: Change something
          ansible.builtin.command: "true"
    - name: one | Still the first
      hosts: localhost
      tasks:
        - name: Change more
          ansible.builtin.command: "true"
    - name: two | Second
      hosts: localhost
      tasks:
        - name: Check
          ansible.builtin.command: "true"
          changed_when: false
    """
    outcome, recorder = go(playbook(text), inventory)
    assert outcome.ok
    assert outcome.changed == 2
    shown = [
        (update.kind, update.stage, update.changed, update.ok)
        for update in recorder.updates
        if update.kind in ("begin", "end")
    ]
    assert shown == [
        ("begin", "one", 0, True),
        ("end", "one", 2, True),
        ("begin", "two", 0, True),
        ("end", "two", 0, True),
    ]
    assert [update.text for update in recorder.updates if update.kind == "task"] == [
        "Change something",
        "Change more",
        "Check",
    ]
    assert next(name for name in recorder.names if name.startswith("playbook_on")) == "playbook_on_start"
    assert recorder.names[-2:] == ["playbook_on_stats", "end"]


def test_a_failed_task_is_reported_with_location_and_reason(playbook: Write, inventory: Path) -> None:
    text = """
    - name: provision | Fail
      hosts: localhost
      tasks:
        - name: Rescued
          block:
            - name: Fail and be rescued
              ansible.builtin.command: "false"
          rescue:
            - name: Continue
              ansible.builtin.debug: {msg: on}
        - name: Ignored
          ansible.builtin.command: "false"
          ignore_errors: true
        - name: Fail without rescue
          ansible.builtin.fail: {msg: "no luck"}
    """
    path = playbook(text)
    outcome, recorder = go(path, inventory)
    assert (outcome.code, outcome.ok) == (2, False)
    assert outcome.failure is not None
    assert outcome.failure["message"] == "no luck"
    assert outcome.failure["task"] == "Fail without rescue"
    assert outcome.failure["host"] == "localhost"
    assert outcome.failure["file"].startswith(f"{path}:")
    assert (outcome.failure["stage"], outcome.failure["exit"]) == ("provision", 3)
    assert recorder.updates[-1].kind == "end"
    assert not recorder.updates[-1].ok


def test_an_unreachable_host_is_a_failure(playbook: Write, inventory: Path) -> None:
    outcome, _ = go(
        playbook("[{name: prepare | Reach, hosts: nowhere, gather_facts: false, tasks: [{ansible.builtin.ping: }]}]"),
        inventory,
    )
    assert not outcome.ok
    assert outcome.failure is not None
    assert outcome.failure["message"].startswith("unreachable: ")
    assert (outcome.failure["host"], outcome.failure["exit"]) == ("nowhere", 4)


def test_an_argument_error_of_ansible_is_reported(playbook: Write, inventory: Path) -> None:
    outcome, _ = go(
        playbook("[{name: x | y, hosts: localhost, tasks: []}]"), inventory, arguments=["--no-such-argument"]
    )
    assert not outcome.ok
    assert outcome.failure is not None
    assert "no-such-argument" in outcome.failure["message"]


def test_warnings_become_updates(playbook: Write, inventory: Path) -> None:
    text = """
    - name: bundle | Warn
      hosts: localhost
      tasks:
        - name: Warn
          ansible.builtin.debug: {msg: "{{ lookup('ansible.builtin.file', '/nowhere', errors='warn') }}"}
    """
    _, recorder = go(playbook(text), inventory)
    assert any(update.kind == "warning" and "/nowhere" in update.text for update in recorder.updates)


def test_no_variable_of_the_environment_is_written_to_disk(
    playbook: Write, inventory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """During the run, a search of its private directory for the value of a variable finds only the planted file."""
    monkeypatch.setenv("SOME_SECRET", "canary-in-the-environment")
    text = """
    - name: one | Search
      hosts: localhost
      vars:
        folder: "{{ lookup('env', 'AWX_ISOLATED_DATA_DIR') | dirname | dirname }}"
      tasks:
        - name: Plant
          ansible.builtin.copy:
            dest: "{{ folder }}/planted"
            content: "{{ lookup('env', 'SOME_SECRET') }}"
            mode: "0600"
          no_log: true
        - name: Search
          ansible.builtin.command: "grep -rl --devices=skip canary-in-the-env {{ folder }}"
          register: matches
        - name: Compare with the planted file
          ansible.builtin.assert:
            that: matches.stdout_lines == [folder + '/planted']
            fail_msg: "{{ matches.stdout }}"
        - name: Check the mode
          ansible.builtin.command: "stat -c %a {{ folder }}"
          register: mode
          failed_when: mode.stdout != '700'
    """
    outcome, _ = go(playbook(text), inventory)
    assert outcome.failure is None
    assert outcome.ok


def test_a_run_gets_the_settings_of_the_collection(tmp_path: Path) -> None:
    variables = settings.environment("abc", {"PATH": "/usr/bin", "ANSIBLE_CONFIG": "/x", "OTHER": "kept"}, tmp_path)
    assert variables["DEVENV_RUN"] == "abc"
    assert variables["DEVENV_OWNER"].startswith(f"{os.getpid()}:")
    assert variables["OTHER"] == "kept"
    assert variables["ANSIBLE_CONFIG"] == str(paths.COLLECTION / "ansible.cfg")
    assert variables["PATH"].split(":")[:2] == [str(Path(sys.executable).parent), "/usr/bin"]


def test_the_settings_equal_ansible_cfg() -> None:
    config = configparser.ConfigParser()
    config.read(paths.COLLECTION / "ansible.cfg")
    # Paths of the checkout, which have variables of their own, and pipelining, which is set for all connections.
    excluded = {
        ("defaults", "inventory"),
        ("defaults", "collections_path"),
        ("defaults", "pipelining"),
        ("ssh_connection", "pipelining"),
    }
    written = {(section, key): value for section in config.sections() for key, value in config[section].items()}
    assert {place: value for place, (_, value) in settings.SETTINGS.items()} == {
        k: v for k, v in written.items() if k not in excluded
    }


@pytest.mark.parametrize(
    ("place", "variable"), [(place, variable) for place, (variable, _) in settings.SETTINGS.items()]
)
def test_ansible_supports_the_variable_of_every_setting(place: tuple[str, str], variable: str) -> None:
    from ansible.config.manager import ConfigManager
    from ansible.plugins.loader import connection_loader

    connection_loader.get("ansible.builtin.ssh", class_only=True)
    manager = ConfigManager()
    entries = list(manager._base_defs.values())
    if place == ("ssh_connection", "ssh_args"):
        import yaml
        from ansible.plugins.connection import ssh

        entries += list(yaml.safe_load(ssh.DOCUMENTATION)["options"].values())
    inis = [
        {(ini["section"], ini["key"]) for ini in entry.get("ini") or []}
        for entry in entries
        if any(env["name"] == variable for env in entry.get("env") or [])
    ]
    assert any(place in sections for sections in inis), f"{variable} is not the variable of {place}"


def test_an_installed_package_uses_an_empty_ansible_cfg(tmp_path: Path) -> None:
    collection = tmp_path / "ansible_collections" / "devenv" / "lab"
    collection.mkdir(parents=True)
    variables = settings.settings(tmp_path, collection)
    assert variables == {"ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(tmp_path)}
    assert (tmp_path / "ansible.cfg").read_text() == ""


def test_a_run_without_ansible_cfg_gets_the_settings(
    playbook: Write, inventory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an installed package, the settings come from the environment and from no other file."""
    original = settings.settings
    links = tmp_path / "ansible_collections" / "devenv" / "lab"
    links.parent.mkdir(parents=True)
    (tmp_path / "home.cfg").write_text("[defaults]\nforks = 77\n")
    links.mkdir()
    for part in ("plugins", "meta"):
        (links / part).symlink_to(paths.COLLECTION / part)
    monkeypatch.setenv("ANSIBLE_CONFIG", str(tmp_path / "home.cfg"))
    monkeypatch.setattr(settings, "settings", lambda folder: original(folder, links))
    text = comparing(
        "lookup('ansible.builtin.config', 'DEFAULT_FORKS') == 16",
        "lookup('ansible.builtin.config', 'HOST_KEY_CHECKING') is true",
        "lookup('ansible.builtin.config', 'CALLBACKS_ENABLED') == ['devenv.lab.record']",
    )
    outcome, _ = go(playbook(text), inventory)
    assert outcome.failure is None
    assert outcome.ok


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a=1", {"a": "1"}),
        ("a=1 b='x y'", {"a": "1", "b": "x y"}),
        ("a=", {"a": ""}),
        ("a=b=c", {"a": "b=c"}),
        ('{"a": [1, 2]}', {"a": [1, 2]}),
        ("{a: {b: true}}", {"a": {"b": True}}),
    ],
)
def test_extra_vars_are_parsed(value: str, expected: dict[str, Any]) -> None:
    assert extra_vars.parse(value) == expected


@pytest.mark.parametrize(
    "value", ["", "word", "a=1 word", "[1, 2]", "{a: ", "@/no/such/file", "a b=1", "'open", "1a=2", "{1: 2}"]
)
def test_invalid_extra_vars_are_refused(value: str) -> None:
    with pytest.raises(errors.UsageError) as caught:
        extra_vars.parse(value)
    assert "-e" in caught.value.where


def test_extra_vars_keep_their_order_and_variables_override_them(
    playbook: Write, inventory: Path, tmp_path: Path
) -> None:
    given = tmp_path / "given.yml"
    given.write_text("a: file\nb: file\nc: file\n")
    text = """
    - name: one | Check
      hosts: localhost
      tasks:
        - name: Compare
          ansible.builtin.assert: {that: "[a, b, c] == ['last', 'file', 'variable']", fail_msg: "{{ [a, b, c] }}"}
    """
    outcome, _ = go(
        playbook(text),
        inventory,
        extra=[{"a": "first", "b": "first"}, given, {"a": "last"}],
        variables={"c": "variable"},
    )
    assert outcome.failure is None


# Interrupting needs a separate process; otherwise the signal would reach the whole test run.

SLEEPS = """
- name: provision | Wait
  hosts: localhost
  tasks:
    - name: Sleep in a module
      ansible.builtin.command: sleep {marker}
"""

DRIVER = """
import sys
from pathlib import Path
from devenv.runs import runner
print("started", flush=True)
outcome = runner.run(sys.argv[1], {}, inventory=Path(sys.argv[2]))
print(outcome.signal, outcome.timed_out, outcome.ok, flush=True)
"""


def _drive(playbook: Write, inventory: Path, marker: str, *more: str, ignore: bool = False) -> subprocess.Popen[str]:
    path = playbook(SLEEPS.format(marker=marker))
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(DRIVER), path, str(inventory), *more], stdout=subprocess.PIPE, text=True
    )
    until(lambda: sleepers(marker))
    return child


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_process(
    number: signal.Signals, playbook: Write, inventory: Path, marker: str
) -> None:
    child = _drive(playbook, inventory, marker)
    began = time.monotonic()
    child.send_signal(number)
    out, _ = child.communicate(timeout=30)
    assert out.splitlines()[-1] == f"{int(number)} False False"
    assert time.monotonic() - began < 15
    assert sleepers(marker) == []


def test_a_second_interrupt_kills(playbook: Write, inventory: Path, marker: str) -> None:
    child = _drive(playbook, inventory, marker)
    child.send_signal(signal.SIGINT)
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=30)
    assert out.splitlines()[-1] == "2 False False"
    assert sleepers(marker) == []


def test_a_timeout_stops_all_processes(
    playbook: Write, inventory: Path, marker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "GRACE", 0.0)
    path = playbook(SLEEPS.format(marker=marker))
    outcome, _ = go(path, inventory, timeout=4.0)
    assert outcome.timed_out
    assert not outcome.ok
    assert sleepers(marker) == []


def test_a_failed_run_has_time_to_gather_after_its_last_task(
    playbook: Write, made: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made("aio")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh").write_text("#!/bin/sh\nexit 255\n")
    (tmp_path / "bin" / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    text = """
    - name: provision | Fail
      hosts: localhost
      gather_facts: false
      tasks:
        - name: Begin the stage
          devenv.lab.stage:
            name: provision
        - name: Fail
          ansible.builtin.fail:
    """
    outcome, recorder = go(playbook(text), folder / "inventory.yml")
    assert (outcome.ok, outcome.signal) == (False, 0)
    assert len(list(folder.glob("runs/*/gather.tar.gz"))) == 1
    # The runner learns that the tasks are over before gathering starts, and waits for it.
    assert "verbose" in recorder.names[recorder.names.index("playbook_on_stats") :]
    control = supervision.Control(time.monotonic() - 1)
    control.tasks_are_over()
    control.tick()
    assert not control.timed_out


def test_a_failing_watcher_stops_the_run(playbook: Write, inventory: Path, marker: str) -> None:
    class Gone(Recorder):
        def tick(self) -> None:
            if sleepers(marker):
                raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        runner.run(playbook(SLEEPS.format(marker=marker)), {}, runner.Options(watcher=Gone()), inventory)
    assert sleepers(marker) == []


def test_the_callers_signal_handlers_are_restored(playbook: Write, inventory: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    go(playbook("[{name: x | y, hosts: localhost, tasks: []}]"), inventory)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_private_directories_of_killed_commands_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead = tmp_path / "devenv-run-999999-1-abc"
    living = tmp_path / f"devenv-run-{settings.identity().replace(':', '-')}-abc"
    dead.mkdir()
    living.mkdir()
    runner._sweep()
    assert not dead.exists()
    assert living.exists()


FIRST_RUNS = """
    import importlib.metadata, sys, threading, time
    from pathlib import Path
    from devenv.runs import runner

    entry_points = importlib.metadata.entry_points

    def slow(**given):
        if given.get("group") == "ansible_runner.plugins":
            begun.set()
            second.wait(30)
            time.sleep(0.5)
        return entry_points(**given)

    begun, second = threading.Event(), threading.Event()
    importlib.metadata.entry_points = slow

    def run():
        print(runner.run(sys.argv[1], {}, runner.Options(), Path(sys.argv[2])).ok)

    def late():
        begun.wait(30)
        second.set()
        run()

    threads = [threading.Thread(target=target) for target in (run, late)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
"""


def test_the_first_two_runs_of_a_process_can_start_at_once(playbook: Write, inventory: Path) -> None:
    path = playbook("[{name: x | y, hosts: localhost, tasks: []}]")
    script = [sys.executable, "-c", textwrap.dedent(FIRST_RUNS), path, str(inventory)]
    done = subprocess.run(script, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout == "True\nTrue\n", done.stderr
