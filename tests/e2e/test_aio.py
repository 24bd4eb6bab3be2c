"""One node, managed with the command that a user types: created, used, changed, stopped, removed."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from support import machine
from support.commands import Typed
from support.seen import inside, untouched

pytestmark = [pytest.mark.cluster, pytest.mark.alone]

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
VERSIONS = yaml.safe_load((CONFIGS / "versions.yml").read_text())


@pytest.fixture(scope="module")
def before(user: Typed) -> machine.Snapshot:
    """The state of the machine before the first node of this module."""
    return machine.snapshot()


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture(scope="module")
def created(
    user: Typed, before: machine.Snapshot, artifacts: Path, new_name: Callable[[str], str]
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An aio environment and the output of `up --json`."""
    name = new_name("aio")
    lines = user.objects("up", "--profile", "aio", "--name", name, "--artifacts", str(artifacts))
    yield name, lines
    user.devenv("down", "--name", name)


@pytest.fixture
def aio(created: tuple[str, list[dict[str, Any]]]) -> str:
    return created[0]


def test_up_reports_each_stage_and_the_result(created: tuple[str, list[dict[str, Any]]]) -> None:
    lines = created[1]
    ended = [line["stage"] for line in lines if line["type"] == "stage" and line["state"] == "end"]
    assert ended == ["preflight", "bundle", "provision", "prepare", "kubernetes", "labels", "addons", "validate"]
    assert lines[-1]["type"] == "end"
    assert lines[-1]["exit"] == 0
    assert lines[-1]["changed"] > 0
    assert lines[-1]["seconds"] > 0


def test_the_node_is_ready_with_the_profiles_labels(user: Typed, aio: str) -> None:
    (node,) = json.loads(user.kubectl(aio, "get", "nodes", "-o", "json").stdout)["items"]
    assert node["status"]["nodeInfo"]["kubeletVersion"] == f"v{VERSIONS['default']}"
    assert {c["type"]: c["status"] for c in node["status"]["conditions"]}["Ready"] == "True"
    labels = yaml.safe_load(user.devenv("profile", "show", "aio").stdout)["nodes"][0]["labels"]
    assert labels
    assert labels.items() <= node["metadata"]["labels"].items()
    assert node["spec"]["podCIDR"] == "10.244.0.0/24"


def test_a_pod_reaches_the_api_by_its_dns_name(user: Typed, aio: str) -> None:
    image = f"devenv.lab/probe:{VERSIONS['probe']}"
    user.kubectl(aio, "run", "try", f"--image={image}")
    user.kubectl(aio, "wait", "--for=condition=Ready", "pod/try", "--timeout=60s")
    done = user.kubectl(
        aio, "exec", "try", "--", "curl", "--silent", "--show-error", "--max-time", "20",
        "--cacert", "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt",
        "https://kubernetes.default.svc.cluster.local/version",
    )  # fmt: skip
    user.kubectl(aio, "delete", "pod/try", "--now")
    assert f'"gitVersion": "v{VERSIONS["default"]}"' in done.stdout


def test_the_tools_of_an_administrator_are_on_the_node(aio: str) -> None:
    container = f"{aio}-master-0"
    etcd = "ETCDCTL_CACERT=/etc/kubernetes/pki/etcd/ca.crt ETCDCTL_CERT=/etc/kubernetes/pki/etcd/server.crt "
    etcd += "ETCDCTL_KEY=/etc/kubernetes/pki/etcd/server.key etcdctl endpoint health"
    assert "is healthy" in inside(container, "sh", "-c", f"{etcd} 2>&1")
    assert "registry.k8s.io/kube-apiserver" in inside(container, "ctr", "-n", "k8s.io", "images", "ls", "-q")
    assert "Ready" in inside(container, "kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf", "get", "nodes")


def test_a_second_up_is_a_no_op(user: Typed, aio: str) -> None:
    state = untouched(user, aio, ["master-0"])
    runs = sorted((user.home / "environments" / aio / "runs").iterdir())
    done = user.devenv("up", "--name", aio)
    assert done.stdout.splitlines()[-1] == "changed=0"
    assert "nothing has changed since the last up" in done.stderr
    assert sorted((user.home / "environments" / aio / "runs").iterdir()) == runs, "a stage ran"
    assert user.changes("up", "--name", aio, "--full") == []
    assert sorted((user.home / "environments" / aio / "runs").iterdir()) != runs, "no stage ran"
    assert user.objects("up", "--name", aio, "--check")[-1]["changed"] == 0
    assert user.devenv("plan", "--name", aio).stdout.strip().endswith("nothing to do")
    assert untouched(user, aio, ["master-0"]) == state


@pytest.mark.nightly
def test_up_repairs_what_others_changed_since_the_last_run(user: Typed, aio: str) -> None:
    node = f"{aio}-master-0"
    managed = json.loads(inside(node, "cat", "/var/lib/devenv/managed.json"))["parts"]
    name = sorted(path for part in managed.values() for path in part.get("files", []))[0]
    before = inside(node, "cat", name)
    label = next(iter(yaml.safe_load(user.devenv("profile", "show", "aio").stdout)["nodes"][0]["labels"]))
    user.devenv("up", "--name", aio)
    inside(node, "sh", "-c", f"echo '# another' >> {name}")
    user.kubectl(aio, "label", "node", "master-0", f"{label}-")
    last = user.objects("up", "--name", aio)[-1]
    assert last["changed"] == 2
    assert inside(node, "cat", name) == before
    assert f'"{label}"' in user.kubectl(aio, "get", "node", "master-0", "-o", "json").stdout
    assert "nothing has changed" in user.devenv("up", "--name", aio).stderr
    (user.home / "environments" / aio / "clusters" / "main" / "kubeconfig").unlink()
    assert user.objects("up", "--name", aio)[-1]["exit"] == 0
    user.kubectl(aio, "get", "nodes")


def test_plain_ansible_and_the_command_share_one_environment(user: Typed, aio: str) -> None:
    done = user.playbook("cluster", "-e", "profile=aio", "-e", f"devenv_name={aio}")
    assert "changed=0" in done.stdout
    assert "changed=1" not in done.stdout
    assert f"playbooks/destroy.yml -e devenv_name={aio}" in done.stdout
    pong = user.run("ansible", "-i", str(user.home / "environments" / aio / "inventory.yml"), "nodes", "-m", "ping")
    assert "pong" in pong.stdout
    listed = json.loads(user.devenv("inventory", "--name", aio, "--format", "json").stdout)
    assert list(listed["all"]["children"]["nodes"]["hosts"]) == ["master-0"]
    assert listed["all"]["hosts"]["master-0"]["devenv_cluster"] == "main"
    plain = user.run(
        "ansible-inventory", "--list", "-i", str(CONFIGS.parent / "inventories" / "profile"), "-e", "profile=aio",
        "-e", f"devenv_name={aio}",
    )  # fmt: skip
    address = json.loads(plain.stdout)["_meta"]["hostvars"]["master-0"]["ansible_host"]
    assert address == listed["all"]["hosts"]["master-0"]["ansible_host"]


WIDGETS = """
- hosts: localhost
  gather_facts: false
  vars:
    widget: {apiVersion: example.org/v1, kind: Widget, metadata: {name: one, namespace: shop}, spec: {size: 1}}
    shop: {apiVersion: v1, kind: Namespace, metadata: {name: shop}}
    definition:
      apiVersion: apiextensions.k8s.io/v1
      kind: CustomResourceDefinition
      metadata: {name: widgets.example.org}
      spec:
        group: example.org
        scope: Namespaced
        names: {kind: Widget, plural: widgets, singular: widget, listKind: WidgetList}
        versions:
          - name: v1
            served: true
            storage: true
            schema:
              openAPIV3Schema:
                type: object
                properties: {spec: {type: object, properties: {size: {type: integer}}}}
  tasks:
    - devenv.lab.kube_objects:
        nodes: "{{ groups['nodes'] }}"
        name: widgets
        objects: "{{ {'all': [shop, widget, definition], 'some': [shop, definition], 'none': []}[members] }}"
"""


def test_custom_resources_are_applied_with_their_definition_and_pruned(user: Typed, aio: str, tmp_path: Path) -> None:
    play = tmp_path / "widgets.yml"
    play.write_text(f"---{WIDGETS}")

    def apply(members: str, changed: bool, *options: str) -> None:
        inventory = str(CONFIGS.parent / "inventories" / "profile")
        inventory_options = ("-i", inventory, "-e", f"devenv_name={aio}", "-e", f"members={members}")
        done = user.run("ansible-playbook", str(play), *inventory_options, *options)
        assert f"changed={int(changed)} " in done.stdout

    apply("all", True, "--check")
    assert "NotFound" in user.kubectl(aio, "get", "crd", "widgets.example.org", code=1).stderr
    apply("all", True)
    assert user.kubectl(aio, "get", "widgets", "-n", "shop", "-o", "jsonpath={.items[*].spec.size}").stdout == "1"
    apply("all", False)
    apply("some", True)
    assert user.kubectl(aio, "get", "widgets", "-n", "shop", "-o", "name").stdout == ""
    apply("none", True)
    assert "NotFound" in user.kubectl(aio, "get", "crd", "widgets.example.org", code=1).stderr


LONG = """#!/bin/bash
trap '' TERM HUP INT
(setsid sh -c 'trap "" TERM HUP; echo $$ >> /run/PIDS; for n in $(seq 900); do sleep 0.1; done' &)
echo $$ >> /run/PIDS
for n in $(seq 900); do sleep 0.1; done
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_script_on_a_node_ends_when_ansible_is_killed(
    user: Typed, aio: str, tmp_path: Path, number: signal.Signals
) -> None:
    container, pids = f"{aio}-master-0", f"pids-{number}"
    (tmp_path / "long.sh").write_text(LONG.replace("PIDS", pids))
    variables = {"script_src": str(tmp_path / "long.sh"), "script_grace": 1, "script_state": "/run/scripts"}
    role = {"name": "Run it", "ansible.builtin.import_role": {"name": "devenv.lab.script"}, "vars": variables}
    (tmp_path / "long.yml").write_text(yaml.safe_dump([{"hosts": "nodes", "gather_facts": False, "tasks": [role]}]))
    inventory = user.home / "environments" / aio / "inventory.yml"
    child = user.start("ansible-playbook", "-i", str(inventory), str(tmp_path / "long.yml"))
    running: list[str] = []
    deadline = time.monotonic() + 60
    while len(running) < 2:
        assert time.monotonic() < deadline, child.communicate()
        time.sleep(0.2)
        running = inside(container, "sh", "-c", f"cat /run/{pids} 2>/dev/null || :").split()
    assert inside(container, "ps", "-o", "pid=", "-p", ",".join(running)).split() == sorted(running, key=int)
    child.send_signal(number)
    child.communicate(timeout=30)
    deadline = time.monotonic() + 30
    remaining = "all"
    query = f"ps -o pid= -p {','.join(running)}; find /run /dev/shm -maxdepth 1 -name 'devenv-script-*'"
    while remaining:
        assert time.monotonic() < deadline, f"still running: {remaining}"
        time.sleep(0.2)
        remaining = inside(container, "sh", "-c", f"{query} || :").strip()


def test_ssh_exec_env_and_kubeconfig(user: Typed, aio: str, tmp_path: Path) -> None:
    assert user.devenv("ssh", "--name", aio, "master-0", "--", "hostname").stdout.strip() == "master-0"
    user.devenv("ssh", "--name", aio, "master-0", "--", "exit 7", code=7)
    context = user.devenv("exec", "--name", aio, "--", "kubectl", "config", "current-context").stdout
    assert context.strip() == f"devenv-{aio}"
    shell = user.run(
        "/bin/bash", "-c", 'eval "$(devenv env)"; kubectl get nodes -o name', env={"DEVENV_NAME": aio, "PATH": _path()}
    )
    assert shell.stdout.strip() == "node/master-0"
    path = Path(user.devenv("kubeconfig", "--name", aio, "--path").stdout.strip())
    assert path.stat().st_mode & 0o77 == 0
    mine = tmp_path / "config"
    mine.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", "current-context": "mine", "clusters": []}))
    user.devenv("kubeconfig", "--name", aio, "--merge", env={"KUBECONFIG": str(mine)})
    merged = yaml.safe_load(mine.read_text())
    assert [context["name"] for context in merged["contexts"]] == [f"devenv-{aio}"]
    assert merged["current-context"] == "mine"
    nodes = user.run("kubectl", f"--kubeconfig={mine}", f"--context=devenv-{aio}", "get", "nodes", "-o", "name")
    assert nodes.stdout.strip() == "node/master-0"


def _path() -> str:
    return f"{CONFIGS.parent / '.venv/bin'}:/usr/sbin:/usr/bin:/sbin:/bin"


def test_the_artifacts_of_a_run(user: Typed, aio: str, artifacts: Path) -> None:
    (folder,) = artifacts.iterdir()
    suite = ElementTree.parse(folder / "junit.xml").getroot()
    names = [case.get("name") for case in suite.iter("testcase")]
    assert names == ["preflight", "bundle", "provision", "prepare", "kubernetes", "labels", "addons", "validate"]
    assert not list(suite.iter("failure"))
    assert (folder / "metadata.json").is_file()
    user.devenv("up", "--name", aio, "--artifacts", str(artifacts))
    assert len(list(artifacts.iterdir())) == 2


def test_a_label_is_applied_and_a_new_family_is_refused(user: Typed, aio: str) -> None:
    last = user.objects("up", "--profile", "aio", "--name", aio, "--set", "nodes.master-0.labels.team=blue")[-1]
    assert last["exit"] == 0
    assert last["changed"] == 1
    shown = user.kubectl(aio, "get", "node", "master-0", "-o", "jsonpath={.metadata.labels.team}")
    assert shown.stdout == "blue"
    refused = user.devenv("up", "--profile", "aio-dualstack-static", "--name", aio, code=14)
    assert "stack" in refused.stderr
    assert "dualstack" in refused.stderr
    assert "Traceback" not in refused.stderr
    # Without --profile, the environment keeps its stored profile, label included.
    assert user.changes("up", "--name", aio, "--full") == []


def test_an_image_is_loaded_into_the_nodes_or_the_command_fails(user: Typed, aio: str, tmp_path: Path) -> None:
    image = f"devenv.lab/probe:{VERSIONS['probe']}"
    archive = next(Path(_bundle(user)).glob("images/*probe*.tar"))
    inside(f"{aio}-master-0", "ctr", "-n", "k8s.io", "images", "rm", image)
    user.devenv("image", "load", "--name", aio, str(archive))
    assert image in inside(f"{aio}-master-0", "ctr", "-n", "k8s.io", "images", "ls", "-q").split()
    broken = tmp_path / "broken.tar"
    broken.write_bytes(b"no archive at all")
    failed = user.devenv("image", "load", "--name", aio, str(broken), code=None)
    assert failed.returncode != 0
    assert "Traceback" not in failed.stderr


def _bundle(user: Typed) -> str:
    rows = user.data("bundle", "list")
    return str(rows[0]["path"])


def test_validate_fails_if_something_is_missing(user: Typed, aio: str) -> None:
    user.devenv("validate", "--name", aio)
    user.kubectl(aio, "-n", "kube-system", "scale", "deployment", "coredns", "--replicas=0")
    try:
        failed = user.devenv("validate", "--name", aio, "--timeout", "8s", code=8)
        assert "dns" in failed.stderr
    finally:
        user.kubectl(aio, "-n", "kube-system", "scale", "deployment", "coredns", "--replicas=1")
    user.devenv("validate", "--name", aio)
    namespaces = user.kubectl(aio, "get", "namespaces", "-o", "name").stdout
    assert "devenv-validate" not in namespaces or _terminating(user, aio)


def _terminating(user: Typed, name: str) -> bool:
    listed = json.loads(user.kubectl(name, "get", "namespaces", "-o", "json").stdout)["items"]
    namespaces = [item for item in listed if item["metadata"]["name"].startswith("devenv-validate")]
    return all(item["status"]["phase"] == "Terminating" for item in namespaces)


@pytest.mark.parametrize("how", [pytest.param("stopped", marks=pytest.mark.nightly), "killed"])
def test_up_starts_nodes_again(user: Typed, aio: str, how: str) -> None:
    if how == "stopped":
        user.devenv("stop", "--name", aio)
    else:
        subprocess.run(["podman", "kill", f"{aio}-master-0"], check=True, capture_output=True)
    assert user.data("status", "--name", aio, code=15)["nodes"][0]["container"] != "running"
    identity = json.loads(
        subprocess.run(["podman", "inspect", f"{aio}-master-0"], capture_output=True, text=True, check=True).stdout
    )[0]["Id"]
    assert user.objects("up", "--name", aio)[-1]["exit"] == 0
    shown = user.kubectl(aio, "get", "nodes").stdout
    assert "Ready" in shown
    assert "NotReady" not in shown
    now = subprocess.run(["podman", "inspect", f"{aio}-master-0"], capture_output=True, text=True, check=True).stdout
    assert json.loads(now)[0]["Id"] == identity


def test_status_and_inventory_are_quick(user: Typed, aio: str) -> None:
    """The limit is relative: both must stay close to one start of ansible-playbook."""

    def best(*command: str) -> float:
        times = []
        for _ in range(3):
            began = time.monotonic()
            user.run(*command)
            times.append(time.monotonic() - began)
        return min(times)

    start_up = best("ansible-playbook", "--version")
    assert best("devenv", "inventory", "--name", aio) < 2 * start_up
    assert best("devenv", "status", "--name", aio) < 3 * start_up


def test_down_leaves_the_machine_as_it_was(user: Typed, aio: str, before: machine.Snapshot) -> None:
    done = user.devenv("down", "--name", aio)
    assert "devenv prune" in done.stderr
    assert not (user.home / "environments" / aio).exists()
    assert list((user.home / "history" / aio).iterdir())
    assert machine.difference(before, machine.snapshot(), ignore=machine.OTHERS) == {}
    assert user.devenv("down", "--name", aio).returncode == 0
    user.devenv("status", "--name", aio, code=11)
