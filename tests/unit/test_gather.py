"""The archive: its files, its secrets, and parts that fail or time out."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.module_utils.node import archive
from ansible_collections.devenv.lab.plugins.plugin_utils.core import redact
from ansible_collections.devenv.lab.plugins.plugin_utils.core.errors import DevenvError
from ansible_collections.devenv.lab.plugins.plugin_utils.diagnostics import archive as gather
from ansible_collections.devenv.lab.plugins.plugin_utils.diagnostics import cluster as gather_cluster
from ansible_collections.devenv.lab.plugins.plugin_utils.diagnostics import host as gather_host
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client
from ansible_collections.devenv.lab.plugins.plugin_utils.providers import registry
from ansible_collections.devenv.lab.plugins.plugin_utils.providers.base import Provider
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import remote

TOKEN = "abcdef." + "0123456789abcdef"
KEY = "-----BEGIN OPENSSH PRIVATE " + "KEY-----\n" + "b3Blbn" * 12 + "\n-----END OPENSSH PRIVATE " + "KEY-----\n"
PASSWORD = "correct-horse-7"


def packed(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, data in files.items():
            archive.add(tar, name, data)
    return stream.getvalue()


def content(path: Path) -> dict[str, str]:
    """Return the files of an archive without its top folder."""
    with tarfile.open(path) as tar:
        files = {}
        for member in tar:
            stream = tar.extractfile(member)
            assert stream is not None
            assert member.mode == 0o600
            files[member.name.partition("/")[2]] = stream.read().decode()
        return files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A state directory with secrets in its key files and, by mistake, in a log."""
    state = tmp_path / "environments" / "mine"
    run = state / "runs" / "20261121T000000Z-0123456789ab"
    run.mkdir(parents=True)
    (state / "ssh").mkdir()
    (state / "ssh" / "id_ed25519").write_text(KEY)
    (state / "clusters" / "main").mkdir(parents=True)
    (state / "clusters" / "main" / "join.json").write_text(json.dumps({"token": TOKEN, "key": "a1" * 32}))
    (state / "clusters" / "main" / "kubeconfig").write_text("client-key-data: " + "QUJD" * 20)
    (state / "ledger.jsonl").write_text("{}\n")
    (run / "log.txt").write_text(f"join with {TOKEN} and {'a1' * 32} and {'QUJD' * 20} and {'b3Blbn' * 12}\n")
    (run / "gather.tar.gz").write_bytes(b"an older one")
    return state


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the commands of the host by one file."""

    def collect(name: str, providers: Iterable[Provider], put: Callable[[str, bytes], None]) -> str:
        put("uname.txt", f"{name} {' '.join(provider.name for provider in providers)}\n".encode())
        return ""

    monkeypatch.setattr(gather_host, "collect", collect)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Answers by node: the bytes that it sends, an error message, or the seconds that it hangs."""
    answers: dict[str, Any] = {}

    def call(target: remote.Target, source: str, read: Callable[[Any], None], timeout: float) -> str:
        answer = answers[target.name]
        if isinstance(answer, float):
            time.sleep(answer)
            return "late"
        if isinstance(answer, str):
            return answer
        with contextlib.suppress(tarfile.TarError, EOFError):
            read(io.BytesIO(answer))
            return ""
        return "the connection was cut"

    monkeypatch.setattr(remote, "call", call)
    return answers


def hosts(*names: str) -> dict[str, dict[str, str]]:
    return {name: {"ansible_host": "10.0.0.1", "devenv_cluster": "main"} for name in names}


@pytest.mark.usefixtures("quiet")
def test_a_failed_part_leaves_the_others_complete(folder: Path, answers: dict[str, Any], tmp_path: Path) -> None:
    big = packed({f"journal/{number}.txt": bytes(str(number), "ascii") * 30000 for number in range(5)})
    answers |= {
        "good": packed({"journal/kubelet.txt": b"line\n", "system/x.bin": b"\0\1", "../../etc/passwd": b"no"}),
        "cut": big[: len(big) // 2],
        "silent": "ssh: connect to host 10.0.0.1 port 22: No route to host",
    }
    source = gather.Source(
        "mine", folder, {**hosts(*answers), "new": {"devenv_cluster": "main"}}, providers=[registry.get("podman")]
    )
    done = gather.collect(source, tmp_path / "new" / "g.tar.gz", timeout=20)
    assert done.path.stat().st_mode & 0o777 == 0o600
    assert list(done.path.parent.iterdir()) == [done.path]
    files = content(done.path)
    assert files["nodes/good/journal/kubelet.txt"] == "line\n"
    assert files["nodes/good/system/x.bin"] == "2 bytes of binary data were left out\n"
    assert files["nodes/good/etc/passwd"] == "no"
    assert files["host/uname.txt"] == "mine podman\n"
    assert [name for name in files if name.endswith("gather.tar.gz")] == []
    parts = {part["name"]: part for part in json.loads(files["index.json"])["parts"]}
    assert sorted(parts) == ["host", "nodes/cut", "nodes/good", "nodes/new", "nodes/silent", "runs"]
    assert {name: part["trouble"] for name, part in parts.items() if part["trouble"]} == {
        "nodes/cut": "the connection was cut",
        "nodes/silent": "ssh: connect to host 10.0.0.1 port 22: No route to host",
        "nodes/new": "new: has no variable ansible_host",
    }
    assert parts["nodes/good"]["files"] == 3
    assert "nodes/silent: 0 files" in files["index.txt"]
    assert sorted(text.partition(":")[0] for text in done.troubles) == ["nodes/cut", "nodes/new", "nodes/silent"]


@pytest.mark.usefixtures("quiet")
def test_secrets_of_the_state_folder_are_redacted(folder: Path, answers: dict[str, Any], tmp_path: Path) -> None:
    log = folder / "runs" / "20261121T000000Z-0123456789ab" / "log.txt"
    secrets = [TOKEN, "a1" * 32, "QUJD" * 20, "b3Blbn" * 12]
    # The log does contain them.
    assert [secret for secret in secrets if secret not in log.read_text()] == []
    assert gather.known_secrets(folder) >= set(secrets)
    answers["n"] = packed({"x.txt": f"{KEY}\nAuthorization: Bearer {'x' * 30}\n{'QUJD' * 20}".encode()})
    done = gather.collect(gather.Source("mine", folder, hosts("n")), tmp_path / "g.tar.gz", timeout=20)
    whole = "\n".join(content(done.path).values())
    assert [secret for secret in [*secrets, "x" * 30] if secret in whole] == []
    assert redact.find(whole) == []
    assert "join with" in whole


@pytest.mark.usefixtures("quiet")
def test_a_part_that_hangs_is_listed_as_timed_out(folder: Path, answers: dict[str, Any], tmp_path: Path) -> None:
    answers |= {"slow": 30.0, "good": packed({"x.txt": b"x"})}
    began = time.monotonic()
    done = gather.collect(gather.Source("mine", folder, hosts("slow", "good")), tmp_path / "g.tar.gz", timeout=1.5)
    assert time.monotonic() - began < 10
    assert done.troubles == ["nodes/slow: timed out"]
    assert "nodes/good/x.txt" in content(done.path)


@pytest.mark.usefixtures("quiet")
def test_an_unwritable_archive_fails_with_exit_code_20(folder: Path) -> None:
    with pytest.raises(DevenvError) as caught:
        gather.collect(gather.Source("mine", folder), Path("/proc/none/g.tar.gz"))
    assert (caught.value.reason.id, caught.value.exit_code) == ("gather_failed", 20)


@pytest.mark.usefixtures("quiet")
def test_a_broken_kubeconfig_is_a_line_of_the_index(folder: Path, tmp_path: Path) -> None:
    source = gather.Source("mine", folder, kubeconfigs={"main": folder / "clusters" / "main" / "kubeconfig"})
    done = gather.collect(source, tmp_path / "g.tar.gz", timeout=20)
    assert [text.partition(":")[0] for text in done.troubles] == ["clusters/main"]


NOW = datetime(2026, 11, 21, 9, 0, 1, tzinfo=UTC)
DEFAULT_NAME = "gather-mine-20261121T090001Z.tar.gz"


def test_the_archive_path_follows_from_the_output_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert gather.archive_path("", "mine", NOW) == tmp_path / DEFAULT_NAME
    assert gather.archive_path(str(tmp_path), "mine", NOW) == tmp_path / DEFAULT_NAME
    assert gather.archive_path("new/", "mine", NOW) == tmp_path / "new" / DEFAULT_NAME
    assert gather.archive_path("x.tgz", "mine", NOW) == tmp_path / "x.tgz"
    with pytest.raises(DevenvError, match=r"ends in \.tar\.gz"):
        gather.archive_path("x.zip", "mine", NOW)


@pytest.mark.parametrize(
    ("path", "kept"),
    [("a/b", "a/b"), ("/etc/x", "etc/x"), ("../../x", "x"), ("a/./../b", "a/b"), ("", "_"), ("a\nb", "a_b")],
)
def test_paths_of_members_stay_inside_the_archive(path: str, kept: str) -> None:
    assert gather.safe(path) == kept


# --- clusters --------------------------------------------------------------------------------------------------------


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_secrets_keep_only_their_keys() -> None:
    applied = {"kubectl.kubernetes.io/last-applied-configuration": f'{{"data": "{encoded(PASSWORD)}"}}', "other": "x"}
    item = {
        "metadata": {"name": "db", "annotations": applied, "managedFields": [{}]},
        "data": {"password": encoded(PASSWORD)},
        "stringData": {"word": PASSWORD},
        "type": "Opaque",
    }
    shown = gather_cluster.masked("Secret", item)
    assert encoded(PASSWORD) not in json.dumps(shown)
    assert PASSWORD not in json.dumps(shown)
    assert shown["data"] == {"password": "[secret redacted]"}
    assert shown["metadata"] == {"name": "db", "annotations": {"other": "x"}}
    assert item["data"] == {"password": encoded(PASSWORD)}


def test_secretive_variables_keep_only_their_names() -> None:
    env = [{"name": "PGPASSWORD", "value": PASSWORD}, {"name": "MODE", "value": "fast"}]
    shown = gather_cluster.masked("Pod", {"metadata": {"name": "p"}, "spec": {"containers": [{"env": env}]}})
    assert shown["spec"]["containers"][0]["env"] == [
        {"name": "PGPASSWORD", "value": "[credential redacted]"},
        {"name": "MODE", "value": "fast"},
    ]


@pytest.mark.parametrize(
    ("kind", "data", "expected"),
    [
        ("Opaque", {"a": PASSWORD}, {PASSWORD, encoded(PASSWORD)}),
        ("Opaque", {"a": "true", "b": "kube-system", "c": "two words 123"}, set()),
        (
            "bootstrap.kubernetes.io/token",
            {"token-secret": "0123456789abcdef", "expiration": "2026-11-22T00:00:00Z"},
            {"0123456789abcdef", encoded("0123456789abcdef")},
        ),
        ("kubernetes.io/tls", {"tls.key": KEY}, {"b3Blbn" * 12}),
    ],
)
def test_secret_values_to_redact_in_other_texts(kind: str, data: dict[str, str], expected: set[str]) -> None:
    secret = {"type": kind, "data": {key: encoded(value) for key, value in data.items()}}
    values = gather_cluster.values_of(secret)
    assert {value for value in values if "PRIVATE" not in value} == expected


class Fake:
    """An API with a few lists, one of which fails."""

    def __init__(self, *_: object, **__: object) -> None:
        return

    def __enter__(self) -> Fake:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def text(self, path: str, query: object = None) -> str:
        if path == "/readyz":
            raise client.ApiError(500, "", "[-]etcd failed")
        return "ok"

    def get(self, path: str, query: object = None) -> dict[str, Any]:
        verbs = ["list", "get"]
        known: dict[str, dict[str, Any]] = {
            "/version": {"gitVersion": "v1.36.3"},
            "/apis": {"groups": [{"name": "metrics", "preferredVersion": {"groupVersion": "metrics/v1"}}]},
            "/api/v1": {
                "resources": [
                    {"name": "pods", "kind": "Pod", "verbs": verbs},
                    {"name": "pods/log", "kind": "Pod", "verbs": ["get"]},
                    {"name": "secrets", "kind": "Secret", "verbs": verbs},
                    {"name": "events", "kind": "Event", "verbs": verbs},
                    {"name": "nodes", "kind": "Node", "verbs": verbs},
                ]
            },
            "/api/v1/pods": {"items": [{"metadata": {"name": "p"}}], "metadata": {"continue": "x"}},
            "/api/v1/secrets": {"items": [{"metadata": {"name": "s"}, "data": {"a": encoded(PASSWORD)}}]},
            "/api/v1/events": {
                "items": [
                    event("2026-11-21T09:00:02Z", "second"),
                    event("2026-11-21T09:00:01Z", "first\nof two"),
                ]
            },
        }
        if path not in known:
            raise client.ApiError(503, "ServiceUnavailable", f"no {path}")
        return known[path]


def event(when: str, message: str) -> dict[str, Any]:
    about = {"kind": "Pod", "name": "p"}
    return {
        "metadata": {"namespace": "default"}, "lastTimestamp": when, "type": "Warning", "reason": "Failed",
        "message": message, "involvedObject": about, "count": 2,
    }  # fmt: skip


def test_failed_requests_are_listed_and_the_rest_is_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "Api", Fake)
    files: dict[str, str] = {}
    trouble = gather_cluster.collect(
        client.Access("https://x", ""), lambda path, data: files.__setitem__(path, data.decode())
    )
    for word in ("/readyz returns 500", "metrics: no /apis/metrics/v1", "core/nodes: no", "core/pods: more than 2000"):
        assert word in trouble
    assert files["health/readyz.txt"] == "[-]etcd failed"
    assert "name: p" in files["resources/core/pods.yaml"]
    assert encoded(PASSWORD) not in files["resources/core/secrets.yaml"]
    assert files["events.txt"].splitlines() == [
        "2026-11-21T09:00:01Z Warning default Pod/p Failed: first of two (x2)",
        "2026-11-21T09:00:02Z Warning default Pod/p Failed: second (x2)",
    ]


# --- nodes -----------------------------------------------------------------------------------------------------------


def test_a_cut_text_begins_with_a_whole_line() -> None:
    text = b"".join(b"line %d\n" % number for number in range(100))
    cut = archive.last(text, 20)
    assert cut == b"[cut]\nline 98\nline 99\n"
    assert archive.last(text, 10000) == text


def test_files_and_logs_of_a_node_without_keys(tmp_path: Path) -> None:
    place = tmp_path / "var/log/pods/kube-system_etcd_1/etcd"
    place.mkdir(parents=True)
    (place / "0.log").write_text("x\n")
    secret = tmp_path / "etc/devenv/ssh"
    secret.mkdir(parents=True)
    (secret / "ssh_host_ed25519_key").write_text(KEY)
    (tmp_path / "etc/devenv/network.d").mkdir()
    (tmp_path / "etc/devenv/network.d/10.conf").write_text("y\n")
    assert dict(archive.pod_logs(str(tmp_path))) == {"pods/kube-system_etcd_1/etcd/0.log": b"x\n"}
    assert dict(archive.matching(archive.FILES, str(tmp_path))) == {"files/etc/devenv/network.d/10.conf": b"y\n"}


@pytest.mark.parametrize(
    ("argv", "output"),
    [
        (["echo", "x"], b"x\n"),
        (["sh", "-c", "echo x; exit 3"], b"x\n\nsh ended with code 3\n"),
        (["sh", "-c", "echo x; exec sleep 30"], b"x\nsh did not end within 0.5 s and was killed\n"),
        (["/there/is/none"], b"the program /there/is/none is not installed\n"),
    ],
)
def test_output_and_failure_of_a_command_on_a_node(argv: list[str], output: bytes) -> None:
    assert archive.command(argv, 0.5) == output


def test_a_truncated_stream_raises() -> None:
    def taken(data: bytes) -> Iterator[str]:
        for name, _ in gather.members(io.BytesIO(data)):
            yield name

    whole = packed({"a": b"1" * 100, "b": b"2" * 100})
    assert list(taken(whole)) == ["a", "b"]
    with pytest.raises((tarfile.TarError, EOFError)):
        list(taken(whole[:40]))
    with pytest.raises(tarfile.TarError):
        list(taken(b"Permission denied"))
