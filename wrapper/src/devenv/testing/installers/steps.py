"""The order of a demand's installers, and their stages."""

from __future__ import annotations

import graphlib
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, NamedTuple

from devenv.testing.installers.catalogue import INSTALLERS, METHODS, Catalogue, with_needs

if TYPE_CHECKING:
    import pytest

    from devenv.testing.demand import Demand
    from devenv.testing.objects import BaseConfig


class Step(NamedTuple):
    """One installer on one target; ``kind`` is cluster or host, ``target`` its name."""

    installer: str
    kind: str
    target: str


class StageError(Exception):
    """Installers failed; the message names each with its target."""


def steps(demand: Demand, catalogue: Catalogue) -> dict[Step, set[Step]]:
    """Return every step of a demand, and the steps that it waits for. Hosts without an installer have no step."""
    graph: dict[Step, set[Step]] = {}

    def add(installer: str, kind: str, target: str, hosts: Sequence[str]) -> None:
        def steps_of(name: str) -> list[Step]:
            if catalogue[name].on == kind:
                return [Step(name, kind, target)]
            return [Step(name, "host", host) for host in hosts]

        for name in with_needs([installer], catalogue):
            needed = [step for need in catalogue[name].needs for step in steps_of(need)]
            for step in steps_of(name):
                # A step on a host waits only for the steps on the same host.
                graph.setdefault(step, {s for s in needed if step.kind != "host" or s.target == step.target})

    for cluster in demand.clusters:
        add(cluster.installer, "cluster", cluster.name, cluster.hosts)
    for host in demand.hosts:
        if host.installer:
            add(host.installer, "host", host.name, (host.name,))
    return graph


def run_stage(stage: str, base_config: BaseConfig, demand: Demand, request: pytest.FixtureRequest) -> None:
    """Call the method of ``stage`` of every installer of the demand, each as soon as those that it needs have ended;
    of the stage teardown, in the reverse order. Steps that need a failed one are skipped. Raises StageError after all
    others have run.
    """
    __tracebackhide__ = True
    catalogue = INSTALLERS.all()
    graph = steps(demand, catalogue)
    failed: dict[Step, BaseException] = {}
    skipped: set[Step] = set()

    def start(step: Step) -> Future[None] | None:
        if stage != "teardown" and graph[step] & (failed.keys() | skipped):
            skipped.add(step)
            return None
        targets: Mapping[str, Any] = base_config.clusters if step.kind == "cluster" else base_config.hosts
        method = getattr(catalogue[step.installer](), METHODS[stage])
        return pool.submit(method, targets[step.target], base_config, request)

    sorter = graphlib.TopologicalSorter(_reversed(graph) if stage == "teardown" else graph)
    sorter.prepare()
    running: dict[Future[None], Step] = {}
    with ThreadPoolExecutor(max(1, len(graph))) as pool:
        while sorter.is_active():
            for step in sorted(sorter.get_ready()):
                if future := start(step):
                    running[future] = step
                else:
                    sorter.done(step)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                step = running.pop(future)
                if error := future.exception():
                    failed[step] = error
                sorter.done(step)
    if failed:
        texts = [f"installer {step.installer} on {step.kind} {step.target}: {failed[step]}" for step in sorted(failed)]
        raise StageError(f"stage {stage}: {'; '.join(texts)}") from next(iter(failed.values()))


def _reversed(graph: Mapping[Step, set[Step]]) -> dict[Step, set[Step]]:
    return {step: {other for other in graph if step in graph[other]} for step in graph}
