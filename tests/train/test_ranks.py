"""Several ranks, real processes that talk over gloo: they learn what one process learns, whatever they share out."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

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
