"""What probe pods are asked, and what is read from their logs."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.environments.nodes import NodeSpec
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.clusters import Cluster
from ansible_collections.devenv.lab.plugins.plugin_utils.validation import probe_pods, probe_results
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.pod_probes import Probes
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.probe_pods import Plan
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.probe_results import Line, ProbeState, Wanted
from hypothesis import given
from hypothesis import strategies as st


def plan(*nodes: str, families: tuple[str, ...] = ("ipv4",)) -> Plan:
    return Plan("devenv-validate-1", "devenv.lab/probe:1.0.0", 60, "cluster.local", families, nodes)


def test_parse_log() -> None:
    text = (
        "probe\tno\tdns\ta x\tNXDOMAIN\n"
        "probe\tok\tapi\thost\tanswers\n"
        "noise\n"
        "probe\tok\tdns\ta x\t10.96.0.1 \n"
        "probe\tmaybe\tdns\ta y\t\n"
        "probe\tno\tpod\tp ipv4"
    )
    lines, ended = probe_results.parse_log(text)
    assert lines == {
        ("dns", "a x"): Line(True, "dns", "a x", "10.96.0.1"),
        ("api", "host"): Line(True, "api", "host", "answers"),
    }
    assert not ended
    assert probe_results.parse_log(text + "\nprobe\tend\n")[1]


@given(st.text())
def test_any_log_can_be_read(text: str) -> None:
    lines, _ = probe_results.parse_log(text)
    assert all(line.check == key[0] for key, line in lines.items())


def test_pod_names() -> None:
    long = "n" * 63
    here = plan("master-0", "worker-0.example.org", long)
    names = [here.pod(node) for node in here.nodes]
    assert names == ["probe-0-master-0", "probe-1-worker-0-example-org", f"probe-2-{'n' * 55}"]
    assert len(names[2]) == 63


@pytest.mark.parametrize(
    ("count", "node", "peers"),
    [
        (1, "n0", []),
        (3, "n1", ["n2", "n0"]),
        (12, "n10", ["n11", "n0", "n1", "n2", "n3", "n4", "n5", "n6"]),
    ],
)
def test_peers(count: int, node: str, peers: list[str]) -> None:
    assert plan(*(f"n{i}" for i in range(count))).peers(node) == peers


@pytest.mark.parametrize(
    ("families", "policy", "names"),
    [
        (("ipv4",), "SingleStack", ["IPv4"]),
        (("ipv6",), "SingleStack", ["IPv6"]),
        (("ipv6", "ipv4"), "RequireDualStack", ["IPv6", "IPv4"]),
    ],
)
def test_service(families: tuple[str, ...], policy: str, names: list[str]) -> None:
    path, service = probe_pods.preparation(plan("a", families=families))[-1]
    assert path == "/api/v1/namespaces/devenv-validate-1/services"
    assert (service["spec"]["ipFamilyPolicy"], service["spec"]["ipFamilies"]) == (policy, names)


ADDRESSES = {"kubernetes": ["10.96.0.1"], "probe": ["10.96.7.7", "fd02::7"]}


def test_pod() -> None:
    here = plan("master-0", "worker-0", families=("ipv4", "ipv6"))
    spec = probe_pods.pod(here, "worker-0", "SCRIPT", ADDRESSES)["spec"]
    container = spec["containers"][0]
    assert (container["image"], container["imagePullPolicy"]) == ("devenv.lab/probe:1.0.0", "Never")
    assert container["args"] == ["sh", "-c", "SCRIPT"]
    assert spec["tolerations"] == [{"operator": "Exists"}]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    own = "probe.devenv-validate-1.svc.cluster.local"
    assert environment == {
        "PROBE_LIMIT": "60",
        "PROBE_NAMESPACE": "devenv-validate-1",
        "PROBE_API": "kubernetes.default.svc.cluster.local 10.96.0.1",
        "PROBE_NAMES": f"a/kubernetes.default.svc.cluster.local/10.96.0.1 a/{own}/10.96.7.7 aaaa/{own}/fd02::7",
        "PROBE_PEERS": "probe-0-master-0",
        "PROBE_SERVICES": "10.96.7.7 fd02::7",
    }


def test_wanted_results() -> None:
    wanted = probe_results.wanted_results(plan("a", "b", families=("ipv4", "ipv6")), ADDRESSES)
    assert sorted(wanted) == sorted(
        set(probe_results.check_names(("ipv4", "ipv6"), False)) - {"probe_pods", "pod_families"}
    )
    assert wanted["pod_to_pod_ipv6"] == [
        Wanted("a", "pod", "probe-1-b ipv6", "b"),
        Wanted("b", "pod", "probe-0-a ipv6", "a"),
    ]
    assert wanted["pod_to_service_ipv4"] == [Wanted("a", "service", "ipv4"), Wanted("b", "service", "ipv4")]
    own = "probe.devenv-validate-1.svc.cluster.local"
    assert wanted["dns_ipv6"] == [Wanted("a", "dns", f"aaaa {own}"), Wanted("b", "dns", f"aaaa {own}")]
    # The API by its name is a matter of DNS, by its address it is not.
    assert Wanted("a", "api", "kubernetes.default.svc.cluster.local") in wanted["dns_ipv4"]
    assert wanted["pod_to_api"] == [Wanted("a", "api", "10.96.0.1"), Wanted("b", "api", "10.96.0.1")]
    assert all(wanted.values())


def test_one_node_has_no_other_to_reach() -> None:
    assert "pod_to_pod_ipv4" not in probe_results.wanted_results(plan("a"), ADDRESSES)
    assert probe_results.check_names(("ipv4",), True) == [
        "probe_pods", "pod_families", "pod_to_api", "dns_ipv4", "pod_to_service_ipv4",
    ]  # fmt: skip


def saw(*lines: Line, trouble: str = "", ended: bool = True) -> ProbeState:
    return ProbeState(trouble, ended=ended, lines={(line.check, line.target): line for line in lines})


def test_a_pod_that_never_ran_is_missing_to_one_check_alone() -> None:
    good = saw(Line(True, "pod", "probe-1-b ipv4", "x"), Line(True, "service", "ipv4", "x"))
    states = {"a": good, "b": good, "c": saw(trouble="is Pending", ended=False)}
    here = plan("a", "b", "c")
    assert probe_results.check_pods(states, []).missing == ("c: pod is Pending",)
    found = probe_results.check_results(
        [Wanted("a", "pod", "probe-1-b ipv4", "b"), Wanted("a", "pod", "probe-2-c ipv4", "c")], here, states
    )
    assert (found.missing, found.seen) == ((), "1 of 1 reached; without c, where no pod runs")
    untried = probe_results.check_results([Wanted("a", "dns", "a x")], here, states)
    assert untried.missing == ("a -> a x: not tried yet",)


def test_a_pod_alone_proves_nothing_of_a_service() -> None:
    states = {"a": saw(Line(False, "service", "ipv4", "self")), "b": saw(trouble="is Pending", ended=False)}
    alone = probe_results.check_results([Wanted("a", "service", "ipv4")], plan("a", "b"), states)
    assert alone.missing == ("nothing to reach without b, where no pod runs",)
    both = probe_results.check_results([Wanted("a", "service", "ipv4")], plan("a", "b"), states | {"b": saw()})
    assert both.missing == ("a -> ipv4: self",)


def test_without_any_pod_nothing_passes() -> None:
    assert not probe_results.check_results([Wanted("a", "dns", "a x")], plan("a"), {"a": ProbeState()}).ok
    every_one = probe_results.check_pods({}, ["a"])
    assert (every_one.missing, every_one.hopeless) == (("every node is cordoned",), True)


@pytest.mark.parametrize(
    ("seen", "missing", "hopeless"),
    [
        (("ipv4",), (), False),
        (("ipv4", "ipv6"), ("a: a pod has ipv4, ipv6, wanted: ipv4",), True),
        (("ipv6",), ("a: a pod has ipv6, wanted: ipv4",), True),
        ((), ("no pod has addresses yet",), False),
    ],
)
def test_pods_have_the_families_of_the_stack_in_its_order(
    seen: tuple[str, ...], missing: tuple[str, ...], hopeless: bool
) -> None:
    found = probe_results.check_families({"a": ProbeState("", families=seen)}, ("ipv4",))
    assert (found.missing, found.hopeless) == (missing, hopeless)


RUNNING = {
    "phase": "Running",
    "containerStatuses": [{"state": {"running": {}}}],
    "podIPs": [{"ip": "fd01::2"}, {"ip": "10.244.0.2"}],
}


@pytest.mark.parametrize(
    ("item", "state"),
    [
        (None, ProbeState("was removed by someone", hopeless=True)),
        ({"status": {"phase": "Pending"}}, ProbeState("is Pending")),
        ({"status": RUNNING}, ProbeState("", has_log=True, families=("ipv6", "ipv4"))),
        ({"status": {"phase": "Failed", "message": "evicted"}}, ProbeState("is Failed: evicted", True, True)),
        (
            {
                "status": {
                    "phase": "Pending",
                    "containerStatuses": [{"state": {"waiting": {"reason": "ErrImageNeverPull", "message": "m"}}}],
                }
            },
            ProbeState("waits: ErrImageNeverPull m", hopeless=True),
        ),
    ],
)
def test_the_state_of_a_pod(item: dict[str, Any] | None, state: ProbeState) -> None:
    found = ProbeState()
    found.update(item)
    assert found == state


class Api:
    """A cluster whose pods run at once, with the log that their environment asks for."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {
            "/api/v1/namespaces/devenv-validate-old": {"metadata": {"name": "devenv-validate-old"}},
            "/api/v1/nodes/a": {"metadata": {"name": "a"}, "spec": {}},
            "/api/v1/nodes/b": {"metadata": {"name": "b"}, "spec": {"unschedulable": True}},
            "/api/v1/namespaces/default/services/kubernetes": {"spec": {"clusterIPs": ["10.96.0.1"]}},
        }
        # What the next creation of an object in a collection meets.
        self.refused: dict[str, client.ApiFailure] = {}

    def get(self, path: str, query: dict[str, str] | None = None) -> dict[str, Any]:
        if path in self.objects:
            return self.objects[path]
        items = [item for key, item in self.objects.items() if key.rpartition("/")[0] == path]
        return {"items": [{**item, "status": {**RUNNING, "podIPs": [{"ip": "10.244.0.2"}]}} for item in items]}

    def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        kind = path.rpartition("/")[2]
        if kind in self.refused:
            raise self.refused.pop(kind)
        if path.endswith("/services"):
            body["spec"]["clusterIPs"] = ["10.96.7.7"]
        self.objects[f"{path}/{body['metadata']['name']}"] = body
        return body

    def text(self, path: str) -> str:
        own = self.objects[path.removesuffix("/log")]["spec"]["containers"][0]["env"]
        given = {row["name"]: row["value"] for row in own}
        names = [row.split("/") for row in given["PROBE_NAMES"].split()]
        api = given["PROBE_API"].split()
        rows = [("dns", f"{kind} {name}") for kind, name, _address in names] + [("api", host) for host in api]
        return "".join(f"probe\tok\t{check}\t{target}\tx\n" for check, target in [*rows, ("service", "ipv4")])

    def delete(self, path: str) -> None:
        self.objects.pop(path)


def test_a_level_takes_one_step_after_another_and_removes_what_it_created() -> None:
    nodes = tuple(NodeSpec(name, "") for name in ("a", "b"))
    level, fake = Probes(Cluster("main", Path("k"), "kubeadm", "1.36.3", ("ipv4",), nodes), "image", 60), Api()
    api: Any = fake
    fake.refused = {"namespaces": client.ApiUnreachable("cut"), "pods": client.ApiError(403, "", "no account yet")}
    first = level.look(api)
    assert {finding.seen for finding in first.values()} == {"the API does not answer: cut"}
    assert "/api/v1/namespaces/devenv-validate-old" not in fake.objects
    second = level.look(api)
    assert second["probe_pods"].missing == ("no account yet", "a: pod is not made yet")
    assert not any(finding.ok for finding in second.values())
    third = level.look(api)
    assert third["probe_pods"].seen == "1 pods ran; cordoned, not tried: b"
    assert {name for name, finding in third.items() if not finding.ok} == set()
    assert set(third) == set(probe_results.check_names(("ipv4",), True)) == set(first)
    level.remove(api)
    assert f"/api/v1/namespaces/{level.namespace}" not in fake.objects


def test_the_script_is_a_shell_script() -> None:
    subprocess.run(["sh", "-n", str(probe_pods.SCRIPT)], check=True)
