"""kill -9 in the middle of a stage, run the same command again: the same losses as never killed, to the bit."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RECIPES = Path(__file__).parents[2] / "recipes" / "tiny"
STEPS, KILL_AFTER = 8, 4


def command(stage: str, run_dir: Path) -> list[str]:
    values = [f"steps={STEPS}", "save_every=2", "data.batch_rows=2", "init_from={}", "grad_accumulation=2"]
    values += ['data.split_dirs=["world/train"]'] if stage != "warmup_vision" else []
    flags = [flag for value in values for flag in ("--set", value)]
    return [sys.executable, "-m", "qvl", "train", str(RECIPES / f"{stage}.toml"), "--out", str(run_dir), *flags]


def log_of(run_dir: Path, stage: str) -> list[dict[str, float]]:
    path = run_dir / stage / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("stage", ["multitask", "warmup_vision"])
def test_killed_run_resumes_to_the_bit(stage: str, run_dir: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        shutil.copytree(run_dir / "world", folder / "world")
    subprocess.run(command(stage, whole), check=True, capture_output=True, timeout=300)

    process = subprocess.Popen(command(stage, killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while len(log_of(killed, stage)) <= KILL_AFTER and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    assert not (killed / stage / "checkpoint" / "config.json").exists()  # it was in the middle
    subprocess.run(command(stage, killed), check=True, capture_output=True, timeout=300)

    exact = ("step", "loss", "lr", "grad_norm", "samples", "tokens")
    expected = [{key: line[key] for key in exact} for line in log_of(whole, stage)]
    assert [{key: line[key] for key in exact} for line in log_of(killed, stage)] == expected
    assert len(expected) == STEPS
    weights = [folder / stage / "checkpoint" / "model.safetensors" for folder in (whole, killed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
