"""The same results on every engine, and what happens when workers, machines and drivers die. Ray is real here."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from qvl.data.engine import run_jobs
from qvl.errors import DataError, UsageError

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray warns of its own deprecations


def square(number: int) -> int:
    return number * number


def refuse_three(number: int) -> int:
    if number == 3:
        raise DataError("three is not read")
    return number


def die_once(job: tuple[int, str]) -> int:
    """Job 2 kills its process, the first time."""
    number, marker = job
    if number == 2 and not Path(marker).exists():
        Path(marker).write_text("died")
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def slowly_where(job: int) -> tuple[int, str]:
    import ray

    time.sleep(0.5)
    return job, ray.get_runtime_context().get_node_id()


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order(workers: int) -> None:
    assert list(run_jobs(square, range(5), "squares", workers=workers)) == [0, 1, 4, 9, 16]
    assert list(run_jobs(square, [], "squares", workers=workers)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_the_input_ends_the_run_as_itself(workers: int) -> None:
    with pytest.raises(DataError, match="three is not read"):
        list(run_jobs(refuse_three, range(5), "numbers", workers=workers))


def test_a_killed_local_worker_says_what_to_do(tmp_path: Path) -> None:
    jobs = [(i, str(tmp_path / "marker")) for i in range(4)]
    with pytest.raises(DataError, match="give the same command again"):
        list(run_jobs(die_once, jobs, "numbers", workers=2))
    assert list(run_jobs(die_once, jobs, "numbers", workers=2)) == [0, 1, 2, 3]


def test_unknown_engine_and_no_workers() -> None:
    with pytest.raises(UsageError, match="engine 'spark' is not one of processes, ray"):
        list(run_jobs(square, [1], "x", engine="spark"))
    with pytest.raises(UsageError, match="workers 0"):
        list(run_jobs(square, [1], "x", workers=0))


def test_two_ray_nodes_share_the_work_in_order(ray_cluster: Any) -> None:
    results = list(run_jobs(slowly_where, list(range(8)), "jobs", engine="ray"))
    assert [job for job, _ in results] == list(range(8))
    assert len({node for _, node in results}) == 2


def test_ray_tells_an_error_of_the_input(ray_cluster: Any) -> None:
    with pytest.raises(DataError, match="three is not read"):
        list(run_jobs(refuse_three, list(range(5)), "numbers", engine="ray"))


def test_a_killed_ray_worker_changes_nothing(ray_cluster: Any, tmp_path: Path) -> None:
    jobs = [(i, str(tmp_path / "marker")) for i in range(4)]
    assert list(run_jobs(die_once, jobs, "numbers", engine="ray")) == [0, 1, 2, 3]
    assert (tmp_path / "marker").read_text() == "died"


def test_a_cluster_of_our_own_says_nothing_and_leaves_the_home_folder_alone(tmp_path: Path) -> None:
    call = (
        "import operator as o; from qvl.data.engine import run_jobs as r; print(*r(o.neg, [1, 2], 'x', engine='ray'))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", call], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "-1 -2\n"
    assert "WARNING" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_lost_ray_node_changes_nothing(ray_cluster: Any) -> None:
    node = ray_cluster.add_node(num_cpus=1)
    results = []
    for result in run_jobs(slowly_where, list(range(12)), "jobs", engine="ray"):
        results.append(result)
        if len(results) == 3:
            ray_cluster.remove_node(node, allow_graceful=False)
    assert [job for job, _ in results] == list(range(12))
