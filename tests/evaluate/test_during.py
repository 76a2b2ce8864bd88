"""Benchmarks as training goes: curves come out, and what is learnt does not change."""

import json
from pathlib import Path

import pytest

from qvl.cli.verb import run_benchmarks
from qvl.errors import RecipeError
from qvl.evaluate.during import curves
from qvl.evaluate.report import write_report
from qvl.train.recipe import load_recipe
from qvl.train.trainer import run_recipe

PRETRAIN = Path(__file__).parents[2] / "recipes" / "tiny" / "pretrain.toml"


def test_scores_of_some_steps_are_noted_and_training_is_as_without(split_dir: Path, tmp_path: Path) -> None:
    changes = ["init_from={}", "steps=3", "data.batch_rows=2", f"data.split_dirs=['{split_dir}']"]
    changes += [f"evaluate.data='{split_dir}'", "evaluate.every=2", "evaluate.limit=1"]
    asked = run_recipe(PRETRAIN, changes, tmp_path / "asked", benchmarks=run_benchmarks)
    plain = run_recipe(PRETRAIN, changes, tmp_path / "plain")
    found = curves(asked)
    assert set(found) == {"world-caption", "world-vqa"}
    assert [step for step, _ in found["world-caption"]] == [0, 2, 3]
    assert curves(plain) == {}
    logs = [(stage / "log.jsonl").read_text().splitlines() for stage in (asked, plain)]
    losses = [[json.loads(line)["loss"] for line in log] for log in logs]
    assert losses[0] == losses[1]
    weights = [(stage / "checkpoint" / "model.safetensors").read_bytes() for stage in (asked, plain)]
    assert weights[0] == weights[1]
    page = write_report(tmp_path / "asked", [split_dir]).read_text(encoding="utf-8")
    assert "Figure 6" in page
    assert "pretrain, world-vqa" in page


@pytest.mark.parametrize("change", ["evaluate.every=0", "evaluate.tasks=[]", "evaluate.limit=0", "evaluate.limits=3"])
def test_impossible_settings_are_named(change: str) -> None:
    with pytest.raises(RecipeError, match=change.split("=")[0].rstrip("s")):
        load_recipe(PRETRAIN, [change])
