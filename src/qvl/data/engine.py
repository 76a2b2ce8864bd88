"""Runs one function over many jobs: here, on local processes, or on a Ray cluster.

The only file that knows the engine.
"""

import logging
import os
import pickle
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from importlib import import_module
from multiprocessing import get_context
from typing import Any, TypeVar

from tqdm import tqdm

from qvl.errors import DataError, MissingDependencyError, QvlError, UsageError

ENGINES = ("processes", "ray")
Job = TypeVar("Job")
Result = TypeVar("Result")


def run_jobs(
    work: Callable[[Job], Result],
    jobs: Sequence[Job],
    name: str,
    *,
    workers: int | None = None,
    engine: str = "processes",
    unit: str = "shard",
) -> Iterator[Result]:
    """work(job) of every job, in order; workers None: one per core, 1 with "processes": in this process.

    Jobs and results are plain picklable data, and work(job) may run twice where a machine fails: it writes whole
    files or none. A QvlError in work ends the run with that error; DataError when a local worker is killed (give the
    same call again), while Ray starts its work anew by itself.
    """
    if engine not in ENGINES:
        raise UsageError(f"engine {engine!r} is not one of {', '.join(ENGINES)}")
    if workers is not None and workers < 1:
        raise UsageError(f"workers {workers}: at least 1, or leave it out for one per core")
    if not jobs:
        return
    if engine == "ray":
        results = _on_ray(work, jobs, workers)
    else:
        results = map(work, jobs) if workers == 1 else _on_processes(work, jobs, name, workers)
    yield from tqdm(results, total=len(jobs), desc=name, unit=unit, dynamic_ncols=True)


def _on_processes(
    work: Callable[[Job], Result], jobs: Sequence[Job], name: str, workers: int | None
) -> Iterator[Result]:
    count = workers or os.cpu_count() or 1
    spawn = get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=spawn, initializer=_share_cores, initargs=(count,)) as pool:
        try:
            yield from pool.map(work, jobs)
        except BrokenProcessPool as error:
            raise DataError(
                f"{name}: a worker process was killed (is the memory full?); give the same command again to go on, "
                "with fewer --workers"
            ) from error


def _share_cores(processes: int) -> None:
    """Before a worker imports torch: its threads are its share of the cores."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))


def _on_ray(work: Callable[[Job], Result], jobs: Sequence[Job], workers: int | None) -> Iterator[Result]:
    """One Ray Data task per job, on the cluster of RAY_ADDRESS or one that lives as long as this call."""
    ray = _ray()
    started = not ray.is_initialized()
    if started:
        address = os.environ.get("RAY_ADDRESS", "local")  # by itself Ray would join any cluster of this machine
        ray.init(address, include_dashboard=False, log_to_driver=False, logging_level="warning")
    try:
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.WARNING)  # its plans and timings are not our user's concern
        logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # nor that the bar is ours
        rows = [{"job": pickle.dumps(job)} for job in jobs]
        tasks = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            partial(_ray_task, work), compute=ray.data.TaskPoolStrategy(workers)
        )
        for row in tasks.iter_rows():
            result = pickle.loads(row["result"])  # our own process wrote it
            if isinstance(result, QvlError):
                raise result
            yield result
    finally:
        if started:
            ray.shutdown()


def _ray_task(work: Callable[[Job], Result], row: dict[str, bytes]) -> dict[str, bytes]:
    """work on a pickled job; an error of the input's fault travels home as a value, others are Ray's to tell."""
    try:
        result: Result | QvlError = work(pickle.loads(row["job"]))
    except QvlError as error:
        result = error
    return {"result": pickle.dumps(result)}


def _ray() -> Any:
    """The library. A cluster of our own gets a token of this run: by itself Ray would write one to the home folder."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not {"RAY_ADDRESS", "RAY_AUTH_MODE"} & set(os.environ):  # read when Ray is imported
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import_module("ray.data")
        return import_module("ray")
    except ImportError as error:
        raise MissingDependencyError("--engine ray needs Ray: pip install 'qvl[ray]'") from error
