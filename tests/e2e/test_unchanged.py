"""What somebody changes from outside between two runs: the next `up` notices each of it and repairs it."""

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
        """stdout of a program on worker-0."""
        return inside(f"{self.name}-worker-0", *argv)

    def kubectl(self, *words: str) -> str:
        return self.user.kubectl(self.name, *words).stdout

    def nft(self, *words: str) -> str:
        """stdout of nft on this host, of the table that carries the nodes' traffic out."""
        argv = ["nft", *words, "inet", f"devenv-{self.name}"]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    def runs(self) -> list[str]:
        """Names of the run folders: one for each run that began a stage."""
        return sorted(entry.name for entry in (self.user.home / "environments" / self.name / "runs").iterdir())

    def managed_file(self) -> str:
        """A file of worker-0 that devenv writes."""
        parts = json.loads(self.node("cat", "/var/lib/devenv/managed.json"))["parts"]
        return str(sorted(path for part in parts.values() for path in part.get("files", []))[0])


@pytest.fixture(scope="module")
def lab(user: Typed, new_name: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    profile = tmp_path_factory.mktemp("profile") / "lab.yml"
    own = {"nodes": {"worker-0": {"labels": {LABEL: "a"}}}, "storage": {"enabled": True}}
    profile.write_text(yaml.safe_dump({"extends": "aio", **own}))
    made = Lab(user, new_name("unchanged"), profile)
    user.devenv("up", "--profile", str(profile), "--name", made.name)
    yield made
    user.devenv("down", "--name", made.name)


def content(lab: Lab) -> str:
    """Digest, mode and owner of the managed file."""
    path = lab.managed_file()
    return lab.node("sha256sum", path) + lab.node("stat", "--format=%a %U %G", path)


def unit(name: str) -> Callable[[Lab], str]:
    return lambda lab: lab.node(
        "systemctl", "show", "--value", "--property=ActiveState", "--property=UnitFileState", name
    )


def labels(lab: Lab) -> str:
    """The node's label of the profile."""
    node = json.loads(lab.kubectl("get", "node", "worker-0", "-o", "json"))
    return str(node["metadata"]["labels"].get(LABEL, ""))


def storage_class(lab: Lab) -> str:
    """What the add-on's StorageClass says, without what the API server adds."""
    items = json.loads(lab.kubectl("get", "storageclasses", "-o", "json"))["items"]
    return json.dumps([[item["metadata"]["name"], item["provisioner"], item.get("reclaimPolicy")] for item in items])


def deployment(lab: Lab) -> str:
    """Replicas that the deployments of the add-ons want."""
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


# What somebody does, and what shows that it is repaired: the same text as before.
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
}


# One of each kind at every change, its variants in the night.
ALWAYS = (
    "label removed",
    "file changed",
    "nft rules flushed",
    "kubelet stopped",
    "container stopped",
    "add-on object edited",
)


@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=() if what in ALWAYS else pytest.mark.nightly) for what in CHANGES]
)
def test_a_change_from_outside_is_repaired(lab: Lab, what: str) -> None:
    change, seen = CHANGES[what]
    # Not only what is looked at: nothing may be left of the case before.
    converge(lab)
    good, runs = seen(lab), lab.runs()
    change(lab)
    assert gone_wrong(lab, seen, good), "the change is none"
    lines = lab.user.objects("up", "--name", lab.name)
    assert lines[-1]["exit"] == 0
    assert [line["stage"] for line in lines if line["type"] == "stage" and line["state"] == "end"], "no stage ran"
    # Of the run folders the last ten stay.
    assert set(lab.runs()) - set(runs)
    assert seen(lab) == good
    lab.kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=60s")


def converge(lab: Lab) -> None:
    """Run up until it finds nothing to do. What a repaired node reports may follow a run by seconds."""
    for _ in range(3):
        if SAME in lab.user.devenv("up", "--name", lab.name).stderr:
            return
    raise AssertionError("three runs of up, and the environment is still not as the last one left it")


def gone_wrong(lab: Lab, seen: Callable[[Lab], str], good: str) -> bool:
    try:
        return seen(lab) != good
    except (subprocess.CalledProcessError, AssertionError):
        return True  # what it asks is gone


def test_plain_ansible_ends_early_too(lab: Lab) -> None:
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
    # It recorded what it left, for the command as well.
    assert SAME in lab.user.devenv("up", "--name", lab.name).stderr


@pytest.mark.parametrize(
    "options",
    [
        ("--tags", "labels"),
        pytest.param(("--limit", "master-0,worker-0,localhost"), marks=pytest.mark.nightly),
        pytest.param(("--check",), marks=pytest.mark.nightly),
        ("-e", "node_labels_timeout=60"),
    ],
)
def test_a_partial_run_takes_no_short_way_and_records_nothing(lab: Lab, options: tuple[str, ...]) -> None:
    converge(lab)
    record = lab.user.home / "environments" / lab.name / "unchanged.json"
    before = record.read_text()
    done = lab.user.playbook("cluster", "-e", f"profile={lab.profile}", "-e", f"devenv_name={lab.name}", *options)
    assert SAME not in done.stdout
    assert record.read_text() == before
