"""Drift between two runs: the next `up` detects and repairs each change."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from support.commands import Typed
from support.seen import inside

pytestmark = pytest.mark.cluster

LABEL = "devenv.lab/e2e"
SAME = "nothing has changed since the last up"


@dataclass(frozen=True)
class Lab:
    """The shared cluster: master-0 with the storage add-on, and worker-0 with a label."""

    user: Typed
    name: str
    profile: Path

    def node(self, *argv: str) -> str:
        """Return stdout of a program on worker-0."""
        return inside(f"{self.name}-worker-0", *argv)

    def kubectl(self, *words: str) -> str:
        return self.user.kubectl(self.name, *words).stdout

    def nft(self, *words: str) -> str:
        """Return stdout of nft on this host, for the table that forwards the nodes' traffic."""
        argv = ["nft", *words, "inet", f"devenv-{self.name}"]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    def runs(self) -> list[str]:
        """Return the run folders: one for each run that began a stage."""
        return sorted(entry.name for entry in (self.user.home / "environments" / self.name / "runs").iterdir())

    def managed_file(self) -> str:
        """Return the path of a file on worker-0 that devenv manages."""
        parts = json.loads(self.node("cat", "/var/lib/devenv/managed.json"))["parts"]
        return str(sorted(path for part in parts.values() for path in part.get("files", []))[0])


@pytest.fixture(scope="module")
def lab(user: Typed, new_name: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    profile = tmp_path_factory.mktemp("profile") / "lab.yml"
    node_changes = {"nodes": {"worker-0": {"labels": {LABEL: "a"}}}, "storage": {"enabled": True}}
    profile.write_text(yaml.safe_dump({"extends": "aio", **node_changes}))
    created = Lab(user, new_name("unchanged"), profile)
    user.devenv("up", "--profile", str(profile), "--name", created.name)
    yield created
    user.devenv("down", "--name", created.name)


def content(lab: Lab) -> str:
    """Return digest, mode and owner of the managed file."""
    path = lab.managed_file()
    return lab.node("sha256sum", path) + lab.node("stat", "--format=%a %U %G", path)


def unit(name: str) -> Callable[[Lab], str]:
    return lambda lab: lab.node(
        "systemctl", "show", "--value", "--property=ActiveState", "--property=UnitFileState", name
    )


def labels(lab: Lab) -> str:
    """Return the node's label from the profile."""
    node = json.loads(lab.kubectl("get", "node", "worker-0", "-o", "json"))
    return str(node["metadata"]["labels"].get(LABEL, ""))


def node_objects(lab: Lab) -> str:
    """Return labels, taints and pod ranges of all nodes."""
    items = json.loads(lab.kubectl("get", "nodes", "-o", "json"))["items"]
    return json.dumps([[item["metadata"]["labels"], item["spec"]] for item in items], sort_keys=True)


def storage_class(lab: Lab) -> str:
    """Return the StorageClass of the add-on, without what the API server adds."""
    items = json.loads(lab.kubectl("get", "storageclasses", "-o", "json"))["items"]
    return json.dumps([[item["metadata"]["name"], item["provisioner"], item.get("reclaimPolicy")] for item in items])


def deployment(lab: Lab) -> str:
    """Return the desired replicas of the deployments of the add-ons."""
    items = json.loads(lab.kubectl("get", "deployments", "-A", "-l", "devenv.lab/set=addons", "-o", "json"))["items"]
    return json.dumps([[item["metadata"]["name"], item["spec"]["replicas"]] for item in items])


def scale_add_on(lab: Lab) -> None:
    (item,) = json.loads(lab.kubectl("get", "deployments", "-A", "-l", "devenv.lab/set=addons", "-o", "json"))["items"]
    where = ("-n", item["metadata"]["namespace"])
    lab.kubectl(*where, "scale", f"deployment/{item['metadata']['name']}", "--replicas=0")


def container(lab: Lab) -> str:
    shown = subprocess.run(
        ["podman", "inspect", "--format={{.State.Status}}", f"{lab.name}-worker-0"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return shown.stdout.strip()


def stop_container(lab: Lab) -> None:
    subprocess.run(["podman", "stop", f"{lab.name}-worker-0"], capture_output=True, check=True)


# A change, and a query whose output is the same as before once the change is repaired.
CHANGES: dict[str, tuple[Callable[[Lab], object], Callable[[Lab], str]]] = {
    "label removed": (lambda lab: lab.kubectl("label", "node", "worker-0", f"{LABEL}-"), labels),
    "label changed": (lambda lab: lab.kubectl("label", "--overwrite", "node", "worker-0", f"{LABEL}=b"), labels),
    "file changed": (lambda lab: lab.node("sh", "-c", f"echo '# another' >> {lab.managed_file()}"), content),
    "mode of a file": (lambda lab: lab.node("chmod", "777", lab.managed_file()), content),
    "file removed": (lambda lab: lab.node("rm", lab.managed_file()), content),
    "nft rules flushed": (lambda lab: lab.nft("flush", "table"), lambda lab: lab.nft("list", "table")),
    "nft table removed": (lambda lab: lab.nft("delete", "table"), lambda lab: lab.nft("list", "table")),
    "nft table of a node removed": (
        lambda lab: lab.node("nft", "delete", "table", "inet", "devenv_pods"),
        lambda lab: lab.node("nft", "list", "table", "inet", "devenv_pods"),
    ),
    "nft rules of a node flushed": (
        lambda lab: lab.node("nft", "flush", "table", "inet", "devenv_pods"),
        lambda lab: lab.node("nft", "list", "table", "inet", "devenv_pods"),
    ),
    "kubelet stopped": (lambda lab: lab.node("systemctl", "stop", "kubelet"), unit("kubelet")),
    "kubelet disabled": (lambda lab: lab.node("systemctl", "disable", "kubelet"), unit("kubelet")),
    "containerd stopped": (lambda lab: lab.node("systemctl", "stop", "containerd"), unit("containerd")),
    "container stopped": (stop_container, container),
    "add-on object deleted": (lambda lab: lab.kubectl("delete", "storageclass", "local-path"), storage_class),
    "add-on object edited": (scale_add_on, deployment),
    "Node object of a worker deleted": (lambda lab: lab.kubectl("delete", "node", "worker-0"), node_objects),
    "Node object of a control plane node deleted": (
        lambda lab: lab.kubectl("delete", "node", "master-0"),
        node_objects,
    ),
}


# One case of a node, of the provider and of a cluster runs on every change; the others run nightly.
ALWAYS = (
    "file changed",
    "container stopped",
    "add-on object edited",
)


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if case in ALWAYS else pytest.mark.nightly) for case in CHANGES]
)
def test_drift_is_repaired(lab: Lab, case: str) -> None:
    change, query = CHANGES[case]
    # Nothing of the previous case may remain, not only of its query.
    converge(lab)
    good, runs = query(lab), lab.runs()
    change(lab)
    assert drifted(lab, query, good), "the change has no effect"
    lines = lab.user.objects("up", "--name", lab.name)
    assert lines[-1]["exit"] == 0
    assert [line["stage"] for line in lines if line["type"] == "stage" and line["state"] == "end"], "no stage ran"
    # Not by number: only the last ten run folders stay.
    assert set(lab.runs()) - set(runs)
    assert query(lab) == good
    lab.kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=60s")


def converge(lab: Lab) -> None:
    """Run `up` until it is a no-op. A repaired node may report its new state some seconds after the run."""
    for _ in range(3):
        if SAME in lab.user.devenv("up", "--name", lab.name).stderr:
            return
    raise AssertionError("up is still not a no-op after three runs")


def drifted(lab: Lab, query: Callable[[Lab], str], good: str) -> bool:
    try:
        return query(lab) != good
    except (subprocess.CalledProcessError, AssertionError):
        return True  # what it queries is gone


def test_a_no_op_run_of_plain_ansible_ends_early(lab: Lab) -> None:
    words = ("cluster", "-e", f"profile={lab.profile}", "-e", f"devenv_name={lab.name}")
    converge(lab)
    runs, began = lab.runs(), time.monotonic()
    done = lab.user.playbook(*words)
    took = time.monotonic() - began
    assert SAME in done.stdout
    assert "Begin the stage" not in done.stdout
    assert "changed=0" in done.stdout
    assert lab.runs() == runs, "a stage ran"
    began = time.monotonic()
    full = lab.user.playbook(*words, "-e", "devenv_full=true")
    took_full = time.monotonic() - began
    assert SAME not in full.stdout
    assert "Begin the stage" in full.stdout
    assert took < took_full / 2, f"{took:.1f} s for nothing to do, {took_full:.1f} s for all stages"
    # The full run recorded the state, also for the command.
    assert SAME in lab.user.devenv("up", "--name", lab.name).stderr


@pytest.mark.parametrize(
    "options",
    [
        ("--tags", "labels"),
        pytest.param(("--limit", "master-0,worker-0,localhost"), marks=pytest.mark.nightly),
        pytest.param(("--check",), marks=pytest.mark.nightly),
        pytest.param(("-e", "node_labels_timeout=60"), marks=pytest.mark.nightly),
    ],
)
def test_a_partial_run_runs_the_stages_and_records_nothing(lab: Lab, options: tuple[str, ...]) -> None:
    converge(lab)
    record = lab.user.home / "environments" / lab.name / "unchanged.json"
    before = record.read_text()
    done = lab.user.playbook("cluster", "-e", f"profile={lab.profile}", "-e", f"devenv_name={lab.name}", *options)
    assert SAME not in done.stdout
    assert record.read_text() == before
