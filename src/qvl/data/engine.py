"""Runs one function over many jobs, on local processes or on a Ray cluster. The only file that knows the engine."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from tqdm import tqdm

from qvl.errors import DataError

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_jobs(
    work: Callable[[Job], Result], jobs: Sequence[Job], name: str, *, workers: int | None = None, unit: str = "shard"
) -> Iterator[Result]:
    """work(job) of every job, in order; workers None: a process per core, 1: here.

    An error in work ends the run with that error; DataError when a worker dies without one.
    """
    shown = {"total": len(jobs), "desc": name, "unit": unit, "dynamic_ncols": True}
    if workers == 1:
        yield from tqdm(map(work, jobs), **shown)
        return
    with ProcessPoolExecutor(workers or os.cpu_count(), mp_context=get_context("spawn")) as pool:
        try:
            yield from tqdm(pool.map(work, jobs), **shown)
        except BrokenProcessPool as error:
            raise DataError(
                f"{name}: a worker process was killed (is the memory full?); give the same command again to go on, "
                "with fewer --workers"
            ) from error
