"""The difference between the desired and the actual state of a node."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.module_utils.node import converge, observe, program


@pytest.fixture
def mine(tmp_path: Path) -> dict[str, str]:
    """Return the owner and group that this test can set on a file."""
    (tmp_path / "probe").write_text("")
    state = observe.file_state("/probe", str(tmp_path))
    assert state is not None
    return {"owner": state["owner"], "group": state["group"]}


def file(content: str, mtime: float = 100.0, mode: str = "0644") -> dict[str, Any]:
    digest = hashlib.sha256(content.encode()).hexdigest()
    return {"sha256": digest, "mode": mode, "owner": "root", "group": "root", "mtime": mtime}


def unit(
    active: str = "active",
    since: float = 200.0,
    *,
    enabled: str = "enabled",
    reload: bool = False,
    changed: float | None = None,
) -> dict[str, Any]:
    last = since if changed is None else changed
    return {"active": active, "enabled": enabled, "found": True, "reload": reload, "since": since, "changed": last}


def observed(**parts: Any) -> dict[str, Any]:
    return {"files": {}, "sysctls": {}, "units": {}, "checks": {}, "managed": {}, **parts}


PART: dict[str, Any] = {
    "name": "runtime",
    "files": [{"path": "/etc/c.toml", "content": "a"}],
    "sysctls": {"net.x": 1},
    "units": [
        {"name": "c.service", "enabled": True, "state": "started", "restart_on": ["/etc/c.toml"], "check": ["c", "ok"]}
    ],
}
MATCHING = observed(
    files={"/etc/c.toml": file("a")},
    sysctls={"net.x": "1"},
    units={"c.service": unit()},
    checks={"c.service": True},
    managed=converge.record_of([PART]),
)


def but(**changes: Any) -> dict[str, Any]:
    return {**MATCHING, **changes}


def test_a_matching_node_needs_no_change() -> None:
    todo = converge.plan([PART], MATCHING)
    assert todo == converge.NOTHING
    assert not todo.changes()


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        pytest.param(
            but(files={"/etc/c.toml": None}),
            {"written": ["/etc/c.toml"], "restarted": ["c.service"]},
            id="no file",
        ),
        pytest.param(
            but(files={"/etc/c.toml": file("b")}),
            {"written": ["/etc/c.toml"], "restarted": ["c.service"]},
            id="content",
        ),
        pytest.param(
            but(files={"/etc/c.toml": file("a", mode="0600")}),
            {"written": ["/etc/c.toml"], "restarted": ["c.service"]},
            id="mode",
        ),
        pytest.param(but(sysctls={"net.x": "0"}), {"sysctls": ["net.x"]}, id="sysctl"),
        pytest.param(but(units={"c.service": unit("inactive", 0)}), {"started": ["c.service"]}, id="stopped unit"),
        pytest.param(but(units={"c.service": unit("failed", 50)}), {"started": ["c.service"]}, id="failed unit"),
        pytest.param(but(units={}), {"started": ["c.service"], "enabled": ["c.service"]}, id="unknown unit"),
        pytest.param(but(units={"c.service": unit(enabled="disabled")}), {"enabled": ["c.service"]}, id="not enabled"),
        pytest.param(but(checks={"c.service": False}), {"restarted": ["c.service"]}, id="failed check"),
        pytest.param(
            but(files={"/etc/c.toml": file("a", mtime=300.0)}),
            {"restarted": ["c.service"]},
            id="killed between the file and the restart",
        ),
        pytest.param(
            but(units={"c.service": unit(reload=True)}),
            {"reloaded": True, "restarted": ["c.service"]},
            id="killed before systemd read the unit",
        ),
    ],
)
def test_each_difference_is_applied_alone(state: dict[str, Any], expected: dict[str, Any]) -> None:
    result = {key: value for key, value in converge.result(converge.plan([PART], state)).items() if value}
    assert result == {"changed": True, **expected}


def test_a_new_unit_file_reloads_systemd() -> None:
    part = {"name": "p", "files": [{"path": "/etc/systemd/system/c.service", "content": "x"}]}
    assert converge.plan([part], observed()).reload
    assert not converge.plan([{"name": "p", "files": [{"path": "/etc/c", "content": "x"}]}], observed()).reload


def test_a_unit_without_a_desired_state_is_only_restarted() -> None:
    part = {
        "name": "p",
        "files": [{"path": "/f", "content": "x"}],
        "units": [{"name": "k.service", "restart_on": ["/f"]}],
    }
    assert converge.plan([part], observed(units={"k.service": unit()})).restart == ["k.service"]
    idle = converge.plan([part], observed(units={"k.service": unit("inactive", 0)}))
    assert (idle.restart, idle.start) == ([], [])


def test_a_unit_in_two_parts_is_restarted_once() -> None:
    other = {
        "name": "net",
        "files": [{"path": "/r", "content": "x"}],
        "units": [{"name": "c.service", "restart_on": ["/r"]}],
    }
    todo = converge.plan([PART, other], but(files={"/etc/c.toml": None}))
    assert todo.restart == ["c.service"]


@pytest.mark.parametrize(
    ("written", "state", "expected"),
    [
        pytest.param(100.0, unit(), [], id="read at the start"),
        pytest.param(250.0, unit(changed=300.0), [], id="reloaded since"),
        pytest.param(250.0, unit(), ["c.service"], id="killed between the file and the reload"),
        pytest.param(None, unit(), ["c.service"], id="changed file"),
        pytest.param(None, unit("inactive", 0), [], id="stopped unit"),
        pytest.param(None, unit(reload=True), [], id="restarted anyway"),
    ],
)
def test_a_unit_with_reload_on_is_reloaded(written: float | None, state: dict[str, Any], expected: list[str]) -> None:
    part = {
        "name": "p",
        "files": [{"path": "/f", "content": "x"}],
        "units": [{"name": "c.service", "state": "started", "reload_on": ["/f"]}],
    }
    assert converge.record_of([part])["p"]["watch"] == ["/f"]
    files = {"/f": None if written is None else file("x", mtime=written)}
    todo = converge.plan([part], observed(files=files, units={"c.service": state}))
    assert todo.refresh == expected
    assert todo.restart == (["c.service"] if state["reload"] else [])
    assert todo.start == ([] if state["active"] == "active" else ["c.service"])


def test_a_unit_is_stopped_before_its_file_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "etc/systemd/system/c.service"
    path.parent.mkdir(parents=True)
    path.write_text("x")
    calls = []

    def systemctl(argv: list[str], timeout: float = 0) -> Any:
        calls.append((argv[1], path.exists()))
        return program.ProgramResult(code=0, stdout="", stderr="")

    part = {"name": "p", "units": [{"name": "c.service", "enabled": False, "state": "stopped"}]}
    before = {"p": {"files": ["/etc/systemd/system/c.service"]}}
    state = observed(files={"/etc/systemd/system/c.service": file("x")}, units={"c.service": unit()}, managed=before)
    converge.apply(converge.plan([part], state), str(tmp_path), systemctl)
    assert calls == [("disable", True), ("stop", True), ("daemon-reload", False)]


def test_a_unit_is_stopped_and_disabled() -> None:
    part = {"name": "p", "units": [{"name": "c.service", "enabled": False, "state": "stopped"}]}
    todo = converge.plan([part], observed(units={"c.service": unit()}))
    assert (todo.stop, todo.disable) == (["c.service"], ["c.service"])


def test_a_file_that_an_earlier_run_wrote_for_the_part_is_removed() -> None:
    before = {"runtime": {"files": ["/etc/old", "/etc/gone"]}, "other": {"files": ["/etc/other"]}}
    files = {"/etc/old": file("x"), "/etc/gone": None, "/etc/other": file("y")}
    todo = converge.plan([{"name": "runtime"}], observed(files=files, managed=before))
    assert todo.remove == ["/etc/old"]
    assert todo.managed is not None
    assert todo.managed["other"] == before["other"]


def test_a_file_that_moved_to_another_part_stays() -> None:
    before = {"a": {"files": ["/etc/f"]}}
    parts: list[dict[str, Any]] = [{"name": "a"}, {"name": "b", "files": [{"path": "/etc/f", "content": "x"}]}]
    assert converge.plan(parts, observed(files={"/etc/f": file("x")}, managed=before)).remove == []


def test_absent_files_are_removed_and_watched() -> None:
    part = {"name": "p", "absent": ["/etc/no"]}
    assert converge.plan([part], observed(files={"/etc/no": file("x")})).remove == ["/etc/no"]
    assert converge.record_of([part])["p"]["watch"] == ["/etc/no"]


@pytest.mark.parametrize(
    "parts",
    [
        [
            {"name": "a", "files": [{"path": "/f", "content": ""}]},
            {"name": "b", "files": [{"path": "/f", "content": ""}]},
        ],
        [{"name": "a", "files": [{"path": "/f", "content": ""}], "absent": ["/f"]}],
    ],
)
def test_contradictory_parts_are_refused(parts: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="/f is listed"):
        converge.plan(parts, observed())


def test_a_secret_is_in_no_diff(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("old-secret")
    part = {"name": "p", "files": [{"path": "/s", "secret_content": "new-secret"}, {"path": "/o", "content": "open"}]}
    shown = json.dumps(converge.diff(converge.plan([part], observed()), str(tmp_path)))
    assert "open" in shown
    assert "secret" not in shown.replace("not shown", "")


class Systemctl:
    """Records the calls of systemctl; ``broken`` units do not start."""

    def __init__(self, *broken: str) -> None:
        self.calls: list[str] = []
        self.broken = broken

    def __call__(self, argv: list[str], timeout: float = 0) -> Any:
        self.calls.append(" ".join(argv))
        failed = argv[0] == "systemctl" and any(name in argv for name in self.broken)
        return program.ProgramResult(
            code=1 if failed else 0, stdout="its last lines" if argv[0] == "journalctl" else "", stderr="no"
        )


def desired_part(
    mine: dict[str, str], path: str = "/etc/systemd/system/c.service", content: str = "x"
) -> dict[str, Any]:
    return {
        "name": "p",
        "files": [{"path": path, "content": content, "mode": "0600", **mine}],
        "units": [{"name": "c.service", "enabled": True, "state": "started", "restart_on": [path]}],
    }


def test_files_are_written_before_units_are_reloaded_and_started(tmp_path: Path, mine: dict[str, str]) -> None:
    systemctl = Systemctl()
    converge.apply(converge.plan([desired_part(mine)], observed()), str(tmp_path), systemctl)
    path = tmp_path / "etc/systemd/system/c.service"
    assert (path.read_text(), oct(path.stat().st_mode & 0o777)) == ("x", "0o600")
    assert systemctl.calls == [
        "systemctl daemon-reload",
        "systemctl enable -- c.service",
        "systemctl start -- c.service",
    ]
    assert observe.managed(str(tmp_path))["p"]["files"] == ["/etc/systemd/system/c.service"]
    assert sorted(os.listdir(path.parent)) == ["c.service"]


def test_the_plan_after_applying_is_empty(tmp_path: Path, mine: dict[str, str]) -> None:
    part = {"name": "p", "files": [{"path": "/etc/a", "content": "x", **mine}]}
    for expected in (True, False):
        looked = observe.observe(converge.to_observe([part], observe.managed(str(tmp_path))), str(tmp_path))
        todo = converge.plan([part], looked)
        assert todo.changes() is expected
        converge.apply(todo, str(tmp_path), Systemctl())


def test_a_failed_unit_is_reported_with_its_log(tmp_path: Path, mine: dict[str, str]) -> None:
    with pytest.raises(converge.UnitFailed, match=r"(?s)systemctl start c.service.*its last lines"):
        converge.apply(converge.plan([desired_part(mine)], observed()), str(tmp_path), Systemctl("start"))


def test_a_killed_run_loses_track_of_no_file(tmp_path: Path, mine: dict[str, str]) -> None:
    """The first run wrote /etc/old. The second one, for /etc/new instead, is killed before it removes anything."""
    old = {"name": "p", "files": [{"path": "/etc/old", "content": "x", **mine}]}
    new = {"name": "p", "files": [{"path": "/etc/new", "content": "x", **mine}]}
    root = str(tmp_path)

    def todo(part: dict[str, Any]) -> converge.Plan:
        return converge.plan([part], observe.observe(converge.to_observe([part], observe.managed(root)), root))

    converge.apply(todo(old), root, Systemctl())
    second = todo(new)
    assert second.remove == ["/etc/old"]
    # A folder in the file's place: the writing fails right after the record.
    (tmp_path / "etc/.new.devenv").mkdir()
    with pytest.raises(OSError, match=r"\.new\.devenv"):
        converge.apply(second, root, Systemctl())
    assert observe.managed(root)["p"]["files"] == ["/etc/new", "/etc/old"]
    (tmp_path / "etc/.new.devenv").rmdir()
    converge.apply(todo(new), root, Systemctl())
    assert sorted(os.listdir(tmp_path / "etc")) == ["new"]
    assert observe.managed(root)["p"]["files"] == ["/etc/new"]


def test_sysctls_are_written(tmp_path: Path) -> None:
    path = tmp_path / "proc/sys/net/x"
    path.parent.mkdir(parents=True)
    path.write_text("0\n")
    converge.apply(converge.plan([{"name": "p", "sysctls": {"net.x": 1}}], observed()), str(tmp_path), Systemctl())
    assert path.read_text() == "1\n"
