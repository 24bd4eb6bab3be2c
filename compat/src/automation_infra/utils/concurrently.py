"""Calls at the same time, each in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

Job = Callable[[], Any] | Sequence[Any]


def run(
    jobs: Sequence[Job] | Mapping[Any, Job], *, max_workers: int | None = None, job_timeout: float | None = None
) -> dict[Any, Any]:
    """Return the result of each job, a function or a sequence of a function and its arguments, by its key or number.

    Raises the first error, and TimeoutError for a job that did not end within ``job_timeout`` seconds.
    """
    named = dict(jobs) if isinstance(jobs, Mapping) else dict(enumerate(jobs))
    if not named:
        return {}
    with ThreadPoolExecutor(max_workers or len(named)) as pool:
        futures = {
            name: pool.submit(job) if callable(job) else pool.submit(job[0], *job[1:]) for name, job in named.items()
        }
        return {name: future.result(job_timeout) for name, future in futures.items()}
