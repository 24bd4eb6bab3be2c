"""Checks of each node and each API server.

Nodes are queried over ssh (``module_utils/node/report.py``), one program per node: services, etcd, certificates, clock.
API servers are queried at each of their addresses, so that a running one does not hide one that is down.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client, kubeconfig
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.clusters import Cluster
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import remote
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh.remote import Answer, Target
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.levels import Background, Finding

REPORT = "node.report"
QUERY_SECONDS = 20.0
API_SECONDS = 4.0

WARN_DAYS = 30
# etcd warns about more than 1 s; certificates and tokens that are signed in the future are rejected.
SKEW_WARNED = 1.0
SKEW_REFUSED = 5.0
SERVICES = {"containerd.service": "containerd", "kubelet.service": "kubelet"}


# --- API servers -----------------------------------------------------------------------------------------------------


def api_servers(cluster: Cluster, access: client.Access) -> Background | None:
    """Return the level with ``api_masters`` and ``api_endpoint``; None if no address is known."""
    masters = [(node.name, address) for node in cluster.control_plane for address in node.addresses]
    endpoint = [(cluster.endpoint or "endpoint", address) for address in cluster.endpoint_addresses]
    groups = {name: rows for name, rows in (("api_masters", masters), ("api_endpoint", endpoint)) if rows}
    if not groups:
        return None

    def collect() -> dict[str, Finding]:
        addresses = {address for rows in groups.values() for _name, address in rows}
        troubles = _api_troubles(sorted(addresses), access)
        return {name: check_api(rows, troubles) for name, rows in groups.items()}

    return Background(groups, collect)


def check_api(rows: Sequence[tuple[str, str]], troubles: Mapping[str, str]) -> Finding:
    """Check API servers. ``rows``: name and address; ``troubles``: why an address is not ready, empty if it is."""
    missing = [f"{name} {address}: {troubles[address]}" for name, address in rows if troubles[address]]
    return Finding(f"ready at {', '.join(row[1] for row in rows)}", tuple(missing))


def _api_troubles(addresses: Sequence[str], access: client.Access) -> dict[str, str]:
    def trouble(address: str) -> str:
        try:
            server = dataclasses.replace(access, server=kubeconfig.server_url(address))
            with client.Api(server, timeout=API_SECONDS) as api:
                api.text("/readyz")
            return ""
        except client.ApiFailure as error:
            return str(error)

    with ThreadPoolExecutor(len(addresses)) as pool:
        return dict(zip(addresses, pool.map(trouble, addresses), strict=True))


# --- nodes -----------------------------------------------------------------------------------------------------------


def nodes(cluster: Cluster, targets: Mapping[str, Target | None]) -> Background:
    """Return the level with ``ssh`` and the checks of ``CHECKS`` that apply to the cluster.

    ``targets`` has None for a node without an address.
    """

    def collect() -> dict[str, Finding]:
        answers = {name: Answer(name, trouble="has no address") for name in targets}
        answers |= query_health([target for target in targets.values() if target])
        return findings(cluster, answers, datetime.now(UTC))

    return Background(["ssh", *_names(cluster)], collect)


def query_health(targets: Iterable[Target]) -> dict[str, Answer]:
    """Return the health report of each node: services, certificates, etcd, clock."""
    source = remote.program(REPORT, "main", {"part": "health", "timeout": int(QUERY_SECONDS)})
    return remote.ask_all(targets, source, QUERY_SECONDS)


def findings(cluster: Cluster, answers: Mapping[str, Answer], now: datetime) -> dict[str, Finding]:
    """Return the findings for the nodes' answers, by check. A node that did not answer fails only the check ``ssh``,
    unless no node answered.
    """
    troubles = [f"{name}: {answer.trouble}" for name, answer in answers.items() if answer.trouble]
    ssh = Finding(f"{len(answers)} of {len(answers)} nodes answer", tuple(troubles))
    reports = {name: answer for name, answer in answers.items() if not answer.trouble}
    if not reports:
        return {"ssh": ssh} | dict.fromkeys(_names(cluster), Finding("", ("no node answers",)))
    return {"ssh": ssh} | {name: CHECKS[name](cluster, reports, now) for name in _names(cluster)}


def _names(cluster: Cluster) -> list[str]:
    """Return the checks that apply to the cluster's engine."""
    return ["clocks", *engines.traits(cluster.engine)["validation"]["node_checks"]]


def check_services(answers: Mapping[str, Answer]) -> Finding:
    """Check that containerd and kubelet are active on each node."""
    missing = []
    for name, answer in answers.items():
        states = answer.data.get("services") or {}
        missing += [
            f"{name}: {service} is {states.get(unit, 'not installed')}"
            for unit, service in SERVICES.items()
            if states.get(unit) != "active"
        ]
    return Finding(f"{' and '.join(SERVICES.values())} active on {len(answers)} nodes", tuple(missing))


def check_certificates(answers: Mapping[str, Answer], now: datetime) -> Finding:
    """Check that no certificate has expired; warn about those that expire within 30 days."""
    expired, soon, ends = [], [], []
    for name, answer in answers.items():
        for path, text in sorted((answer.data.get("certificates") or {}).items()):
            end = datetime.fromisoformat(text)
            days = (end - now).total_seconds() / 86400
            if days < 0:
                expired.append(f"{name}: {path} expired {text}")
            elif days < WARN_DAYS:
                soon.append(f"{name}: {path} expires in {days:.0f} days ({text})")
            ends.append(end)
    if not ends:
        return Finding("", ("no certificates on any node",))
    seen = f"{len(ends)} certificates, the first expires in {(min(ends) - now).days} days"
    return Finding(seen, tuple(expired), bool(expired), tuple(soon))


def check_clocks(answers: Mapping[str, Answer]) -> Finding:
    """Check that the clocks of the nodes agree with each other and with this machine's."""
    ahead = {name: answer.ahead for name, answer in answers.items()}
    first, last = min(ahead, key=lambda name: ahead[name]), max(ahead, key=lambda name: ahead[name])
    spread = ahead[last] - ahead[first]
    furthest = max(ahead, key=lambda name: abs(ahead[name]))
    texts = []
    if spread > SKEW_WARNED:
        texts.append(f"{last} is {spread:.1f} s ahead of {first}")
    if abs(ahead[furthest]) > max(SKEW_WARNED, answers[furthest].doubt):
        side = "ahead of" if ahead[furthest] > 0 else "behind"
        texts.append(f"{furthest} is {abs(ahead[furthest]):.1f} s {side} this machine")
    refused = max(spread, abs(ahead[furthest]) - answers[furthest].doubt) > SKEW_REFUSED
    seen = f"within {max(spread, 0.0):.2f} s of each other" if len(ahead) > 1 else "one node"
    return Finding(seen, tuple(texts) if refused else (), warnings=() if refused else tuple(texts))


def check_etcd_members(cluster: Cluster, answers: Mapping[str, Answer]) -> Finding:
    """Check that etcd's members, as each control plane node sees them, are the control plane nodes, started, voting."""
    expected = [node.name for node in cluster.control_plane]
    missing: list[str] = []
    views: dict[str, list[str]] = {}
    for name, answer in answers.items():
        etcd = answer.data.get("etcd") or {}
        if not etcd.get("members"):
            missing.append(f"{name}: {etcd.get('trouble') or 'etcd is not installed'}")
            continue
        for text in _member_problems(expected, etcd["members"]):
            views.setdefault(text, []).append(name)
    missing += [f"{text} (seen by {', '.join(names)})" for text, names in views.items()]
    if not answers:
        missing.append("no control plane node answers")
    return Finding(f"{len(expected)} of {len(expected)} members started", tuple(missing))


def _member_problems(expected: Sequence[str], members: Sequence[Mapping[str, Any]]) -> list[str]:
    actual = {str(member.get("name") or ""): member for member in members}
    texts = [f"{name} is not a member" for name in expected if name not in actual]
    for name, member in actual.items():
        shown = name or f"member {' '.join(member.get('peers') or [])}"
        if name not in expected:
            texts.append(f"{shown} is not a control plane node")
        elif not member.get("started"):
            texts.append(f"{shown} has not started")
        if member.get("learner"):
            texts.append(f"{shown} is a learner without a vote")
    return texts


def check_etcd_health(answers: Mapping[str, Answer]) -> Finding:
    """Check that the etcd member of each control plane node that answers can commit and raises no alarm."""
    missing = [
        f"{name}: {(answer.data.get('etcd') or {}).get('trouble') or 'not healthy'}"
        for name, answer in answers.items()
        if not (answer.data.get("etcd") or {}).get("healthy")
    ]
    if not answers:
        missing = ["no control plane node answers"]
    return Finding(f"{len(answers)} of {len(answers)} healthy", tuple(missing))


def _control_plane(cluster: Cluster, reports: Mapping[str, Answer]) -> dict[str, Answer]:
    return {node.name: reports[node.name] for node in cluster.control_plane if node.name in reports}


# The checks by name; each gets the answers of the nodes that did answer.
CHECKS: dict[str, Callable[[Cluster, Mapping[str, Answer], datetime], Finding]] = {
    "clocks": lambda cluster, reports, now: check_clocks(reports),
    "services": lambda cluster, reports, now: check_services(reports),
    "certificates": lambda cluster, reports, now: check_certificates(reports, now),
    "etcd_members": lambda cluster, reports, now: check_etcd_members(cluster, _control_plane(cluster, reports)),
    "etcd_health": lambda cluster, reports, now: check_etcd_health(_control_plane(cluster, reports)),
}
