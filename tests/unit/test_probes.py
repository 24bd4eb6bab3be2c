"""The objects of probe pods, and the evaluation of their logs."""

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
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.probe_pods import Plan, ProbeImage
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.probe_results import (
    Expected,
    ProbeState,
    Result,
    Results,
)
from hypothesis import given
from hypothesis import strategies as st


def plan(*nodes: str, families: tuple[str, ...] = ("ipv4",)) -> Plan:
    return Plan("devenv-validate-1", ProbeImage("devenv.lab/probe:1.0.0"), 60, "cluster.local", families, nodes)


def test_the_last_result_of_each_check_is_read_from_the_log() -> None:
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
        ("dns", "a x"): Result(True, "10.96.0.1"),
        ("api", "host"): Result(True, "answers"),
    }
    assert not ended
    assert probe_results.parse_log(text + "\nprobe\tend\n")[1]


@given(st.text())
def test_any_log_can_be_read(text: str) -> None:
    results, _ = probe_results.parse_log(text)
    assert all(isinstance(result.ok, bool) for result in results.values())


def test_names_of_pods_are_valid_host_names() -> None:
    long = "n" * 63
    probes = plan("master-0", "worker-0.example.org", long)
    names = [probes.pod(node) for node in probes.nodes]
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
def test_each_pod_reaches_its_next_neighbours(count: int, node: str, peers: list[str]) -> None:
    assert plan(*(f"n{i}" for i in range(count))).peers(node) == peers


@pytest.mark.parametrize(
    ("families", "policy", "names"),
    [
        (("ipv4",), "SingleStack", ["IPv4"]),
        (("ipv6",), "SingleStack", ["IPv6"]),
        (("ipv6", "ipv4"), "RequireDualStack", ["IPv6", "IPv4"]),
    ],
)
def test_the_service_has_the_families_of_the_stack(families: tuple[str, ...], policy: str, names: list[str]) -> None:
    path, service = probe_pods.preparation(plan("a", families=families))[-1]
    assert path == "/api/v1/namespaces/devenv-validate-1/services"
    assert (service["spec"]["ipFamilyPolicy"], service["spec"]["ipFamilies"]) == (policy, names)


ADDRESSES = {"kubernetes": ["10.96.0.1"], "probe": ["10.96.7.7", "fd02::7"]}


def test_the_probe_pod_has_the_addresses_and_names_to_try() -> None:
    probes = plan("master-0", "worker-0", families=("ipv4", "ipv6"))
    spec = probe_pods.pod(probes, "worker-0", "SCRIPT", ADDRESSES)["spec"]
    container = spec["containers"][0]
    assert (container["image"], container["imagePullPolicy"]) == ("devenv.lab/probe:1.0.0", "Never")
    assert container["args"] == ["sh", "-c", "SCRIPT"]
    assert spec["tolerations"] == [{"operator": "Exists"}]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    service = "probe.devenv-validate-1.svc.cluster.local"
    assert environment == {
        "PROBE_LIMIT": "60",
        "PROBE_NAMESPACE": "devenv-validate-1",
        "PROBE_API": "kubernetes.default.svc.cluster.local 10.96.0.1",
        "PROBE_NAMES": f"a/kubernetes.default.svc.cluster.local/10.96.0.1 a/{service}/10.96.7.7 aaaa/{service}/fd02::7",
        "PROBE_PEERS": "probe-0-master-0",
        "PROBE_SERVICES": "10.96.7.7 fd02::7",
    }


def test_the_image_comes_from_the_nodes_or_from_the_registry_of_the_engine() -> None:
    assert probe_pods.image_of("kubeadm", "1.36.3") == ProbeImage("devenv.lab/probe:1.0.0", "Never")
    image = probe_pods.image_of("gravity", "1.36.3")
    assert image == ProbeImage("leader.telekube.local:5000/devenv.lab/probe:1.0.0", "IfNotPresent")
    written = probe_pods.container("probe", image, "SCRIPT")
    assert (written["image"], written["imagePullPolicy"]) == image


def test_expected_results_of_two_nodes() -> None:
    expected = probe_results.expected_results(plan("a", "b", families=("ipv4", "ipv6")), ADDRESSES)
    assert sorted(expected) == sorted(
        set(probe_results.check_names(("ipv4", "ipv6"), False)) - {"probe_pods", "pod_families"}
    )
    assert expected["pod_to_pod_ipv6"] == [
        Expected("a", "pod", "probe-1-b ipv6", "b"),
        Expected("b", "pod", "probe-0-a ipv6", "a"),
    ]
    assert expected["pod_to_service_ipv4"] == [Expected("a", "service", "ipv4"), Expected("b", "service", "ipv4")]
    service = "probe.devenv-validate-1.svc.cluster.local"
    assert expected["dns_ipv6"] == [Expected("a", "dns", f"aaaa {service}"), Expected("b", "dns", f"aaaa {service}")]
    # The API by its name is a check of DNS, by its address it is not.
    assert Expected("a", "api", "kubernetes.default.svc.cluster.local") in expected["dns_ipv4"]
    assert expected["pod_to_api"] == [Expected("a", "api", "10.96.0.1"), Expected("b", "api", "10.96.0.1")]
    assert all(expected.values())


def test_a_single_node_has_no_pod_to_pod_check() -> None:
    assert "pod_to_pod_ipv4" not in probe_results.expected_results(plan("a"), ADDRESSES)
    assert probe_results.check_names(("ipv4",), True) == [
        "probe_pods", "pod_families", "pod_to_api", "dns_ipv4", "pod_to_service_ipv4",
    ]  # fmt: skip


def reported(results: Results | None = None, *, trouble: str = "", ended: bool = True) -> ProbeState:
    return ProbeState(trouble, ended=ended, results=results or {})


def test_a_pod_that_never_ran_fails_only_probe_pods() -> None:
    good = reported({("pod", "probe-1-b ipv4"): Result(True, "x"), ("service", "ipv4"): Result(True, "x")})
    states = {"a": good, "b": good, "c": reported(trouble="is Pending", ended=False)}
    probes = plan("a", "b", "c")
    assert probe_results.check_pods(states, []).missing == ("c: pod is Pending",)
    finding = probe_results.check_results(
        [Expected("a", "pod", "probe-1-b ipv4", "b"), Expected("a", "pod", "probe-2-c ipv4", "c")], probes, states
    )
    assert (finding.missing, finding.seen) == ((), "1 of 1 reached; without c (no pod runs there)")
    untried = probe_results.check_results([Expected("a", "dns", "a x")], probes, states)
    assert untried.missing == ("a -> a x: not tried yet",)


def test_an_answer_of_the_pod_itself_does_not_prove_a_service() -> None:
    states = {
        "a": reported({("service", "ipv4"): Result(False, "self")}),
        "b": reported(trouble="is Pending", ended=False),
    }
    alone = probe_results.check_results([Expected("a", "service", "ipv4")], plan("a", "b"), states)
    assert alone.missing == ("nothing to reach except b (no pod runs there)",)
    both = probe_results.check_results([Expected("a", "service", "ipv4")], plan("a", "b"), states | {"b": reported()})
    assert both.missing == ("a -> ipv4: self",)


def test_without_pods_no_check_passes() -> None:
    assert not probe_results.check_results([Expected("a", "dns", "a x")], plan("a"), {"a": ProbeState()}).ok
    all_cordoned = probe_results.check_pods({}, ["a"])
    assert (all_cordoned.missing, all_cordoned.hopeless) == (("every node is cordoned",), True)


@pytest.mark.parametrize(
    ("seen", "missing", "hopeless"),
    [
        (("ipv4",), (), False),
        (("ipv4", "ipv6"), ("a: a pod has ipv4, ipv6, expected: ipv4",), True),
        (("ipv6",), ("a: a pod has ipv6, expected: ipv4",), True),
        ((), ("no pod has addresses yet",), False),
    ],
)
def test_pods_have_the_families_of_the_stack_in_its_order(
    seen: tuple[str, ...], missing: tuple[str, ...], hopeless: bool
) -> None:
    finding = probe_results.check_families({"a": ProbeState("", families=seen)}, ("ipv4",))
    assert (finding.missing, finding.hopeless) == (missing, hopeless)


RUNNING = {
    "phase": "Running",
    "containerStatuses": [{"state": {"running": {}}}],
    "podIPs": [{"ip": "fd01::2"}, {"ip": "10.244.0.2"}],
}


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (None, ProbeState("was removed by another program", hopeless=True)),
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
def test_the_state_of_a_pod(item: dict[str, Any] | None, expected: ProbeState) -> None:
    state = ProbeState()
    state.update(item)
    assert state == expected


class Api:
    """A cluster whose pods run immediately and log what their environment requests."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {
            "/api/v1/namespaces/devenv-validate-old": {"metadata": {"name": "devenv-validate-old"}},
            "/api/v1/nodes/a": {"metadata": {"name": "a"}, "spec": {}},
            "/api/v1/nodes/b": {"metadata": {"name": "b"}, "spec": {"unschedulable": True}},
            "/api/v1/namespaces/default/services/kubernetes": {"spec": {"clusterIPs": ["10.96.0.1"]}},
        }
        # The failure of the next creation in a collection.
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
        env = self.objects[path.removesuffix("/log")]["spec"]["containers"][0]["env"]
        given = {row["name"]: row["value"] for row in env}
        names = [row.split("/") for row in given["PROBE_NAMES"].split()]
        api = given["PROBE_API"].split()
        rows = [("dns", f"{kind} {name}") for kind, name, _address in names] + [("api", host) for host in api]
        return "".join(f"probe\tok\t{check}\t{target}\tx\n" for check, target in [*rows, ("service", "ipv4")])

    def delete(self, path: str) -> None:
        self.objects.pop(path)


def test_the_level_creates_its_objects_step_by_step_and_removes_them() -> None:
    nodes = tuple(NodeSpec(name, "") for name in ("a", "b"))
    level, fake = (
        Probes(
            Cluster("main", Path("k"), "kubeadm", "1.36.3", ("ipv4",), nodes), ProbeImage("image"), 60, "cluster.local"
        ),
        Api(),
    )
    api: Any = fake
    fake.refused = {"namespaces": client.ApiUnreachable("cut"), "pods": client.ApiError(403, "", "no account yet")}
    first = level.look(api)
    assert {finding.seen for finding in first.values()} == {"the API does not answer: cut"}
    assert "/api/v1/namespaces/devenv-validate-old" not in fake.objects
    second = level.look(api)
    assert second["probe_pods"].missing == ("no account yet", "a: pod is not created yet")
    assert not any(finding.ok for finding in second.values())
    third = level.look(api)
    assert third["probe_pods"].seen == "1 pods ran; skipped cordoned nodes: b"
    assert {name for name, finding in third.items() if not finding.ok} == set()
    assert set(third) == set(probe_results.check_names(("ipv4",), True)) == set(first)
    level.remove(api)
    assert f"/api/v1/namespaces/{level.namespace}" not in fake.objects


def test_the_script_is_valid_shell() -> None:
    subprocess.run(["sh", "-n", str(probe_pods.SCRIPT)], check=True)
