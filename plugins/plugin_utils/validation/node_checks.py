"""Checks of each node and each API server, at the same time as all others.

Nodes are queried over ssh (``module_utils/node/report.py``), one program per node: services, etcd, certificates, clock.
API servers are queried one by one, by every address, so that one that is down is not hidden by the others.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime

from ansible_collections.devenv.lab.plugins.plugin_utils.environments.nodes import NodeSpec
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes import client, kubeconfig
from ansible_collections.devenv.lab.plugins.plugin_utils.kubernetes.clusters import Cluster
from ansible_collections.devenv.lab.plugins.plugin_utils.profiles import engines
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh import remote
from ansible_collections.devenv.lab.plugins.plugin_utils.ssh.remote import Answer, Target
from ansible_collections.devenv.lab.plugins.plugin_utils.validation.levels import Background, Finding

REPORT = "node.report"
ASK_SECONDS = 20.0
API_SECONDS = 4.0

WARN_DAYS = 30
# etcd warns from 1 s on; what is signed in the future (certificates, tokens) is refused.
SKEW_WARNED = 1.0
SKEW_REFUSED = 5.0
SERVICES = {"containerd.service": "containerd", "kubelet.service": "kubelet"}


# --- API servers -----------------------------------------------------------------------------------------------------


def api_servers(cluster: Cluster, access: client.Access) -> Background | None:
    """Return the level with ``api_masters`` and ``api_endpoint``; None when no address is known."""
    masters = [(node.name, address) for node in cluster.control_plane for address in node.addresses]
    endpoint = [(cluster.endpoint or "endpoint", address) for address in cluster.endpoint_addresses]
    groups = {name: rows for name, rows in (("api_masters", masters), ("api_endpoint", endpoint)) if rows}
    if not groups:
        return None

    def collect() -> dict[str, Finding]:
        answers = _ready({row[1] for rows in groups.values() for row in rows}, access)
        return {name: check_api(rows, answers) for name, rows in groups.items()}

    return Background(groups, collect)


def check_api(rows: Sequence[tuple[str, str]], answers: Mapping[str, str]) -> Finding:
    """Check API servers. ``rows``: name and address; ``answers``: by address why it is not ready, or an empty text."""
    missing = [f"{name} {address}: {answers[address]}" for name, address in rows if answers[address]]
    return Finding(f"ready at {', '.join(row[1] for row in rows)}", tuple(missing))


def _ready(addresses: Iterable[str], access: client.Access) -> dict[str, str]:
    answers: dict[str, str] = {}

    def ask(address: str) -> None:
        try:
            server = dataclasses.replace(access, server=kubeconfig.server_url(address))
            with client.Api(server, timeout=API_SECONDS) as api:
                api.text("/readyz")
            answers[address] = ""
        except client.ApiFailure as error:
            answers[address] = str(error)

    _at_once(ask, addresses)
    return answers


def _at_once(work: Callable[[str], None], items: Iterable[str]) -> None:
    threads = [threading.Thread(target=work, args=(item,), daemon=True) for item in items]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# --- nodes -----------------------------------------------------------------------------------------------------------


def nodes(cluster: Cluster, targets: Mapping[str, Target | None]) -> Background:
    """Return the level with ``ssh`` and the checks of ``CHECKS`` that apply to the cluster.

    ``targets``: how each node is reached, None for one that has no address.
    """
    source = remote.program(REPORT, "main", {"part": "health", "timeout": int(ASK_SECONDS)})

    def collect() -> dict[str, Finding]:
        answers = {name: Answer(name, trouble="has no address") for name in targets}
        answers |= remote.ask_all([target for target in targets.values() if target], source, ASK_SECONDS)
        return findings(cluster, answers, datetime.now(UTC))

    return Background(["ssh", *_names(cluster)], collect)


def findings(cluster: Cluster, answers: Mapping[str, Answer], now: datetime) -> dict[str, Finding]:
    """Return what the answers of all nodes mean, by check. A node that did not answer is missing from ``ssh`` alone,
    unless no other node answers.
    """
    silent = [f"{name}: {answer.trouble}" for name, answer in answers.items() if answer.trouble]
    ssh = Finding(f"{len(answers)} of {len(answers)} nodes answer", tuple(silent))
    reports = {name: answer for name, answer in answers.items() if not answer.trouble}
    if not reports:
        return {"ssh": ssh} | dict.fromkeys(_names(cluster), Finding("", ("no node answers",)))
    return {"ssh": ssh} | {name: CHECKS[name](cluster, reports, now) for name in _names(cluster)}


def _names(cluster: Cluster) -> list[str]:
    """Return the checks that apply: another engine keeps services, certificates and etcd in places of its own."""
    return ["clocks", *engines.traits(cluster.engine)["validation"]["node_checks"]]


def check_services(answers: Mapping[str, Answer]) -> Finding:
    """Check that containerd and kubelet are active on each node."""
    missing = []
    for name, answer in answers.items():
        states = answer.data.get("services") or {}
        missing += [
            f"{name}: {word} is {states.get(unit, 'not there')}"
            for unit, word in SERVICES.items()
            if states.get(unit) != "active"
        ]
    return Finding(f"{' and '.join(SERVICES.values())} active on {len(answers)} nodes", tuple(missing))


def check_certificates(answers: Mapping[str, Answer], now: datetime) -> Finding:
    """Check that no certificate has expired; a warning for those that expire within 30 days."""
    expired, soon, nearest = [], [], None
    for name, answer in answers.items():
        for path, text in sorted((answer.data.get("certificates") or {}).items()):
            end = datetime.fromisoformat(text)
            days = (end - now).total_seconds() / 86400
            if days < 0:
                expired.append(f"{name}: {path} ended {text}")
            elif days < WARN_DAYS:
                soon.append(f"{name}: {path} ends in {days:.0f} days ({text})")
            nearest = end if nearest is None else min(nearest, end)
    if nearest is None:
        return Finding("", ("no node has a certificate",))
    count = sum(len(answer.data.get("certificates") or {}) for answer in answers.values())
    days_left = (nearest - now).days
    return Finding(
        f"{count} certificates, the first ends in {days_left} days", tuple(expired), bool(expired), tuple(soon)
    )


def check_clocks(answers: Mapping[str, Answer]) -> Finding:
    """Compare the clocks of nodes with each other and with this machine's."""
    ahead = {name: answer.ahead for name, answer in answers.items()}
    first, last = min(ahead, key=lambda name: ahead[name]), max(ahead, key=lambda name: ahead[name])
    spread = ahead[last] - ahead[first]
    furthest = max(ahead, key=lambda name: abs(ahead[name]))
    texts = []
    if spread > SKEW_WARNED:
        texts.append(f"{last} is {spread:.1f} s ahead of {first}")
    if abs(ahead[furthest]) > max(SKEW_WARNED, answers[furthest].doubt):
        texts.append(f"{furthest} is {abs(ahead[furthest]):.1f} s {_side(ahead[furthest])} this machine")
    refused = max(spread, abs(ahead[furthest]) - answers[furthest].doubt) > SKEW_REFUSED
    seen = f"within {max(spread, 0.0):.2f} s of each other" if len(ahead) > 1 else "one node"
    return Finding(seen, tuple(texts) if refused else (), warnings=() if refused else tuple(texts))


def _side(ahead: float) -> str:
    return "ahead of" if ahead > 0 else "behind"


def check_etcd_members(cluster: Cluster, answers: Mapping[str, Answer]) -> Finding:
    """Check that each control plane node that answers sees the control plane nodes as members, started, voting."""
    wanted = {node.name: node for node in cluster.control_plane}
    missing: list[str] = []
    views: dict[str, list[str]] = {}
    for name, answer in answers.items():
        etcd = answer.data.get("etcd") or {}
        if not etcd.get("members"):
            missing.append(f"{name}: {etcd.get('trouble') or 'there is no etcd'}")
            continue
        for text in _wrong_members(wanted, etcd["members"]):
            views.setdefault(text, []).append(name)
    missing += [f"{text} (seen by {', '.join(names)})" for text, names in views.items()]
    if not answers:
        missing.append("no control plane node answers")
    return Finding(f"{len(wanted)} of {len(wanted)} members started", tuple(missing))


def _wrong_members(wanted: Mapping[str, NodeSpec], members: Sequence[Mapping[str, object]]) -> list[str]:
    present = {str(member.get("name") or ""): member for member in members}
    wrong = [f"{name} is no member" for name in wanted if name not in present]
    for name, member in present.items():
        shown = name or f"member {' '.join(str(peer) for peer in _list(member.get('peers')))}"
        if name not in wanted:
            wrong.append(f"{shown} is of no control plane node")
        elif not member.get("started"):
            wrong.append(f"{shown} has not started")
        if member.get("learner"):
            wrong.append(f"{shown} is a learner without a vote")
    return wrong


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else []


def check_etcd_health(answers: Mapping[str, Answer]) -> Finding:
    """Check that the member of each control plane node that answers can commit and raises no alarm."""
    missing = [
        f"{name}: {(answer.data.get('etcd') or {}).get('trouble') or 'not healthy'}"
        for name, answer in answers.items()
        if not (answer.data.get("etcd") or {}).get("healthy")
    ]
    if not answers:
        missing = ["no control plane node answers"]
    return Finding(f"{len(answers)} of {len(answers)} healthy", tuple(missing))


def _of_masters(cluster: Cluster, reports: Mapping[str, Answer]) -> dict[str, Answer]:
    return {node.name: reports[node.name] for node in cluster.control_plane if node.name in reports}


# By name, of the answers of nodes that did answer.
CHECKS: dict[str, Callable[[Cluster, Mapping[str, Answer], datetime], Finding]] = {
    "clocks": lambda cluster, reports, now: check_clocks(reports),
    "services": lambda cluster, reports, now: check_services(reports),
    "certificates": lambda cluster, reports, now: check_certificates(reports, now),
    "etcd_members": lambda cluster, reports, now: check_etcd_members(cluster, _of_masters(cluster, reports)),
    "etcd_health": lambda cluster, reports, now: check_etcd_health(_of_masters(cluster, reports)),
}
