"""Cleaning on a real Ray cluster of two nodes: the files of one process, and a driver that dies."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest_pairs import content_of, jpeg, pair

from qvl.data.pairs.run import clean_pairs

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray warns of its own deprecations


def test_the_files_are_those_of_one_process_even_when_the_driver_dies(
    ray_cluster: Any, tmp_path: Path, make_tar: Callable[..., Path]
) -> None:
    big = jpeg(1600, 1200)
    for shard in range(10):
        make_tar(f"{shard:05d}", *(pair(f"{shard}{i}", image=big) for i in range(60)), pair("broken", image=b"x"))
    clean_pairs([tmp_path / "raw"], tmp_path / "one", "in_house", workers=1)
    clean_pairs([tmp_path / "raw"], tmp_path / "ray", "in_house", engine="ray")
    assert content_of(tmp_path / "ray") == content_of(tmp_path / "one")

    command = [sys.executable, "-m", "qvl", "data", "clean", str(tmp_path / "raw"), "--source", "in_house"]
    command += ["--engine", "ray", "--out", str(tmp_path / "killed")]
    driver = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)  # joins by RAY_ADDRESS
    counts = tmp_path / "killed" / "counts"
    while driver.poll() is None and not list(counts.glob("in_house*.json")):
        time.sleep(0.01)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    assert not (tmp_path / "killed" / "funnel.json").exists()
    clean_pairs([tmp_path / "raw"], tmp_path / "killed", "in_house", engine="ray")
    assert content_of(tmp_path / "killed") == content_of(tmp_path / "one")
