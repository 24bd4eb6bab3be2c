"""What probe pods found: their logs and states, and what these mean for each check."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.client import Json
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.pods import not_ready
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.levels import Finding
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.probe_pods import SERVICE, TYPES, Plan, family_of


@dataclass(frozen=True)
class Line:
    """One result line of a probe pod."""

    ok: bool
    check: str
    target: str
    seen: str


def parse_log(text: str) -> tuple[dict[tuple[str, str], Line], bool]:
    """Return the last result of each check and target in a pod's log, and whether the pod has tried everything.

    A line that is incomplete, or not of the probe, is ignored.
    """
    lines: dict[tuple[str, str], Line] = {}
    ended = False
    for raw in text.splitlines():
        parts = raw.split("\t")
        if parts == ["probe", "end"]:
            ended = True
        elif len(parts) == 5 and parts[0] == "probe" and parts[1] in ("ok", "no"):
            lines[parts[2], parts[3]] = Line(parts[1] == "ok", parts[2], parts[3], parts[4].strip())
    return lines, ended


@dataclass(frozen=True)
class Wanted:
    """A result line that must be there: of the pod on ``node``; ``peer`` is the node of the pod that it must reach."""

    node: str
    check: str
    target: str
    peer: str = ""


def check_names(families: Iterable[str], alone: bool) -> list[str]:
    """Return the names of all checks by probe pods; ``alone``: there is one node, so no other pod to reach."""
    names = ["probe_pods", "pod_families", "pod_to_api"]
    for family in families:
        names += [f"dns_{family}", f"pod_to_service_{family}"]
        names += [] if alone else [f"pod_to_pod_{family}"]
    return names


def wanted_results(plan: Plan, addresses: Mapping[str, list[str]]) -> dict[str, list[Wanted]]:
    """Return for each check every result line that must be there and ok."""
    kubernetes = f"kubernetes.default.svc.{plan.domain}"
    own = f"{SERVICE}.{plan.namespace}.svc.{plan.domain}"
    names = [(family_of(address), kubernetes) for address in addresses["kubernetes"]]
    names += [(family_of(address), own) for address in addresses[SERVICE]]
    wanted: dict[str, list[Wanted]] = {
        "pod_to_api": [Wanted(node, "api", addresses["kubernetes"][0]) for node in plan.nodes]
    }
    for family in plan.families:
        wanted[f"dns_{family}"] = [
            Wanted(node, "dns", f"{TYPES[family]} {name}")
            for node in plan.nodes
            for of_family, name in names
            if of_family == family
        ]
        wanted[f"pod_to_service_{family}"] = [Wanted(node, "service", family) for node in plan.nodes]
    # The API by its name needs DNS: a failure is reported with DNS, not with the way to the API.
    wanted[f"dns_{family_of(addresses['kubernetes'][0])}"] += [Wanted(node, "api", kubernetes) for node in plan.nodes]
    if len(plan.nodes) > 1:
        for family in plan.families:
            wanted[f"pod_to_pod_{family}"] = [
                Wanted(node, "pod", f"{plan.pod(peer)} {family}", peer)
                for node in plan.nodes
                for peer in plan.peers(node)
            ]
    return wanted


@dataclass
class ProbeState:
    """What is known of one probe pod. ``trouble``: why it does not run; ``hopeless``: it never will; ``ended``: it has
    tried everything.
    """

    trouble: str = "is not made yet"
    has_log: bool = False
    hopeless: bool = False
    ended: bool = False
    lines: dict[tuple[str, str], Line] = field(default_factory=dict)
    families: tuple[str, ...] = ()

    @property
    def is_idle(self) -> bool:
        """Whether it has tried nothing."""
        return bool(self.trouble) and not self.lines

    def update(self, item: Json | None) -> None:
        """Take over what a Pod says; None: it no longer exists."""
        if item is None:
            self.trouble, self.has_log, self.hopeless = "was removed by someone", False, True
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
    """Check that every probe pod runs. ``states`` by node, ``cordoned`` the nodes without one."""
    stuck = [state for state in states.values() if state.trouble]
    missing = [f"{node}: pod {state.trouble}" for node, state in states.items() if state.trouble]
    aside = f"; cordoned, not tried: {', '.join(cordoned)}" if cordoned else ""
    return Finding(
        f"{len(states)} pods ran{aside}",
        tuple(missing if states else ["every node is cordoned"]),
        not states or (bool(stuck) and all(state.hopeless for state in stuck)),
    )


def check_families(states: Mapping[str, ProbeState], wanted: tuple[str, ...]) -> Finding:
    """Check that every pod has an address of each family, in the stack's order, and no other."""
    known = {node: state.families for node, state in states.items() if state.families}
    wrong = [
        f"{node}: a pod has {', '.join(families)}, wanted: {', '.join(wanted)}"
        for node, families in known.items()
        if families != wanted
    ]
    missing = wrong or ([] if known else ["no pod has addresses yet"])
    # Addresses of a pod stay what they are.
    return Finding(f"{', '.join(wanted)} on {len(known)} nodes", tuple(missing), bool(wrong))


def check_results(results: Iterable[Wanted], plan: Plan, states: Mapping[str, ProbeState]) -> Finding:
    """Check the results of pods that have run: one that never did is missing from ``probe_pods`` alone."""
    idle = {node for node, state in states.items() if state.is_idle}
    if idle == states.keys():
        return Finding("no pod", ("there is no pod to try it",), any(state.hopeless for state in states.values()))
    missing, count, hopeless = [], 0, False
    for wanted in results:
        peers = set(plan.peers(wanted.node)) if wanted.check == "service" else set()
        # Without peers only the pod itself can answer through the Service, which would prove nothing.
        if wanted.node in idle or wanted.peer in idle or (peers and peers <= idle):
            continue
        count += 1
        state = states[wanted.node]
        line = state.lines.get((wanted.check, wanted.target))
        if line is None or not line.ok:
            missing.append(f"{wanted.node} -> {wanted.target}: {line.seen if line else 'not tried yet'}")
            hopeless = hopeless or state.hopeless or state.ended
    where = f"{', '.join(sorted(idle))}, where no pod runs"
    if not count:
        return Finding("", (f"nothing to reach without {where}",), all(states[node].hopeless for node in idle))
    return Finding(f"{count} of {count} reached{f'; without {where}' if idle else ''}", tuple(missing), hopeless)
