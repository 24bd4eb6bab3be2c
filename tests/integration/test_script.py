"""The role script in real ansible-playbook runs on this machine: secrets, interruption, check mode, docs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.devenv.lab.plugins.module_utils.node import processes
from support.commands import start_ansible

CHECKOUT = Path(__file__).parents[2]
# In two parts, so that this file does not contain them as a whole.
SECRETS = {delivery: f"hidden-{delivery}-" + "8d1f0c2a" for delivery in ("file", "fd", "env")}


@dataclass
class Lab:
    """A folder for playbooks, and their runs."""

    path: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, tasks: Any, *more: str, vars: dict[str, Any] | None = None) -> subprocess.Popen[str]:
        play = {
            "hosts": "localhost",
            "gather_facts": False,
            "vars": {
                "ansible_connection": "local",
                "ansible_python_interpreter": sys.executable,
                "script_state": str(self.path / "state"),
                "script_grace": 0.5,
                **(vars or {}),
            },
            "tasks": tasks,
        }
        playbook = self.path / f"playbook{len(self.started)}.yml"
        playbook.write_text(yaml.safe_dump([play], sort_keys=False))
        child = start_ansible("-i", "localhost,", str(playbook), *more, home=self.path / "home", cwd=self.path)
        self.started.append(child)
        return child

    def run(self, tasks: Any, *more: str, code: int = 0, vars: dict[str, Any] | None = None) -> str:
        child = self.start(tasks, *more, vars=vars)
        out = child.communicate(timeout=120)[0]
        assert child.returncode == code, out[-6000:]
        return out

    def script(self, text: str, name: str = "install.sh") -> str:
        path = self.path / name
        path.write_text(text)
        path.chmod(0o755)
        return str(path)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    created = Lab(tmp_path)
    yield created
    for child in created.started:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def role(**given: Any) -> dict[str, Any]:
    return {
        "name": "Run it",
        "ansible.builtin.include_role": {"name": "devenv.lab.script"},
        "vars": {f"script_{name}": value for name, value in given.items()},
    }


def check(*conditions: str) -> dict[str, Any]:
    return {"name": "Check", "ansible.builtin.assert": {"that": list(conditions)}}


def recap(out: str) -> dict[str, int]:
    line = next(line for line in reversed(out.splitlines()) if line.startswith("localhost "))
    return {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", line)}


class Watch:
    """Collects the command lines of all processes that contain one of the words."""

    def __init__(self, *words: str) -> None:
        self._words = [word.encode() for word in words]
        self._over = threading.Event()
        self.rounds = 0
        self.matches: list[bytes] = []
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *ignored: Any) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = path.read_bytes()
                except OSError:
                    continue
                self.matches += [line for word in self._words if word in line]
            self.rounds += 1


READS = """#!/bin/bash
set -x
file=$(cat "$BY_FILE"); fd=$(cat "$BY_FD")
echo "file: $file"; echo "fd: $fd"; echo "env: $BY_ENV"
echo "$file" | base64
sleep 0.5
export LENGTHS="${#file} ${#fd} ${#BY_ENV}"
"""


def test_no_output_and_no_file_contains_a_secret(lab: Lab) -> None:
    given = {
        "path": lab.script(READS),
        "variables": {
            "BY_FILE": "secret",
            "BY_FD": {"type": "secret", "by": "fd"},
            "BY_ENV": {"type": "secret", "by": "env"},
            "URL": "str",
        },
        "values": {"URL": "https://user:{{ hidden_file }}@host/"},
        "secrets": {f"BY_{delivery.upper()}": f"{{{{ hidden_{delivery} }}}}" for delivery in SECRETS},
        "exports": {"LENGTHS": "list"},
        "show_pattern": "^(file|fd|env): ",
    }
    secrets = lab.path / "secrets.yml"
    secrets.write_text(yaml.safe_dump({f"hidden_{delivery}": value for delivery, value in SECRETS.items()}))
    tasks = [
        role(**given),
        {"name": "Show all", "ansible.builtin.debug": {"var": "script_result"}},
        {"name": "Show facts", "ansible.builtin.debug": {"var": "ansible_facts"}},
        check(f"lengths == {[str(len(value)) for value in SECRETS.values()]}"),
        {
            "name": "Fail",
            "block": [role(**{**given, "path": lab.script(READS + "exit 9\n", "fails.sh")})],
            "rescue": [check("script_result.rc == 9")],
        },
    ]
    with Watch(*SECRETS.values()) as watch:
        out = lab.run(tasks, "-vvvv", "--diff", "-e", f"@{secrets}")
    assert watch.rounds > 20
    assert watch.matches == []
    secrets.unlink()
    assert "progress: file: [secret redacted]" in out
    assert "progress: env: [secret redacted]" in out
    kept = out + "".join(path.read_text() for path in lab.path.rglob("*") if path.is_file())
    assert "[secret redacted]" in kept
    assert [value for value in SECRETS.values() if value in kept] == []
    assert "aGlkZGVuLWZpbGUt" not in kept


def test_a_refusal_has_a_reason_and_shows_no_secret(lab: Lab) -> None:
    wrong: list[dict[str, Any]] = [
        {"secrets": "hidden-words"},
        {"secrets": {"S": "hidden-words"}, "timeout": "soon"},
        {"secrets": {"TYPO": "hidden-words"}},
        {"secrets": {"S": "hidden-words"}, "arguments": ["--token=hidden-words"]},
    ]
    tasks = [
        {
            "name": "Try",
            "block": [role(path="/bin/true", variables={"S": "secret"}, **given)],
            "rescue": [check("true")],
        }
        for given in wrong
    ]
    out = lab.run(tasks, "-vvv")
    assert recap(out)["rescued"] == len(wrong)
    assert "argument 'script_timeout'" in out
    assert "argument 'script_secrets'" in out
    assert "TYPO is not declared" in out
    assert out.count('"devenv_reason": "script_invalid"') == 2
    # Except for the numbered lines of the playbook, which Ansible shows for a failed task.
    leaks = [line for line in out.splitlines() if "hidden-words" in line and not re.match(r"\d+ ", line)]
    assert leaks == []


def test_a_script_on_the_controller_can_be_in_a_vault(lab: Lab) -> None:
    (lab.path / "files").mkdir()
    (lab.path / "files" / "mine.sh").write_text('echo "${0##*/} $1"\n')
    password = lab.path / "vault-password"
    password.write_text("vault-words\n")
    vault = Path(sys.executable).with_name("ansible-vault")
    encrypt = [vault, "encrypt", "--vault-password-file", password, lab.path / "files" / "mine.sh"]
    subprocess.run(encrypt, check=True, capture_output=True)
    tasks = [
        role(src="mine.sh", arguments=["x"]),
        check("script_result.output == ['mine.sh x']", "'/mine.sh/' in script_result.log"),
        role(src="nowhere.sh"),
    ]
    out = lab.run(tasks, "--vault-password-file", str(password), code=2)
    assert "src: " in out
    assert "nowhere.sh" in out.split("src: ", 1)[1]


def test_a_second_run_and_check_mode_change_nothing(lab: Lab) -> None:
    given = {
        "path": lab.script("touch made; echo made; export FOUND='a b'\n"),
        "exports": {"FOUND": {"type": "list", "fact": "found_words"}},
        "variables": {"SIZE": {"type": "int", "default": 1}},
        "rerun": "changed",
    }
    expected = {**check("found_words == ['a', 'b']"), "when": "not ansible_check_mode or found_words is defined"}
    out = lab.run([role(**given), expected], "--check", "--diff")
    assert recap(out)["changed"] == 1
    assert not (lab.path / "made").exists()
    assert not (lab.path / "state").exists()
    assert recap(lab.run([role(**given), expected]))["changed"] == 1
    assert recap(lab.run([role(**given), expected]))["changed"] == 0
    out = lab.run([role(**given, values={"SIZE": 2}), expected], "--check", "--diff")
    assert recap(out)["changed"] == 1
    assert '-variable SIZE: "1"' in out
    assert '+variable SIZE: "2"' in out


STUBBORN = """#!/bin/bash
trap '' TERM INT HUP
echo $$ >> PIDS
sh -c 'trap "" TERM INT HUP; echo $$ >> PIDS; for n in $(seq 900); do sleep 0.1; done' &
(setsid sh -c 'trap "" TERM INT HUP; echo $$ >> PIDS; for n in $(seq 900); do sleep 0.1; done' &)
for n in $(seq 900); do sleep 0.1; done
"""


def pids(path: Path, count: int) -> list[int]:
    deadline = time.monotonic() + 60
    while not path.exists() or len(path.read_text().split()) < count:
        assert time.monotonic() < deadline, "the script did not start"
        time.sleep(0.05)
    return [int(word) for word in path.read_text().split()]


def gone(pids: list[int], seconds: float = 15) -> bool:
    deadline = time.monotonic() + seconds
    while [pid for pid in pids if not processes.gone(pid)]:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_controller_leaves_no_script(lab: Lab, number: signal.Signals) -> None:
    given = {
        "path": lab.script(STUBBORN.replace("PIDS", str(lab.path / "pids"))),
        "variables": {"S": "secret"},
        "secrets": {"S": SECRETS["file"]},
    }
    child = lab.start([role(**given)])
    started = pids(lab.path / "pids", 3)
    child.send_signal(number)
    assert gone(started)
    child.wait(30)
    deadline = time.monotonic() + 10
    while (lab.path / "state").rglob("running.json") and list((lab.path / "state").rglob("running.json")):
        assert time.monotonic() < deadline, "the record of the run still exists"
        time.sleep(0.05)
    assert not list((lab.path / "state").rglob("last.json"))
    assert list((lab.path / "state").rglob("*.log"))


def test_a_killed_group_leaves_no_script(lab: Lab) -> None:
    """ansible-runner sends SIGKILL to the whole process group."""
    child = lab.start([role(path=lab.script(STUBBORN.replace("PIDS", str(lab.path / "pids"))))])
    started = pids(lab.path / "pids", 3)
    os.killpg(child.pid, signal.SIGKILL)
    assert gone(started)


def test_a_script_that_must_finish_does(lab: Lab) -> None:
    text = f"#!/bin/bash\necho $$ >> {lab.path}/pids\nsleep 3\nexport DONE=yes\ntouch {lab.path}/finished\n"
    given = {"path": lab.script(text), "on_interrupt": "finish", "rerun": "changed", "exports": {"DONE": "bool"}}
    child = lab.start([role(**given)])
    pids(lab.path / "pids", 1)
    child.send_signal(signal.SIGINT)
    child.wait(30)
    assert not (lab.path / "finished").exists()
    lab.run([role(**given), check("done is true", "script_result.skipped_by == 'rerun'")])
    assert (lab.path / "pids").read_text().count("\n") == 1


def test_a_timeout_is_reported(lab: Lab) -> None:
    text = STUBBORN.replace("PIDS", str(lab.path / "pids"))
    tasks = [
        {
            "name": "Try",
            "block": [role(path=lab.script(text), timeout=1)],
            "rescue": [check("script_result.ended == 'timeout'")],
        }
    ]
    out = lab.run(tasks)
    assert "did not end in 1 s" in out
    assert gone(pids(lab.path / "pids", 3), 0)


# -- the page --

PAGE = (CHECKOUT / "docs" / "scripts.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_examples_of_the_page_work(lab: Lab) -> None:
    (script,) = blocks("bash")
    playbook = next(block for block in blocks("yaml") if block.startswith("# install.yml"))
    lab.script(script)
    (play,) = yaml.safe_load(playbook)
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    variables = {**play["vars"], **local, "product_folder": str(lab.path)}
    (lab.path / "password").write_text("hunter2-hunter2")
    for changed in (1, 0):
        out = lab.run(play["tasks"], vars=variables)
        assert recap(out)["changed"] == changed
        assert "http://lab.example:8080" in out
        assert "hunter2" not in out
    assert json.loads((lab.path / "installed.json").read_text()) == {
        "name": "lab",
        "workers": 2,
        "debug": "0",
        "secret": 15,
    }


def test_the_page_names_only_existing_variables() -> None:
    from ansible_collections.devenv.lab.plugins.modules.script import ARGUMENTS

    named = set(re.findall(r"`script_([a-z_]+)`", PAGE)) - {"result"}
    assert named <= set(ARGUMENTS)


def test_secrets_of_an_installation_script_of_gravity_are_secrets(lab: Lab) -> None:
    """The one-line script gets its password in a variable; neither output nor logs nor records contain it."""
    script = lab.script('echo "password: $ADMIN_PASSWORD $MODE"; test "$ADMIN_PASSWORD" = "$(cat secret)"\n')
    home = lab.path / "home-of-gravity"
    home.mkdir()
    (home / "secret").write_text(SECRETS["env"])
    variables = {
        "engine_gravity_script": script,
        "engine_gravity_script_variables": {"MODE": "airgap"},
        "engine_gravity_script_secrets": {"ADMIN_PASSWORD": SECRETS["env"]},
        "engine_gravity_install_timeout": 60,
        "devenv_addresses": ["10.0.0.10"],
    }
    role = {"name": "devenv.lab.engine_gravity", "tasks_from": "install_script"}
    out = lab.run([{"import_role": role}], "-vvv", "-e", f"__engine_gravity_home={home}", vars=variables)
    assert SECRETS["env"] not in out
    logs = [path.read_text() for path in (lab.path / "state").rglob("*") if path.is_file()]
    assert any("airgap" in text for text in logs)
    assert [text for text in logs if SECRETS["env"] in text] == []


def test_the_command_of_the_page_works_next_to_pyenv(lab: Lab) -> None:
    """Its shims are first on PATH, and do not run without a version that is selected for them."""
    (script,) = blocks("bash")
    text = next(block for block in blocks("yaml") if block.startswith("# install.yml"))
    lab.script(script)
    (lab.path / "password").write_text("hunter2-hunter2")
    (lab.path / "install.yml").write_text(text)
    shims = lab.path / "shims"
    shims.mkdir()
    for name in ("python3", *(f"python3.{minor}" for minor in range(8, 16))):
        (shims / name).write_text("#!/bin/sh\necho 'pyenv: version is not installed' >&2\nexit 127\n")
        (shims / name).chmod(0o755)
    command = text.splitlines()[0].partition("ansible-playbook ")[2].split()
    more = ["-e", f"product_folder={lab.path}", "-e", f"script_state={lab.path / 'state'}"]
    variables = {"PATH": f"{shims}:{os.environ['PATH']}"}
    child = start_ansible(*command, *more, home=lab.path / "home", cwd=lab.path, variables=variables)
    lab.started.append(child)
    out = child.communicate(timeout=120)[0]
    assert (child.returncode, "http://lab.example:8080" in out) == (0, True), out
