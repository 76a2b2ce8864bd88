"""`qvl plan` on the paper's recipes, as a user reads it."""

import json
from typing import Any

import pytest

from qvl.cli import main


def planned(capsys: pytest.CaptureFixture[str], recipe: str, gpus: int, *flags: str) -> Any:
    command = ["plan", f"recipes/{recipe}.toml", "--gpus", str(gpus), "--device", "h100", "--json", *flags]
    assert main(command) == 0
    [plan] = json.loads(capsys.readouterr().out)
    return plan


@pytest.mark.parametrize("recipe", ["pretrain", "multitask", "sft"])
@pytest.mark.parametrize("gpus", [8, 64, 512])
def test_the_stages_on_clusters_are_planned_or_the_reason_is_said(
    recipe: str, gpus: int, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["plan", f"recipes/{recipe}.toml", "--gpus", str(gpus), "--device", "h100"])
    said = capsys.readouterr()
    assert code == 0
    assert "GPU-hours" in said.out or "data.streams" in said.out + said.err


def test_sharing_more_takes_less_memory_and_more_gpus_less_time(capsys: pytest.CaptureFixture[str]) -> None:
    few, many = (planned(capsys, "multitask", gpus) for gpus in (8, 64))
    peaks = {
        (way["shard"], way["tensor"], way["checkpoint_activations"]): way["memory_bytes"]["peak"]
        for way in many["ways"]
    }
    for tensor in (1, 2):
        for again in (False, True):
            each = [peaks[shard, tensor, again] for shard in ("parameters", "gradients", "optimizer")]
            assert each == sorted(each)
    assert peaks["optimizer", 1, True] < peaks["optimizer", 1, False]
    assert many["ways"][0]["seconds_per_step"] < few["ways"][0]["seconds_per_step"]
    # Float32 moments of all parameters, two of them, over the ranks.
    assert few["ways"][0]["memory_bytes"]["optimizer"] == 8 * 9_656_935_168 / 8


def test_another_device_is_named_with_the_near_miss(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "recipes/sft.toml", "--gpus", "8", "--device", "h10"]) == 2
    assert "did you mean 'h100'" in capsys.readouterr().err
