"""Exit codes of status and of commands that query the machines: what does not answer is never reported as absent."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.environments import state
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import readiness
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles.resolve import resolve
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.podman import cli as podman
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import remote
from ansible_collections.devenv.lab.plugins.plugin_utils.validation import node_checks

Devenv = Callable[..., tuple[int, str, str]]
Made = Callable[..., Path]


def container(node: str, state: str = "running") -> podman.Container:
    return podman.Container(f"lab-{node}", "lab", node, os.environ["DEVENV_HOME"], state, 1, "image")


@pytest.mark.parametrize(
    ("machines", "api", "ready", "code"),
    [
        (["running", "running"], "answers", ["Ready", "Ready"], 0),
        (["exited", "exited"], "no node runs", [], 15),
        (["exited"], "no node runs", [], 15),
        ([], "not created yet", [], 16),
        (["running", "exited"], "answers", ["Ready", "NotReady"], 16),
        (["running"], "answers", ["Ready"], 16),
        (["running", "running"], "answers", ["Ready", "NotReady"], 16),
        (["running", "running"], "answers", ["Ready"], 16),
        (["running", "running"], "connection refused", [], 17),
        (["running", "exited"], "timed out", [], 17),
    ],
)
def test_status_exits_with_the_health_of_the_environment(
    devenv: Devenv,
    made: Made,
    monkeypatch: pytest.MonkeyPatch,
    machines: list[str],
    api: str,
    ready: list[str],
    code: int,
) -> None:
    made("lab", "sno", overrides={"nodes.worker-0": {}})
    names = ["master-0", "worker-0"]
    containers = [container(node, state) for node, state in zip(names, machines, strict=False)]
    monkeypatch.setattr(podman, "containers", lambda environment=None: containers)
    answer = (api, dict(zip(names, ready, strict=False)))
    monkeypatch.setattr(readiness, "nodes", lambda kubeconfig, timeout: answer)
    assert devenv("status")[0] == code
    assert devenv("status", "--json")[0] == code


def test_status_of_bare_nodes_needs_no_api(devenv: Devenv, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    made("lab", "sno", overrides={"nodes.master-0.cluster": None})
    monkeypatch.setattr(podman, "containers", lambda environment=None: [container("master-0")])
    assert devenv("status")[0] == 0


@pytest.mark.parametrize(
    "words",
    [["list"], ["status", "-n", "lab"], ["down", "-n", "lost"], ["plan", "-p", "sno"], ["node", "list", "-n", "lab"]],
)
@pytest.mark.parametrize(
    ("script", "message"),
    [("echo 'cannot connect to storage' >&2; exit 125", "cannot connect to storage"), ("echo '[{}]'", "cannot query")],
)
def test_a_broken_podman_is_reported_instead_of_nothing(
    devenv: Devenv,
    tmp_path: Path,
    own_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    script: str,
    message: str,
) -> None:
    folder = own_home / "environments" / "lab"
    folder.mkdir(parents=True)
    state.write_profile(folder, resolve("sno"))
    program = tmp_path / "bin" / "podman"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    code, _, err = devenv(*words)
    assert code == 9
    assert message in err
    assert "[machines_unknown]" in err


def test_certs_list_fails_if_no_node_answers(devenv: Devenv, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    made("lab", "sno", overrides={"nodes.worker-0": {}})
    good = remote.Answer("worker-0", {"certificates": {"/etc/kubernetes/pki/ca.crt": "2099-01-01T00:00:00+00:00"}})
    bad = [remote.Answer(node, trouble="no route to host") for node in ("master-0", "worker-0")]
    answers = {answer.node: answer for answer in bad}
    monkeypatch.setattr(node_checks, "query_health", lambda targets: answers)
    code, out, err = devenv("certs", "list")
    assert (code, out) == (5, "")
    assert "master-0: no route to host" in err
    answers["worker-0"] = good
    code, out, _ = devenv("certs", "list")
    assert code == 0
    assert "no route to host" in out
