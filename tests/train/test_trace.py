"""A step's samples are found again from the recipe and the shards alone."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from qvl.cli import main
from qvl.data.sample import read_shard, write_shard
from qvl.errors import DataError, UsageError
from qvl.train.recipe import load_recipe
from qvl.train.trace import trace_step
from qvl.train.trainer import build_loader, model_config, run_recipe, tokenizer_of

RECIPES = Path(__file__).parents[2] / "recipes" / "tiny"
SMALL = ["data.batch_rows=2", 'data.split_dirs=["world/train"]', "steps=9", "grad_accumulation=2"]


@pytest.mark.parametrize("stage", ["pretrain", "multitask"])  # padded, packed
def test_a_step_is_traced_to_the_samples_of_its_batches(stage: str, run_dir: Path, tmp_path: Path) -> None:
    recipe = load_recipe(RECIPES / f"{stage}.toml", SMALL)
    tokenizer = tokenizer_of(recipe)
    batches = iter(build_loader(recipe, run_dir, model_config(recipe, tokenizer), tokenizer))
    seen = [next(batches)[0].sample_ids for _ in range(8)]
    (tmp_path / "world").symlink_to(run_dir / "world")
    (tmp_path / stage).mkdir()
    (tmp_path / stage / "recipe.json").write_text(json.dumps(asdict(recipe)))
    traced = trace_step(tmp_path / stage, 3)
    assert tuple(sample.id for sample in traced) == seen[6] + seen[7]
    assert all(sample.provenance["row"] for sample in traced)


def test_the_command_prints_the_rows_of_a_trained_step(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "world").symlink_to(run_dir / "world")
    small = ["data.batch_rows=1", "steps=1", 'data.split_dirs=["world/train"]']
    stage_dir = run_recipe(RECIPES / "warmup_text.toml", small, tmp_path)
    capsys.readouterr()
    assert main(["data", "trace", str(stage_dir), "--step", "0"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines
    assert all(line["task"] == "text" and line["source"] == "world" for line in lines)


def test_other_shards_than_those_of_the_run_are_refused(run_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(run_dir / "world" / "train", tmp_path / "world" / "train")
    small = ["data.batch_rows=1", "steps=1", 'data.split_dirs=["world/train"]']
    stage_dir = run_recipe(RECIPES / "warmup_text.toml", small, tmp_path)
    shard = next((tmp_path / "world" / "train").iterdir())
    write_shard(list(read_shard(shard))[:-1], shard)
    with pytest.raises(DataError, match="began with other shards"):
        trace_step(stage_dir, 0)
    shutil.rmtree(stage_dir / "checkpoint")  # as if it had been killed
    with pytest.raises(DataError, match="put those back, or delete that folder"):
        run_recipe(RECIPES / "warmup_text.toml", small, tmp_path)


def test_what_can_not_be_traced_is_said(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no stage here"):
        trace_step(tmp_path, 0)
    for name, settings, message in (
        ("warmup_text", ["steps=5"], "has steps 0 to 4"),
        ("warmup_vision", ["steps=9"], "belong to no sample"),
    ):
        (tmp_path / name).mkdir()
        recipe = load_recipe(RECIPES / f"{name}.toml", settings)
        (tmp_path / name / "recipe.json").write_text(json.dumps(asdict(recipe)))
        if not (tmp_path / "world").exists():
            (tmp_path / "world").symlink_to(run_dir / "world")
        with pytest.raises(UsageError, match=message):
            trace_step(tmp_path / name, 5)
