"""Running the programs that a user types."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def program(name: str) -> str:
    """The path of a program of the project's virtual environment."""
    return str(Path(sys.executable).with_name(name))


def _end(child: subprocess.Popen[str], patience: float = 60) -> None:
    """As a user ends it: Ctrl-C; by force when that takes too long."""
    child.send_signal(signal.SIGINT)
    try:
        child.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def finish(child: subprocess.Popen[str], seconds: float, code: int | None = 0) -> subprocess.CompletedProcess[str]:
    """Wait for a program that was started. Fails the test when it ends with another code than ``code`` (None: any)."""
    try:
        out, err = child.communicate(timeout=seconds)
    except BaseException:
        # The interruption of the tests does not reach another session, and what is left would still hold the lock.
        _end(child)
        raise
    done = subprocess.CompletedProcess(child.args, child.returncode, out, err)
    assert code is None or done.returncode == code, shown(done)
    return done


def finish_all(children: Sequence[subprocess.Popen[str]], seconds: float) -> None:
    """Wait for programs that run at the same time. Fails the test when one fails, but leaves none of them running."""
    failures = []
    for child in children:
        try:
            finish(child, seconds)
        except (AssertionError, subprocess.TimeoutExpired) as failure:
            failures.append(str(failure))
        except BaseException:
            for other in children:
                if other.poll() is None:
                    _end(other)
            raise
    assert not failures, "\n".join(failures)


@dataclass(frozen=True)
class Typed:
    """One user at a shell: a DEVENV_HOME, a working directory, and no other variable of devenv or Ansible."""

    home: Path
    cwd: Path = ROOT
    seconds: float = 900
    umask: int = -1

    def environment(self, variables: Mapping[str, str] | None = None) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("ANSIBLE_", "DEVENV_"))}
        kept.pop("PYTHONUNBUFFERED", None)
        # kubectl's cache belongs to the tests, too: the user's own folder is compared before and after.
        ours = {"DEVENV_HOME": str(self.home), "KUBECACHEDIR": str(self.home / "kube-cache")}
        return {**kept, **ours, **(variables or {})}

    def start(self, *argv: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a program in a session of its own, for a test that interrupts or kills it."""
        return subprocess.Popen(
            [program(argv[0]) if "/" not in argv[0] else argv[0], *argv[1:]],
            cwd=self.cwd,
            env=self.environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            umask=self.umask,
        )

    def run(
        self, *argv: str, code: int | None = 0, env: Mapping[str, str] | None = None, seconds: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end. Fails the test when it ends with another code than ``code`` (None: any)."""
        return finish(self.start(*argv, env=env), seconds or self.seconds, code)

    def devenv(self, *words: str, code: int | None = 0, **options: Any) -> subprocess.CompletedProcess[str]:
        """``devenv WORDS``."""
        return self.run("devenv", *words, code=code, **options)

    def data(self, *words: str, **options: Any) -> Any:
        """The one document that ``devenv WORDS --json`` prints."""
        return json.loads(self.devenv(*words, "--json", **options).stdout)

    def objects(self, *words: str, **options: Any) -> list[dict[str, Any]]:
        """The objects, one a line, that ``devenv WORDS --json`` prints."""
        return [json.loads(line) for line in self.devenv(*words, "--json", **options).stdout.splitlines()]

    def changes(self, *words: str, **options: Any) -> list[str]:
        """Run ``devenv WORDS --json`` on the environment after ``--name``; return the tasks that changed something."""
        end = self.objects(*words, **options)[-1]
        if end["changed"] == 0:
            return []
        runs = self.home / "environments" / words[words.index("--name") + 1] / "runs"
        events = [json.loads(line) for line in (max(runs.iterdir()) / "events.jsonl").read_text().splitlines()]
        changed = [f"{event['host']}: {event['task']}" for event in events if event.get("changed")]
        return changed or [f"changed={end['changed']}, in no task"]

    def playbook(
        self, name: str, *words: str, code: int | None = 0, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """``ansible-playbook playbooks/NAME.yml WORDS``, as someone types it who has no ``devenv``."""
        return self.run("ansible-playbook", str(ROOT / "playbooks" / f"{name}.yml"), *words, code=code, **options)

    def kubectl(self, name: str, *words: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """kubectl on the environment ``name``: not our code, so it may judge it."""
        kubeconfig = self.home / "environments" / name / "kubeconfig"
        return self.run("kubectl", *words, code=code, env={"KUBECONFIG": str(kubeconfig)})


def start_ansible(
    *words: str, home: Path, cwd: Path, variables: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start ``ansible-playbook WORDS`` with our settings and ``home`` as DEVENV_HOME, errors in its output."""
    hidden = ("DEVENV_", "ANSIBLE_", "ARTIFACT", "PYTHONUNBUFFERED")
    ours = {"DEVENV_HOME": str(home), "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), **(variables or {})}
    return subprocess.Popen(
        [program("ansible-playbook"), *words],
        env={**{name: value for name, value in os.environ.items() if not name.startswith(hidden)}, **ours},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def addresses(user: Typed, name: str) -> dict[str, list[str]]:
    """Addresses of each node of the environment ``name``."""
    return {row["name"]: row["addresses"] for row in user.data("node", "list", "--name", name)}


def shown(done: subprocess.CompletedProcess[str]) -> str:
    """A finished program as a test's failure shows it."""
    return f"{' '.join(done.args)} ended with {done.returncode}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
