"""Cleaning on a real Ray cluster writes the files of one process, whoever dies: a worker, a machine, the driver."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest_pairs import content_of, jpeg, pair, tar_of

from qvl import images
from qvl.data.pairs import run
from qvl.data.pairs.clean import BATCH, UnitJob, clean_unit
from qvl.data.pairs.run import clean_pairs

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray warns of its own deprecations
UNITS, PAIRS = 8, 2 * BATCH


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tars of two batches of pairs each, one of them broken."""
    folder, picture = tmp_path_factory.mktemp("pairs") / "raw", jpeg()
    folder.mkdir()
    for unit in range(UNITS):
        members = dict(pair("broken", image=b"x"))
        for i in range(PAIRS):
            members |= pair(f"{unit}{i:03d}", f"kite number {i} of {unit}", picture)
        (folder / f"{unit:05d}.tar").write_bytes(tar_of(members))
    return folder


@pytest.fixture(scope="module")
def expected(raw: Path) -> dict[str, bytes]:
    """What one process writes."""
    clean_pairs([raw], raw.parent / "one", "in_house", workers=1)
    return content_of(raw.parent / "one")


def die_once(job: UnitJob) -> int:
    """The first worker at unit 3 is killed in the second batch, when its shard is half on the disk."""
    marker = job.out_dir.parent / "died"
    if job.index == 3 and not marker.exists():
        marker.touch()
        probe, calls = images.probe, itertools.count()

        def die_at_last(source: images.ImageSource) -> tuple[int, int]:
            if next(calls) == PAIRS - 5:
                os.kill(os.getpid(), signal.SIGKILL)
            return probe(source)

        images.probe = die_at_last
    return clean_unit(job)


def say_where(job: UnitJob) -> int:
    """Leaves time to take the machine away while it works."""
    import ray

    (job.out_dir.parent / f"{job.index}.{ray.get_runtime_context().get_node_id()}").touch()
    time.sleep(0.5)
    return clean_unit(job)


def test_the_files_are_those_of_one_process_even_when_the_driver_dies(
    ray_cluster: Any, raw: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "qvl", "data", "clean", str(raw), "--source", "in_house"]
    command += ["--engine", "ray", "--out", str(tmp_path / "killed")]
    driver = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)  # joins by RAY_ADDRESS
    counts = tmp_path / "killed" / "counts"
    while driver.poll() is None and not list(counts.glob("in_house*.json")):
        time.sleep(0.01)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    assert not (tmp_path / "killed" / "funnel.json").exists()
    clean_pairs([raw], tmp_path / "killed", "in_house", engine="ray")
    assert content_of(tmp_path / "killed") == expected


def test_a_worker_killed_in_the_middle_changes_nothing(
    ray_cluster: Any, raw: Path, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "clean_unit", die_once)
    clean_pairs([raw], tmp_path / "out", "in_house", engine="ray")
    assert (tmp_path / "died").exists()
    assert content_of(tmp_path / "out") == expected


def test_a_machine_lost_in_the_middle_changes_nothing(
    ray_cluster: Any, raw: Path, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = ray_cluster.add_node(num_cpus=1)
    lost: list[str] = []  # units that the machine had begun and not finished

    def take_away() -> None:
        while not (begun := list(tmp_path.glob(f"*.{node.node_id}"))):
            time.sleep(0.01)
        ray_cluster.remove_node(node, allow_graceful=False)
        counts = tmp_path / "out" / "counts"
        lost.extend(p.stem for p in begun if not (counts / f"in_house-{int(p.stem):06d}.json").exists())

    thread = threading.Thread(target=take_away)
    thread.start()
    monkeypatch.setattr(run, "clean_unit", say_where)
    clean_pairs([raw], tmp_path / "out", "in_house", engine="ray")
    thread.join()
    assert lost
    assert content_of(tmp_path / "out") == expected
