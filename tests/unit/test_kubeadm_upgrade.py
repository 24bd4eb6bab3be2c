"""The steps of a node's upgrade: what is decided; the nightly test has the rest on real nodes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import cluster as kubeadm
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import life as kubeadm_life
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import state as kubernetes_state
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import upgrade as kubeadm_upgrade
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import upgrade_stage
from ansible_collections.devenv.lab.plugins.module_utils.node import observe

OLD, NEW = "1.35.4", "1.36.3"


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# --- programs --------------------------------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """Where programs stand, and where new ones were laid down."""
    own, stage = tmp_path / "bin", tmp_path / "stage"
    own.mkdir()
    stage.mkdir()
    (own / "kubelet").write_text("old kubelet")
    (own / "ctr").write_text("the same")
    (stage / "kubelet").write_text("new kubelet")
    return own, stage


def test_programs_are_replaced_once(places: tuple[Path, Path]) -> None:
    own, stage = places
    running = (own / "kubelet").open()
    wanted = {"kubelet": sha("new kubelet"), "ctr": sha("the same")}
    assert kubeadm_upgrade.install(wanted, str(own), str(stage)) == ["kubelet"]
    assert (own / "kubelet").read_text() == "new kubelet"
    assert os.access(own / "kubelet", os.X_OK)
    # Whoever runs the old one keeps it: the file was replaced, not written over.
    assert running.read() == "old kubelet"
    assert sorted(path.name for path in own.iterdir()) == ["ctr", "kubelet"]
    assert kubeadm_upgrade.install(wanted, str(own), str(stage)) == []


@pytest.mark.parametrize("came", ["cut off", None])
def test_a_program_that_did_not_come_whole_is_not_installed(places: tuple[Path, Path], came: str | None) -> None:
    own, stage = places
    (stage / "kubelet").unlink()
    if came is not None:
        (stage / "kubelet").write_text(came)
    with pytest.raises(kubeadm.Failed, match="kubelet") as failed:
        kubeadm_upgrade.install({"kubelet": sha("new kubelet")}, str(own), str(stage))
    assert failed.value.reason == "upgrade_delivery"
    assert (own / "kubelet").read_text() == "old kubelet"


def test_what_a_node_lacks(places: tuple[Path, Path]) -> None:
    own, stage = map(str, places)
    wanted = {"kubelet": sha("new kubelet"), "ctr": sha("the same"), "kubectl": sha("x")}
    assert upgrade_stage.lacks(wanted, [own, stage]) == ["kubectl"]
    assert upgrade_stage.lacks(wanted, [own]) == ["kubelet", "kubectl"]


def test_a_process_whose_file_was_replaced_is_old(tmp_path: Path) -> None:
    program = tmp_path / "sleeper"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    child = subprocess.Popen([str(program), "60"])
    try:
        # The kernel gives it its name a moment after Popen knows that it runs.
        deadline = time.monotonic() + 10
        while Path(f"/proc/{child.pid}/comm").read_text() != "sleeper\n" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert kubeadm_upgrade.is_old("sleeper") is False
        (tmp_path / "new").write_bytes(program.read_bytes())
        os.replace(tmp_path / "new", program)
        assert kubeadm_upgrade.is_old("sleeper") is True
    finally:
        child.kill()
        child.wait()
    assert kubeadm_upgrade.is_old("sleeper") is False


# --- control ---------------------------------------------------------------------------------------------------------


def test_manifests_that_a_killed_kubeadm_had_taken_away_come_back(tmp_path: Path) -> None:
    manifests, backups = tmp_path / "manifests", tmp_path / "tmp"
    manifests.mkdir()
    (manifests / "etcd.yaml").write_text("new etcd")
    for stamp in ("2026-01-01-10-00-00", "2026-01-01-11-00-00"):
        kept = backups / f"kubeadm-backup-manifests-{stamp}"
        kept.mkdir(parents=True)
        for component in ("etcd", "kube-apiserver"):
            (kept / f"{component}.yaml").write_text(f"{component} of {stamp}")
    assert kubeadm_upgrade.restore_manifests(str(manifests), str(backups)) == ["kube-apiserver"]
    assert (manifests / "etcd.yaml").read_text() == "new etcd"
    assert (manifests / "kube-apiserver.yaml").read_text() == "kube-apiserver of 2026-01-01-11-00-00"
    assert not (manifests / "kube-scheduler.yaml").exists()
    assert kubeadm_upgrade.restore_manifests(str(manifests), str(backups)) == []


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """A whole control plane node, what ran on it and what was noted."""
    seen: dict[str, Any] = {
        "state": {"state": "control_plane", "marker": {"role": "control_plane", "node": "m"}, "missing": []},
        "ran": [],
        "texts": {},
        "code": 0,
    }
    monkeypatch.setattr(kubeadm, "LOGS", str(tmp_path / "log"))
    monkeypatch.setattr(kubeadm, "RUNTIME", str(tmp_path / "run"))
    monkeypatch.setattr(kubeadm._Files.__init__, "__defaults__", (str(tmp_path / "run"),))
    monkeypatch.setattr(kubernetes_state, "state", lambda: seen["state"])
    monkeypatch.setattr(kubernetes_state, "mark", lambda role, details: seen.update(marked=(role, details)))
    monkeypatch.setattr(kubeadm_upgrade, "install", lambda wanted: seen["ran"].append(sorted(wanted)) or [])
    monkeypatch.setattr(kubeadm_upgrade, "wait_for_control_plane", lambda timeout: seen["ran"].append("well"))
    monkeypatch.setattr(kubeadm, "kubelet_tail", list)

    def run(argv: list[str], log: str = "", timeout: float = 0) -> kubeadm.Result:
        config = Path(argv[argv.index("--config") + 1])
        seen["ran"].append([word for word in argv[1:] if word != str(config)])
        seen["texts"][argv[2]] = config.read_text()
        seen["patches"] = sorted(path.name for path in (config.parent / "patches").iterdir())
        return kubeadm.Result(seen["code"], ["[ERROR CreateJob]: no Job ran"] if seen["code"] else ["SUCCESS"])

    monkeypatch.setattr(kubeadm, "run", run)
    return seen


def params(**more: Any) -> dict[str, Any]:
    return {
        "version": NEW,
        "node": "m",
        "control_plane": True,
        "first": True,
        "config": "the cluster's",
        "upgrade_config": "the upgrade's",
        "patches": {"etcd0+strategic.yaml": "x"},
        "programs": {"kubeadm": "1", "kubelet": "2"},
        "timeout": 5,
        **more,
    }


def test_the_first_node_upgrades_the_cluster(node: dict[str, Any], tmp_path: Path) -> None:
    assert kubeadm_upgrade.perform("control", params())["changed"]
    assert node["ran"] == [
        ["kubeadm"],  # before kubelet, which is replaced once the node is drained
        "well",
        ["init", "phase", "upload-config", "kubeadm", "--config"],
        ["upgrade", "apply", "--yes", "--config"],
    ]
    assert node["texts"] == {"phase": "the cluster's", "apply": "the upgrade's"}
    assert node["patches"] == ["etcd0+strategic.yaml"]
    assert node["marked"] == ("control_plane", {"role": "control_plane", "node": "m", "version": NEW})
    assert list((tmp_path / "run").iterdir()) == []


def test_other_nodes_follow(node: dict[str, Any]) -> None:
    kubeadm_upgrade.perform("control", params(first=False))
    assert node["ran"][-1] == ["upgrade", "node", "--config"]
    assert "phase" not in node["texts"]
    node["state"] = {"state": "worker", "marker": {"role": "worker"}, "missing": []}
    node["ran"].clear()
    kubeadm_upgrade.perform("control", params(first=False, control_plane=False))
    assert node["ran"] == [["kubeadm"], ["upgrade", "node", "--config"]]


def test_a_node_that_has_been_through_it_is_left_alone(node: dict[str, Any]) -> None:
    node["state"]["marker"]["version"] = NEW
    assert kubeadm_upgrade.perform("control", params()) == {"changed": False}
    node["state"]["marker"]["version"] = OLD
    assert kubeadm_upgrade.perform("control", params(), only_check=True) == {"changed": True}
    assert node["ran"] == []


def test_a_failure_is_told_and_nothing_noted(node: dict[str, Any]) -> None:
    node["code"] = 1
    with pytest.raises(kubeadm.Failed, match="no Job ran") as failed:
        kubeadm_upgrade.perform("control", params(first=False))
    assert failed.value.reason == "kubernetes_upgrade"
    assert "marked" not in node


@pytest.mark.parametrize(
    "state",
    [
        {"state": "absent", "marker": {}, "missing": []},
        {"state": "worker", "marker": {"role": "worker"}, "missing": []},
        {"state": "partial", "marker": {"role": "control_plane"}, "missing": ["/etc/kubernetes/admin.conf"]},
    ],
)
def test_a_node_that_is_not_whole_is_not_touched(node: dict[str, Any], state: dict[str, Any]) -> None:
    node["state"] = state
    with pytest.raises(kubeadm.Failed) as failed:
        kubeadm_upgrade.perform("control", params())
    assert failed.value.reason == "kubernetes_damaged"
    assert node["ran"] == []


# --- drain and back --------------------------------------------------------------------------------------------------


def answer(code: int = 0, out: str = "", err: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess([], code, out, err)


def condition(ready: bool) -> list[dict[str, str]]:
    return [{"type": "Ready", "status": "True" if ready else "False"}]


def api_node(version: str, ready: bool = True, closed: bool = False, marked: bool = False) -> dict[str, Any]:
    return {
        "metadata": {"name": "m", "annotations": {kubeadm_upgrade.MARK: NEW} if marked else {}},
        "spec": {"unschedulable": True} if closed else {},
        "status": {"nodeInfo": {"kubeletVersion": f"v{version}"}, "conditions": condition(ready)},
    }


def pod(component: str, version: str = NEW, ready: bool = True) -> dict[str, Any]:
    return {
        "metadata": {"labels": {"component": component}},
        "spec": {"containers": [{"image": f"registry.k8s.io/{component}:v{version}"}]},
        "status": {"conditions": condition(ready)},
    }


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """An API with one node; words of kubectl that change something are kept."""
    seen: dict[str, Any] = {"node": api_node(OLD), "pods": [pod(name) for name in kubeadm_life.COMPONENTS], "did": []}

    def kubectl(*words: str, timeout: float = 0) -> subprocess.CompletedProcess[str]:
        if "get" in words:
            found = seen["node"] if "node" in words else {"items": seen["pods"]}
            if "deployment" in words:
                found = {"spec": {"replicas": 2}, "status": {"readyReplicas": 2}}
            return answer(out=json.dumps(found))
        seen["did"].append(" ".join(words))
        return answer()

    monkeypatch.setattr(kubeadm, "_kubectl", kubectl)
    monkeypatch.setattr(kubeadm, "wait_for_api", lambda timeout: None)
    monkeypatch.setattr(kubeadm, "drain", lambda nodes, timeout: seen["did"].append(f"drain {nodes} {timeout}"))
    return seen


STEP = {"version": NEW, "node": "m", "control_plane": True, "timeout": 1, "drain_timeout": 60}


def test_a_node_is_marked_before_it_is_closed(api: dict[str, Any]) -> None:
    assert kubeadm_upgrade.perform("drain", STEP)["changed"]
    assert api["did"] == [f"annotate node m --overwrite {kubeadm_upgrade.MARK}={NEW}", "drain ['m'] 60"]


def test_a_node_that_somebody_else_closed_is_not_marked(api: dict[str, Any]) -> None:
    api["node"] = api_node(OLD, closed=True)
    kubeadm_upgrade.perform("drain", STEP)
    assert api["did"] == ["drain ['m'] 60"]
    api["node"], api["did"] = api_node(NEW, closed=True), []
    assert kubeadm_upgrade.perform("back", STEP) == {"changed": False}
    assert api["did"] == []


def test_a_node_with_the_new_kubelet_is_not_drained_again(api: dict[str, Any]) -> None:
    api["node"] = api_node(NEW)
    assert kubeadm_upgrade.perform("drain", STEP) == {"changed": False}
    api["node"] = api_node(OLD)
    assert kubeadm_upgrade.perform("drain", STEP, only_check=True) == {"changed": True}
    assert api["did"] == []


def test_a_node_that_the_upgrade_closed_is_opened_and_the_mark_goes_last(api: dict[str, Any]) -> None:
    api["node"] = api_node(NEW, closed=True, marked=True)
    assert kubeadm_upgrade.perform("back", STEP, only_check=True) == {"changed": True}
    assert api["did"] == []
    assert kubeadm_upgrade.perform("back", STEP)["changed"]
    assert api["did"] == ["uncordon m", f"annotate node m --overwrite {kubeadm_upgrade.MARK}-"]


@pytest.mark.parametrize(
    ("node", "pods", "says"),
    [
        (api_node(OLD), None, "its kubelet has 1.35.4"),
        (api_node(NEW, ready=False), None, "it is not Ready"),
        (api_node(NEW), [], "etcd is not Ready"),
        (api_node(NEW), [pod("kube-scheduler", ready=False)], "kube-scheduler is not Ready"),
        (api_node(NEW), [pod("kube-apiserver", OLD)], "kube-apiserver is registry.k8s.io/kube-apiserver:v1.35.4"),
    ],
)
def test_a_node_that_is_not_whole_again_stays_closed(
    api: dict[str, Any], node: dict[str, Any], pods: list[dict[str, Any]] | None, says: str
) -> None:
    api["node"] = {**node, "metadata": {"annotations": {kubeadm_upgrade.MARK: NEW}}}
    api["pods"] = api["pods"] if pods is None else pods
    with pytest.raises(kubeadm.Failed, match=says) as failed:
        kubeadm_upgrade.perform("back", STEP)
    assert failed.value.reason == "kubernetes_upgrade"
    assert api["did"] == []


def test_a_worker_has_no_static_pods() -> None:
    assert kubeadm_upgrade.lacking(api_node(NEW), [], {**STEP, "control_plane": False}) == []


# --- tidy ------------------------------------------------------------------------------------------------------------


def test_what_is_left_goes_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, backups = tmp_path / "stage", tmp_path / "tmp"
    for folder in (stage, backups / "kubeadm-backup-etcd-1", backups / "kubeadm-upgraded-manifests2", backups / "mine"):
        folder.mkdir(parents=True)
    monkeypatch.setattr(kubeadm_upgrade, "STAGE", str(stage))
    monkeypatch.setattr(kubeadm_upgrade, "BACKUPS", str(backups))
    asked: list[list[str]] = []

    def run(argv: list[str], timeout: float = 0) -> subprocess.CompletedProcess[str]:
        asked.append(argv[3:])
        return answer(out="registry.k8s.io/old:1\nregistry.k8s.io/new:1\n")

    monkeypatch.setattr(observe, "run", run)
    wanted = {"images": ["registry.k8s.io/old:1", "registry.k8s.io/gone:1"]}
    assert kubeadm_upgrade.perform("tidy", wanted, only_check=True)["changed"]
    assert stage.exists()
    kubeadm_upgrade.perform("tidy", wanted)
    assert asked[-1] == ["images", "remove", "registry.k8s.io/old:1"]
    assert not stage.exists()
    assert [path.name for path in backups.iterdir()] == ["mine"]
