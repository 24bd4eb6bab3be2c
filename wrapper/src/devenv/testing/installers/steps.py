"""The order of a demand's installers, and their stages."""

from __future__ import annotations

import graphlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from devenv.testing.installers.catalogue import Installer, known, with_needs

if TYPE_CHECKING:
    import pytest

    from devenv.testing.demand import Demand
    from devenv.testing.objects import BaseConfig, Cluster, Host


@dataclass(frozen=True)
class Step:
    """One installer for one target; ``after`` are the steps that it waits for."""

    installer: str
    kind: str
    target: str
    after: tuple[tuple[str, str, str], ...]

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.installer, self.kind, self.target)


def steps(demand: Demand, catalogue: Mapping[str, type[Installer]]) -> list[Step]:
    """Every installer of a demand with its target, in an order that respects what they need. Hosts without an
    installer have no step.
    """
    wanted: dict[tuple[str, str, str], Step] = {}
    for cluster in demand.clusters:
        _add(wanted, cluster.installer, "cluster", cluster.name, cluster.hosts, catalogue)
    for host in demand.hosts:
        if host.installer:
            _add(wanted, host.installer, "host", host.name, (host.name,), catalogue)
    return list(wanted.values())


def _add(
    wanted: dict[tuple[str, str, str], Step],
    name: str,
    kind: str,
    target: str,
    hosts: Sequence[str],
    catalogue: Mapping[str, type[Installer]],
) -> None:
    def targets(one: str) -> list[tuple[str, str, str]]:
        if catalogue[one].on == kind:
            return [(one, kind, target)]
        return [(one, "host", host) for host in hosts]

    for one in with_needs([name], catalogue):
        after = tuple(key for need in catalogue[one].needs for key in targets(need))
        for key in targets(one):
            # Of a host's need only that host's own step counts.
            mine = tuple(step for step in after if key[1] != "host" or step[2] == key[2])
            wanted.setdefault(key, Step(*key, mine))


class StageError(Exception):
    """Installers failed; the message names each with its target."""


def run_stage(
    stage: str, base_config: BaseConfig, demand: Demand, request: pytest.FixtureRequest, workers: int = 8
) -> None:
    """Call ``stage`` of every installer of the demand, those that do not wait for each other at the same time; the
    stage teardown goes backwards. Raises StageError when all that could run has run.
    """
    __tracebackhide__ = True
    catalogue = known()
    todo = {step.key: step for step in steps(demand, catalogue)}
    if not any(_has(catalogue[step.installer], stage) for step in todo.values()):
        return
    graph = graphlib.TopologicalSorter({key: set(step.after) for key, step in todo.items()})
    order = _levels(graph)
    failed: dict[tuple[str, str, str], BaseException] = {}
    skipped: set[tuple[str, str, str]] = set()
    with ThreadPoolExecutor(workers) as pool:
        for level in reversed(order) if stage == "teardown" else order:
            running = {}
            for key in level:
                if stage != "teardown" and (set(todo[key].after) & (failed.keys() | skipped)):
                    skipped.add(key)
                    continue
                running[key] = pool.submit(_call(catalogue[key[0]], stage, _target(base_config, key), request))
            for key, future in running.items():
                if error := future.exception():
                    failed[key] = error
    if failed:
        told = "; ".join(
            f"installer {name} on {kind} {target}: {error}" for (name, kind, target), error in failed.items()
        )
        raise StageError(f"stage {stage}: {told}") from next(iter(failed.values()))


def _has(kind: type[Installer], stage: str) -> bool:
    return getattr(kind, stage) is not getattr(Installer, stage) or (stage == "session_install" and bool(kind.role))


def _levels(graph: graphlib.TopologicalSorter[tuple[str, str, str]]) -> list[list[tuple[str, str, str]]]:
    graph.prepare()
    found = []
    while graph.is_active():
        ready = sorted(graph.get_ready())
        found.append(ready)
        graph.done(*ready)
    return found


def _call(kind: type[Installer], stage: str, target: Any, request: pytest.FixtureRequest) -> Callable[[], None]:
    return lambda: getattr(kind(), stage)(target, request)


def _target(base_config: BaseConfig, key: tuple[str, str, str]) -> Host | Cluster:
    _, kind, name = key
    return base_config.clusters[name] if kind == "cluster" else base_config.hosts[name]
