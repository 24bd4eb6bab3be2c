"""Evaluate the logs and states of the probe pods for each check."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.client import Json
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.readiness import not_ready
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.levels import Finding
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.probe_pods import SERVICE, TYPES, Plan, family_of


class Result(NamedTuple):
    """The last result of a check in a pod's log."""

    ok: bool
    seen: str


# By check and target.
Results = dict[tuple[str, str], Result]


def parse_log(text: str) -> tuple[Results, bool]:
    """Return the results in a pod's log, and whether the pod has finished.

    Incomplete lines and lines of other programs are ignored.
    """
    results: Results = {}
    ended = False
    for raw in text.splitlines():
        parts = raw.split("\t")
        if parts == ["probe", "end"]:
            ended = True
        elif len(parts) == 5 and parts[0] == "probe" and parts[1] in ("ok", "no"):
            results[parts[2], parts[3]] = Result(parts[1] == "ok", parts[4].strip())
    return results, ended


class Expected(NamedTuple):
    """A result that the pod on ``node`` must report; ``peer`` is the node of the pod that it must reach."""

    node: str
    check: str
    target: str
    peer: str = ""


def check_names(families: Iterable[str], alone: bool) -> list[str]:
    """Return the names of all checks by probe pods; ``alone``: with a single node, there is no other pod to reach."""
    names = ["probe_pods", "pod_families", "pod_to_api"]
    for family in families:
        names += [f"dns_{family}", f"pod_to_service_{family}"]
        names += [] if alone else [f"pod_to_pod_{family}"]
    return names


def expected_results(plan: Plan, addresses: Mapping[str, list[str]]) -> dict[str, list[Expected]]:
    """Return by check the results that must be reported and ok."""
    api_name, service_name = f"kubernetes.default.svc.{plan.domain}", f"{SERVICE}.{plan.namespace}.svc.{plan.domain}"
    names = [(family_of(address), api_name) for address in addresses["kubernetes"]]
    names += [(family_of(address), service_name) for address in addresses[SERVICE]]
    expected = {"pod_to_api": [Expected(node, "api", addresses["kubernetes"][0]) for node in plan.nodes]}
    for family in plan.families:
        expected[f"dns_{family}"] = [
            Expected(node, "dns", f"{TYPES[family]} {name}")
            for node in plan.nodes
            for of_family, name in names
            if of_family == family
        ]
        expected[f"pod_to_service_{family}"] = [Expected(node, "service", family) for node in plan.nodes]
    # The API by its name needs DNS: a failure is one of DNS, not of the route to the API.
    expected[f"dns_{family_of(addresses['kubernetes'][0])}"] += [Expected(node, "api", api_name) for node in plan.nodes]
    if len(plan.nodes) > 1:
        for family in plan.families:
            expected[f"pod_to_pod_{family}"] = [
                Expected(node, "pod", f"{plan.pod(peer)} {family}", peer)
                for node in plan.nodes
                for peer in plan.peers(node)
            ]
    return expected


@dataclass
class ProbeState:
    """The state of one probe pod. ``trouble``: why it does not run; ``hopeless``: it never will; ``ended``: it has
    finished.
    """

    trouble: str = "is not created yet"
    has_log: bool = False
    hopeless: bool = False
    ended: bool = False
    results: Results = field(default_factory=dict)
    families: tuple[str, ...] = ()

    @property
    def is_idle(self) -> bool:
        """Whether it has reported nothing."""
        return bool(self.trouble) and not self.results

    def update(self, item: Json | None) -> None:
        """Update the state from a Pod object; None if it no longer exists."""
        if item is None:
            self.trouble, self.has_log, self.hopeless = "was removed by another program", False, True
            return
        status: Mapping[str, Any] = item.get("status", {})
        phase = status.get("phase", "")
        if phase == "Running" and any("running" in c.get("state", {}) for c in status.get("containerStatuses") or []):
            self.trouble, self.has_log, self.hopeless = "", True, False
        else:
            self.trouble = not_ready(item) or f"is {phase}"
            self.has_log = phase == "Failed"
            self.hopeless = self.has_log or "ErrImageNeverPull" in self.trouble
        if self.has_log:
            self.families = tuple(family_of(row["ip"]) for row in status.get("podIPs") or [])


def check_pods(states: Mapping[str, ProbeState], cordoned: Sequence[str]) -> Finding:
    """Check that every probe pod runs. ``states`` by node; ``cordoned`` are the nodes without a probe pod."""
    stuck = [state for state in states.values() if state.trouble]
    missing = [f"{node}: pod {state.trouble}" for node, state in states.items() if state.trouble]
    skipped = f"; skipped cordoned nodes: {', '.join(cordoned)}" if cordoned else ""
    return Finding(
        f"{len(states)} pods ran{skipped}",
        tuple(missing if states else ["every node is cordoned"]),
        not states or (bool(stuck) and all(state.hopeless for state in stuck)),
    )


def check_families(states: Mapping[str, ProbeState], expected: tuple[str, ...]) -> Finding:
    """Check that every pod has one address of each family of the stack, in its order."""
    known = {node: state.families for node, state in states.items() if state.families}
    wrong = [
        f"{node}: a pod has {', '.join(families)}, expected: {', '.join(expected)}"
        for node, families in known.items()
        if families != expected
    ]
    missing = wrong or ([] if known else ["no pod has addresses yet"])
    # Hopeless, since a pod's addresses never change.
    return Finding(f"{', '.join(expected)} on {len(known)} nodes", tuple(missing), bool(wrong))


def check_results(results: Iterable[Expected], plan: Plan, states: Mapping[str, ProbeState]) -> Finding:
    """Check the results of pods that ran; a pod that never ran fails only the check ``probe_pods``."""
    idle = {node for node, state in states.items() if state.is_idle}
    if idle == states.keys():
        return Finding("no pod", ("no probe pod runs",), any(state.hopeless for state in states.values()))
    missing, count, hopeless = [], 0, False
    for expected in results:
        peers = set(plan.peers(expected.node)) if expected.check == "service" else set()
        # Without peers only the pod itself can answer through the Service, which would prove nothing.
        if expected.node in idle or expected.peer in idle or (peers and peers <= idle):
            continue
        count += 1
        state = states[expected.node]
        result = state.results.get((expected.check, expected.target))
        if result is None or not result.ok:
            missing.append(f"{expected.node} -> {expected.target}: {result.seen if result else 'not tried yet'}")
            hopeless = hopeless or state.hopeless or state.ended
    where = f"{', '.join(sorted(idle))} (no pod runs there)"
    if not count:
        return Finding("", (f"nothing to reach except {where}",), all(states[node].hopeless for node in idle))
    return Finding(f"{count} of {count} reached{f'; without {where}' if idle else ''}", tuple(missing), hopeless)
