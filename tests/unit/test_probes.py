"""What probe pods are asked, and what is read from their logs."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.clusters import Cluster, Node
from ansible_collections.devenv.lab.plugins.plugin_utils.validation import pod_probes
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.pod_probes import Line, Plan, Probes, Wanted
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
    lines, ended = pod_probes.parse_log(text)
    assert lines == {
        ("dns", "a x"): Line(True, "dns", "a x", "10.96.0.1"),
        ("api", "host"): Line(True, "api", "host", "answers"),
    }
    assert not ended
    assert pod_probes.parse_log(text + "\nprobe\tend\n")[1]


@given(st.text())
def test_any_log_can_be_read(text: str) -> None:
    lines, _ = pod_probes.parse_log(text)
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
    path, service = pod_probes.preparation(plan("a", families=families))[-1]
    assert path == "/api/v1/namespaces/devenv-validate-1/services"
    assert (service["spec"]["ipFamilyPolicy"], service["spec"]["ipFamilies"]) == (policy, names)


ADDRESSES = {"kubernetes": ["10.96.0.1"], "probe": ["10.96.7.7", "fd02::7"]}


def test_pod() -> None:
    here = plan("master-0", "worker-0", families=("ipv4", "ipv6"))
    spec = pod_probes.pod(here, "worker-0", "SCRIPT", ADDRESSES)["spec"]
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
    wanted = pod_probes.wanted_results(plan("a", "b", families=("ipv4", "ipv6")), ADDRESSES)
    assert sorted(wanted) == sorted(
        set(pod_probes.check_names(("ipv4", "ipv6"), False)) - {"probe_pods", "pod_families"}
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
    assert "pod_to_pod_ipv4" not in pod_probes.wanted_results(plan("a"), ADDRESSES)
    assert pod_probes.check_names(("ipv4",), True) == [
        "probe_pods", "pod_families", "pod_to_api", "dns_ipv4", "pod_to_service_ipv4",
    ]  # fmt: skip


def level(*nodes: str, **seen: pod_probes._Seen) -> Probes:
    """A level that has a plan, and saw what is given."""
    made = Probes(
        Cluster("main", Path("k"), "kubeadm", "1.36.3", ("ipv4",), tuple(Node(n, "", {}, (), ()) for n in nodes)),
        "image", 60,
    )  # fmt: skip
    made._plan = plan(*nodes)
    made._addresses = dict(ADDRESSES)
    made._seen = dict(seen)
    return made


def saw(*lines: Line, trouble: str = "", ended: bool = True) -> pod_probes._Seen:
    return pod_probes._Seen(True, ended, trouble, False, {(line.check, line.target): line for line in lines})


def test_a_pod_that_never_ran_is_missing_to_one_check_alone() -> None:
    good = saw(Line(True, "pod", "probe-1-b ipv4", "x"), Line(True, "service", "ipv4", "x"))
    made = level("a", "b", "c", a=good, b=good, c=saw(trouble="is Pending", ended=False))
    assert made._pods_finding("", False).missing == ("c: pod is Pending",)
    found = made._results_finding(
        [Wanted("a", "pod", "probe-1-b ipv4", "b"), Wanted("a", "pod", "probe-2-c ipv4", "c")]
    )
    assert (found.missing, found.seen) == ((), "1 of 1 reached; without c, where no pod runs")
    assert made._results_finding([Wanted("a", "dns", "a x")]).missing == ("a -> a x: not tried yet",)


def test_a_pod_alone_proves_nothing_of_a_service() -> None:
    made = level("a", "b", a=saw(Line(False, "service", "ipv4", "self")), b=saw(trouble="is Pending", ended=False))
    assert made._results_finding([Wanted("a", "service", "ipv4")]).missing == (
        "nothing to reach without b, where no pod runs",
    )
    both = level("a", "b", a=saw(Line(False, "service", "ipv4", "self")), b=saw())
    assert both._results_finding([Wanted("a", "service", "ipv4")]).missing == ("a -> ipv4: self",)


def test_without_any_pod_nothing_passes() -> None:
    made = level("a", a=pod_probes._Seen())
    assert not made._results_finding([Wanted("a", "dns", "a x")]).ok


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
    found = level("a", a=pod_probes._Seen(True, families=seen))._families_finding()
    assert (found.missing, found.hopeless) == (missing, hopeless)


def test_families_of_a_pod() -> None:
    assert pod_probes.families_of({"status": {"podIPs": [{"ip": "fd01::2"}, {"ip": "10.244.0.2"}]}}) == ("ipv6", "ipv4")
    assert pod_probes.families_of({"status": {}}) == ()


RUNNING = {"phase": "Running", "containerStatuses": [{"state": {"running": {}}}]}


@pytest.mark.parametrize(
    ("item", "state"),
    [
        (None, ("was removed by someone", False, True)),
        ({"status": {"phase": "Pending"}}, ("is Pending", False, False)),
        ({"status": RUNNING}, ("", True, False)),
        ({"status": {"phase": "Failed", "message": "evicted"}}, ("is Failed: evicted", True, True)),
        (
            {
                "status": {
                    "phase": "Pending",
                    "containerStatuses": [{"state": {"waiting": {"reason": "ErrImageNeverPull", "message": "m"}}}],
                }
            },
            ("waits: ErrImageNeverPull m", False, True),
        ),
    ],
)
def test_state(item: dict[str, Any] | None, state: tuple[str, bool, bool]) -> None:
    assert pod_probes._state(item) == state


def test_the_script_is_a_shell_script() -> None:
    subprocess.run(["sh", "-n", str(pod_probes.SCRIPT)], check=True)
