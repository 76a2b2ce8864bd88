"""Several ranks, real processes that talk over gloo: they learn what one process learns, whatever they share out."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from rank_worker import RECIPE, VALUES, small_config
from safetensors.torch import load_file

from qvl.errors import TrainingError
from qvl.text.tokenizer import Tokenizer
from qvl.train.recipe import load_recipe
from qvl.train.stage import build_loader

WORKER = Path(__file__).with_name("rank_worker.py")
WAYS = {  # ranks, ranks that share each sample -> name: what is shared out
    (2, 1): {"optimizer2": "optimizer", "gradients2": "gradients", "parameters2": "parameters"},
    (2, 2): {"tensor2": "optimizer"},
    (4, 1): {"optimizer4": "optimizer", "parameters4": "parameters"},
    (4, 2): {"tensor4": "parameters"},
}


def train_on(ranks: int, run_dir: Path, out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the worker as so many ranks; a hang ends at the limit."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command = [*command, str(WORKER), str(run_dir), str(out), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def out(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run of one process in `one`."""
    folder = tmp_path_factory.mktemp("ranks")
    done = train_on(1, run_dir, folder, "1", "one:optimizer")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize(("ranks", "tensor"), WAYS)
def test_every_way_of_sharing_learns_the_same(ranks: int, tensor: int, run_dir: Path, out: Path) -> None:
    ways = WAYS[ranks, tensor]
    done = train_on(ranks, run_dir, out, str(tensor), *(f"{name}:{shard}" for name, shard in ways.items()))
    assert done.returncode == 0, done.stderr
    expected, weights = log_of(out / "one"), load_file(out / "one" / "checkpoint" / "model.safetensors")
    assert len(expected) == 50
    for name in ways:
        for line, other in zip(expected, log_of(out / name), strict=True):
            assert other["loss"] == pytest.approx(line["loss"], abs=1e-4), (name, line["step"])
            assert other["grad_norm"] == pytest.approx(line["grad_norm"], rel=1e-2)
            for key in ("samples", "images", "tokens"):
                assert other[key] == line[key]
        shared = load_file(out / name / "checkpoint" / "model.safetensors")
        assert max(float((shared[key] - weight).abs().max()) for key, weight in weights.items()) < 1e-3


def test_batches_hold_no_picture_at_times(run_dir: Path) -> None:
    """What the test above is about: a rank with text alone must do as the others do."""
    tokenizer = Tokenizer.tiny()
    loader = build_loader(load_recipe(RECIPE, VALUES), run_dir, small_config(tokenizer), tokenizer)
    assert {len(batch.pixels) > 0 for batch, _ in islice(loader, 40)} == {True, False}


def test_a_run_goes_on_with_another_number_of_ranks(run_dir: Path, out: Path) -> None:
    """Two ranks, then one, then two: the samples and, but for the order of sums, the losses of one rank."""
    for ranks, steps in ((2, 4), (1, 8), (2, 12)):
        # Stopped by its number of steps; the schedule must not know.
        values = ["optim.min_lr=1e-3", "save_every=4", f"steps={steps + 1}"]
        done = train_on(ranks, run_dir, out / "moved", "1", "moving:optimizer", *values)
        assert done.returncode == 0, done.stderr
    straight = train_on(1, run_dir, out / "moved", "1", "straight:optimizer", "optim.min_lr=1e-3", "steps=13")
    assert straight.returncode == 0, straight.stderr
    expected, found = (log_of(out / "moved" / name) for name in ("straight", "moving"))
    assert [line["step"] for line in found] == list(range(13))
    for line, other in zip(expected, found, strict=True):
        assert other["loss"] == pytest.approx(line["loss"], abs=1e-4)
        assert [other[key] for key in ("samples", "images", "tokens")] == [
            line[key] for key in ("samples", "images", "tokens")
        ]


def test_a_rank_that_dies_ends_the_job_and_says_how_to_go_on(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "world").symlink_to(run_dir / "world")
    values = ["steps=200", "init_from={}", "data.batch_rows=1", "data.streams=2", "data.split_dirs=['world/train']"]
    flags = [flag for value in [*values, "data.mixture={vqa = 1.0}"] for flag in ("--set", value)]
    command = [sys.executable, "-m", "qvl", "train", str(RECIPE), "--out", str(tmp_path), "--ranks", "2", *flags]
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "multitask" / "log.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process = process_of(job.pid, rank=1)
    os.kill(process, signal.SIGKILL)
    _, said = job.communicate(timeout=60)
    assert job.returncode == TrainingError.exit_code
    assert "Traceback" not in said
    last = said.splitlines()[-1]
    assert last.startswith(f"error: rank 1 (process {process}) was killed by SIGKILL")
    assert last.endswith("--ranks 2")


def process_of(job: int, rank: int) -> int:
    """The process of a rank, of those that a job has started."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == job and f"RANK={rank}" in (folder / "environ").read_text().split("\0"):
                return int(folder.name)
        except OSError:
            continue
    raise AssertionError(f"job {job} has no rank {rank}")
