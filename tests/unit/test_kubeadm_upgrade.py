"""Decisions of a node's upgrade; the nightly test upgrades real nodes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.module_utils.kubeadm import static_pods, upgrade, upgrade_stage
from ansible_collections.devenv.lab.plugins.module_utils.node import kubernetes
from ansible_collections.devenv.lab.plugins.module_utils.node.machine import StepFailed
from ansible_collections.devenv.lab.plugins.module_utils.node.program import ProgramResult
from support.node import Node, write

OLD, NEW = "1.35.4", "1.36.3"


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Upgraded(Node):
    """The only node of a cluster, a control plane node; ``ran`` lists the commands that it ran."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.ran: list[str] = []
        self.texts: dict[str, str] = {}
        self.patches: list[str] = []
        self.code = 0
        self.images = ""
        self.object = api_node(OLD)
        self.pods = [pod(name) for name in static_pods.COMPONENTS]
        for path in kubernetes.CONTROL_PLANE_FILES:
            write(self / path)
        self.mark("control_plane")
        self.advertise("10.0.0.10")
        self.ready = lambda *_, **__: True
        self.run = self.answer

    def mark(self, role: str, **more: str) -> None:
        kubernetes.mark(role, {"node": "m", **more}, self.root)

    def marker(self) -> dict[str, Any]:
        return dict(kubernetes.state(self.root)["marker"])

    def answer(self, argv: list[str], **_: Any) -> ProgramResult:
        if argv[0] == "kubeadm":
            config = Path(argv[-1])
            self.ran.append(" ".join(argv[1:-1]))
            self.texts[argv[2]] = config.read_text()
            self.patches = sorted(path.name for path in (config.parent / "patches").iterdir())
            return ProgramResult(self.code, "[ERROR CreateJob]: no Job ran\n" if self.code else "SUCCESS\n")
        if argv[0] == "ctr" and "list" in argv:
            return ProgramResult(0, self.images)
        if "get" in argv:
            shown: dict[str, Any] = self.object if "node" in argv else {"items": self.pods}
            if "nodes" in argv:
                shown = {"items": [self.object]}
            if "deployment" in argv:
                shown = {"spec": {"replicas": 2}, "status": {"readyReplicas": 2}}
            return ProgramResult(0, json.dumps(shown))
        if argv[0] in ("kubectl", "ctr", "systemctl"):
            self.ran.append(" ".join(word for word in argv if not word.startswith(("--kubeconfig", "--request", "/"))))
        return ProgramResult(0)


@pytest.fixture
def node(tmp_path: Path) -> Upgraded:
    """A node with an older kubelet and delivered new binaries."""
    node = Upgraded(tmp_path / "node")
    write(node / upgrade.PROGRAMS / "kubelet", "old kubelet")
    write(node / upgrade.PROGRAMS / "ctr", "the same")
    for name in ("kubelet", "kubeadm"):
        write(node / upgrade.STAGE / name, f"new {name}")
    return node


# --- binaries --------------------------------------------------------------------------------------------------------


def test_a_binary_is_replaced_once(node: Upgraded) -> None:
    folder = node / upgrade.PROGRAMS
    running = (folder / "kubelet").open()
    desired = {"kubelet": sha("new kubelet"), "ctr": sha("the same")}
    assert upgrade.install(node, desired) == ["kubelet"]
    assert (folder / "kubelet").read_text() == "new kubelet"
    assert os.access(folder / "kubelet", os.X_OK)
    # A process that runs the old file keeps it: the file was replaced, not overwritten.
    assert running.read() == "old kubelet"
    assert sorted(path.name for path in folder.iterdir()) == ["ctr", "kubelet"]
    assert upgrade.install(node, desired) == []


@pytest.mark.parametrize("delivered", ["truncated", None])
def test_an_incomplete_binary_is_not_installed(node: Upgraded, delivered: str | None) -> None:
    (node / upgrade.STAGE / "kubelet").unlink()
    if delivered is not None:
        write(node / upgrade.STAGE / "kubelet", delivered)
    with pytest.raises(StepFailed, match="kubelet") as failed:
        upgrade.install(node, {"kubelet": sha("new kubelet")})
    assert failed.value.reason == "upgrade_delivery"
    assert (node / upgrade.PROGRAMS / "kubelet").read_text() == "old kubelet"


def test_missing_binaries_are_reported(node: Upgraded) -> None:
    folder, stage = node.path(upgrade.PROGRAMS), node.path(upgrade.STAGE)
    desired = {"kubelet": sha("new kubelet"), "ctr": sha("the same"), "kubectl": sha("x")}
    assert upgrade_stage.missing(desired, [folder, stage]) == ["kubectl"]
    assert upgrade_stage.missing(desired, [folder]) == ["kubelet", "kubectl"]


def test_a_process_whose_file_was_replaced_is_outdated(tmp_path: Path) -> None:
    program = tmp_path / "sleeper"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    child = subprocess.Popen([str(program), "60"])
    try:
        # The kernel sets its name a moment after Popen returns.
        deadline = time.monotonic() + 10
        while Path(f"/proc/{child.pid}/comm").read_text() != "sleeper\n" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert upgrade.is_outdated("sleeper") is False
        (tmp_path / "new").write_bytes(program.read_bytes())
        os.replace(tmp_path / "new", program)
        assert upgrade.is_outdated("sleeper") is True
    finally:
        child.kill()
        child.wait()
    assert upgrade.is_outdated("sleeper") is False


# --- control plane ---------------------------------------------------------------------------------------------------


def test_manifests_that_a_killed_kubeadm_moved_away_are_restored(node: Upgraded) -> None:
    manifests, backups = node / static_pods.MANIFESTS, node / upgrade.BACKUPS
    write(manifests / "etcd.yaml", "new etcd")
    (manifests / "kube-apiserver.yaml").unlink()
    (manifests / "kube-scheduler.yaml").unlink()
    for stamp in ("2026-01-01-10-00-00", "2026-01-01-11-00-00"):
        for component in ("etcd", "kube-apiserver"):
            write(backups / f"kubeadm-backup-manifests-{stamp}" / f"{component}.yaml", f"{component} of {stamp}")
    assert upgrade.restore_manifests(node) == ["kube-apiserver"]
    assert (manifests / "etcd.yaml").read_text() == "new etcd"
    assert (manifests / "kube-apiserver.yaml").read_text() == "kube-apiserver of 2026-01-01-11-00-00"
    assert (manifests / "kube-apiserver.yaml").stat().st_mode & 0o777 == 0o600
    assert not (manifests / "kube-scheduler.yaml").exists()
    assert upgrade.restore_manifests(node) == []


def params(**more: Any) -> dict[str, Any]:
    return {
        "version": NEW,
        "node": "m",
        "control_plane": True,
        "first": True,
        "config": "the cluster's",
        "upgrade_config": "the upgrade's",
        "patches": {"etcd0+strategic.yaml": "x"},
        "programs": {"kubeadm": sha("new kubeadm"), "kubelet": sha("new kubelet")},
        "timeout": 5,
        **more,
    }


@pytest.mark.parametrize("name", ["control_plane", "control"])
def test_the_first_node_upgrades_the_cluster(node: Upgraded, name: str) -> None:
    assert upgrade.perform(node, name, params())["changed"]
    assert node.ran == ["init phase upload-config kubeadm --config", "upgrade apply --yes --config"]
    assert node.texts == {"phase": "the cluster's", "apply": "the upgrade's"}
    assert node.patches == ["etcd0+strategic.yaml"]
    assert node.marker() == {"role": "control_plane", "node": "m", "version": NEW}
    assert list((node / "run/devenv").iterdir()) == []
    # kubelet is replaced after the drain.
    assert (node / upgrade.PROGRAMS / "kubeadm").read_text() == "new kubeadm"
    assert (node / upgrade.PROGRAMS / "kubelet").read_text() == "old kubelet"


def test_other_nodes_run_upgrade_node(node: Upgraded) -> None:
    upgrade.perform(node, "control_plane", params(first=False))
    assert node.ran == ["upgrade node --config"]
    node.mark("worker")
    node.ready = lambda *_, **__: False
    upgrade.perform(node, "control_plane", params(first=False, control_plane=False))
    assert node.ran == ["upgrade node --config"] * 2


def test_an_unhealthy_control_plane_is_not_changed(node: Upgraded) -> None:
    node.ready = lambda *_, **__: False
    with pytest.raises(StepFailed, match="API server of the node is not ready"):
        upgrade.perform(node, "control_plane", params(timeout=0))
    assert node.ran == []


def test_an_upgraded_node_is_not_upgraded_again(node: Upgraded) -> None:
    node.mark("control_plane", version=NEW)
    assert upgrade.perform(node, "control_plane", params()) == {"changed": False}
    node.mark("control_plane", version=OLD)
    assert upgrade.perform(node, "control_plane", params(), only_check=True) == {"changed": True}
    assert node.ran == []


def test_a_failure_is_reported_and_not_recorded_as_done(node: Upgraded) -> None:
    node.code = 1
    with pytest.raises(StepFailed, match="no Job ran") as failed:
        upgrade.perform(node, "control_plane", params(first=False))
    assert failed.value.reason == "kubernetes_upgrade"
    assert "version" not in node.marker()


@pytest.mark.parametrize("state", ["absent", "worker", "partial"])
def test_an_incomplete_node_is_not_changed(node: Upgraded, state: str) -> None:
    if state == "partial":
        (node / kubernetes.ADMIN).unlink()
    elif state == "worker":
        node.mark("worker")
    else:
        kubernetes.unmark(node.root)
    with pytest.raises(StepFailed) as failed:
        upgrade.perform(node, "control_plane", params())
    assert failed.value.reason == "kubernetes_damaged"
    assert node.ran == []


# --- drain and uncordon ----------------------------------------------------------------------------------------------


def condition(ready: bool) -> list[dict[str, str]]:
    return [{"type": "Ready", "status": "True" if ready else "False"}]


def api_node(version: str, ready: bool = True, cordoned: bool = False, marked: bool = False) -> dict[str, Any]:
    return {
        "metadata": {"name": "m", "annotations": {upgrade.MARK: NEW} if marked else {}},
        "spec": {"unschedulable": True} if cordoned else {},
        "status": {"nodeInfo": {"kubeletVersion": f"v{version}"}, "conditions": condition(ready)},
    }


def pod(component: str, version: str = NEW, ready: bool = True) -> dict[str, Any]:
    return {
        "metadata": {"labels": {"component": component}},
        "spec": {"containers": [{"image": f"registry.k8s.io/{component}:v{version}"}]},
        "status": {"conditions": condition(ready)},
    }


DRAINED = "kubectl drain m --ignore-daemonsets --delete-emptydir-data --force --timeout=60s"
STEP = {"version": NEW, "node": "m", "control_plane": True, "timeout": 1, "drain_timeout": 60}


def test_a_node_is_marked_before_it_is_drained(node: Upgraded) -> None:
    assert upgrade.perform(node, "drain", STEP)["changed"]
    assert node.ran == [f"kubectl annotate node m --overwrite {upgrade.MARK}={NEW}", DRAINED]


def test_a_node_that_somebody_else_cordoned_is_not_marked(node: Upgraded) -> None:
    node.object = api_node(OLD, cordoned=True)
    upgrade.perform(node, "drain", STEP)
    assert node.ran == [DRAINED]
    node.object, node.ran = api_node(NEW, cordoned=True), []
    assert upgrade.perform(node, "uncordon", STEP) == {"changed": False}
    assert node.ran == []


def test_a_node_with_the_new_kubelet_is_not_drained_again(node: Upgraded) -> None:
    node.object = api_node(NEW)
    assert upgrade.perform(node, "drain", STEP) == {"changed": False}
    node.object = api_node(OLD)
    assert upgrade.perform(node, "drain", STEP, only_check=True) == {"changed": True}
    assert node.ran == []


def test_a_node_that_the_upgrade_cordoned_is_uncordoned_and_then_unmarked(node: Upgraded) -> None:
    node.object = api_node(NEW, cordoned=True, marked=True)
    assert upgrade.perform(node, "uncordon", STEP, only_check=True) == {"changed": True}
    assert node.ran == []
    assert upgrade.perform(node, "uncordon", STEP)["changed"]
    assert node.ran == ["kubectl uncordon m", f"kubectl annotate node m --overwrite {upgrade.MARK}-"]


@pytest.mark.parametrize(
    ("shown", "pods", "message"),
    [
        (api_node(OLD), None, "its kubelet has 1.35.4"),
        (api_node(NEW, ready=False), None, "it is not Ready"),
        (api_node(NEW), [], "etcd is not Ready"),
        (api_node(NEW), [pod("kube-scheduler", ready=False)], "kube-scheduler is not Ready"),
        (api_node(NEW), [pod("kube-apiserver", OLD)], "kube-apiserver is registry.k8s.io/kube-apiserver:v1.35.4"),
    ],
)
def test_a_node_that_is_not_ready_stays_cordoned(
    node: Upgraded, shown: dict[str, Any], pods: list[dict[str, Any]] | None, message: str
) -> None:
    node.object = {**shown, "metadata": {"annotations": {upgrade.MARK: NEW}}}
    node.pods = node.pods if pods is None else pods
    with pytest.raises(StepFailed, match=message) as failed:
        upgrade.perform(node, "uncordon", STEP)
    assert failed.value.reason == "kubernetes_upgrade"
    assert node.ran == []


def test_a_worker_has_no_static_pods() -> None:
    assert upgrade.problems(api_node(NEW), [], {**STEP, "control_plane": False}) == []


# --- binaries, cleanup -----------------------------------------------------------------------------------------------


def test_binaries_are_replaced_and_kubelet_restarted(node: Upgraded) -> None:
    desired = params(programs={"kubelet": sha("new kubelet")}, restart=True)
    assert upgrade.perform(node, "binaries", desired, only_check=True) == {"changed": True}
    result = upgrade.perform(node, "binaries", desired)
    assert result == {"changed": True, "installed": ["kubelet"], "restarted": ["kubelet.service"]}
    assert node.ran == ["systemctl restart kubelet.service"]
    assert upgrade.perform(node, "binaries", {**desired, "restart": False})["changed"] is False


def test_a_unit_that_does_not_start_is_reported_with_the_last_lines_of_kubelet(node: Upgraded) -> None:
    answers = {"systemctl": ProgramResult(1, "", "Job failed.\n"), "journalctl": ProgramResult(0, "no swap\n")}
    node.run = lambda argv, **more: answers.get(argv[0]) or node.answer(argv, **more)
    with pytest.raises(StepFailed, match=r"kubelet.service does not start: Job failed\.") as raised:
        upgrade.perform(node, "binaries", params(programs={"kubelet": sha("new kubelet")}, restart=True))
    assert raised.value.result()["output"] == ["kubelet: no swap"]


def test_cleanup_removes_only_files_of_the_upgrade(node: Upgraded) -> None:
    backups = node / upgrade.BACKUPS
    for name in ("kubeadm-backup-etcd-1", "kubeadm-upgraded-manifests2", "mine"):
        (backups / name).mkdir(parents=True)
    node.images = "registry.k8s.io/old:1\nregistry.k8s.io/new:1\n"
    old = {"images": ["registry.k8s.io/old:1", "registry.k8s.io/gone:1"]}
    assert upgrade.perform(node, "cleanup", old, only_check=True)["changed"]
    assert node.exists(upgrade.STAGE)
    upgrade.perform(node, "cleanup", old)
    assert node.ran == ["ctr --namespace k8s.io images remove registry.k8s.io/old:1"]
    assert not node.exists(upgrade.STAGE)
    assert [path.name for path in backups.iterdir()] == ["mine"]
