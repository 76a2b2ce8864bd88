"""A step that is no good leaves the weights alone and is told with its samples."""

import json
import math
from pathlib import Path

import pytest
import torch

from qvl.errors import TrainingError
from qvl.model.qwen_vl import QwenVL
from qvl.train import trainer
from qvl.train.faults import MAX_SKIPPED, SKIPPED_NAME, USUAL_AFTER, Faults
from qvl.train.measure import Seen
from qvl.train.ranks import ALONE
from qvl.train.recipe import OptimConfig
from qvl.train.trainer import run_recipe

RECIPE = Path(__file__).parents[2] / "recipes" / "tiny" / "multitask.toml"
VALUES = ["init_from={}", "data.split_dirs=['world/train']", "data.batch_rows=1", "grad_accumulation=2"]


OPTIM = OptimConfig(peak_lr=1e-3, min_lr=0.0, warmup_steps=0, grad_clip=1.0, skip_above=20.0)


def seen(*losses: float) -> Seen:
    """A step of micro-batches with one sample each: a, b, ..."""
    return Seen(sum(losses), 1.0, micro_batches=[(loss, (chr(97 + i),)) for i, loss in enumerate(losses)])


def noted(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / SKIPPED_NAME).read_text().splitlines()]


def test_the_samples_of_the_micro_batch_without_a_loss_are_named(tmp_path: Path) -> None:
    faults = Faults(tmp_path, OPTIM, ALONE)
    assert faults.judge(0, seen(1.0, 2.0), 1.0) is None
    assert faults.judge(1, seen(1.0, math.nan), 1.0) == "its loss is nan"
    assert faults.judge(2, seen(1.0, 2.0), math.inf) == "its gradient's norm is inf"
    assert [(line["step"], line["samples"]) for line in noted(tmp_path)] == [(1, ["b"]), (2, ["a", "b"])]


def test_a_norm_out_of_proportion_is_a_fault_once_it_is_known_what_is_usual(tmp_path: Path) -> None:
    faults = Faults(tmp_path, OPTIM, ALONE)
    for step in range(USUAL_AFTER):
        assert faults.judge(step, seen(1.0), 30.0 if step == 0 else 1.0) is None  # at first anything may be usual
    assert faults.judge(20, seen(1.0), 19.0) is None
    assert faults.judge(21, seen(1.0), 21.0) == "its gradient's norm is 21, usual is 1"


def test_a_norm_that_needs_no_clipping_is_none_however_small_the_others_are(tmp_path: Path) -> None:
    faults = Faults(tmp_path, OPTIM, ALONE)
    for step in range(USUAL_AFTER):
        faults.judge(step, seen(0.01), 0.002)
    assert faults.judge(20, seen(0.3), 0.9) is None
    assert faults.judge(21, seen(0.3), 1.1) == "its gradient's norm is 1.1, usual is 0.002"


def test_many_in_a_row_end_the_run_but_not_many_in_all(tmp_path: Path) -> None:
    faults = Faults(tmp_path, OPTIM, ALONE)
    for step in range(MAX_SKIPPED - 1):
        faults.judge(step, seen(math.nan), 1.0)
    faults.judge(9, seen(1.0), 1.0)
    for step in range(MAX_SKIPPED - 1):
        faults.judge(10 + step, seen(math.nan), 1.0)
    with pytest.raises(TrainingError, match="10 steps in a row were skipped"):
        faults.judge(19, seen(math.nan), 1.0)


def test_a_skipped_step_leaves_weights_and_moments_and_the_run_goes_on(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of the third step is made not a number: the model is that of three other steps' learning."""
    (tmp_path / "world").symlink_to(run_dir / "world")
    loss, calls = QwenVL.loss, 0
    weights = []

    def broken(self: QwenVL, *args: object, **values: object) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal calls
        calls += 1
        weights.append(self.language.head.weight.detach().clone())
        total, weight = loss(self, *args, **values)  # type: ignore[arg-type]
        return (total * math.nan, weight) if calls == 5 else (total, weight)

    monkeypatch.setattr(trainer.QwenVL, "loss", broken)
    run_recipe(RECIPE, ["steps=4", *VALUES], tmp_path)
    log = [json.loads(line) for line in (tmp_path / "multitask" / "log.jsonl").read_text().splitlines()]
    assert ["skipped" in line for line in log] == [False, False, True, False]
    assert torch.equal(weights[4], weights[6])  # before and after it
    assert not torch.equal(weights[2], weights[4])
    [line] = noted(tmp_path / "multitask")
    assert line["step"] == 2
    assert len(line["samples"]) < log[2]["samples"]  # the other micro-batch was good
