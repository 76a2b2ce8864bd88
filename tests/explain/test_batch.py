"""A step's batch as it is told, beside the tensors that the trainer was given."""

import shutil
from pathlib import Path

import pytest

from qvl.cli import main
from qvl.data.sample import LANGUAGES, TASKS, write_shard
from qvl.data.world.tasks import make_sample
from qvl.errors import UsageError
from qvl.explain.batch import last_step, step_view
from qvl.explain.batch_page import write_step_page
from qvl.explain.batch_text import step_text
from qvl.text.special_tokens import IGNORE_INDEX
from qvl.train.recipe import load_recipe
from qvl.train.stage import build_loader, model_config, tokenizer_of
from qvl.train.trainer import run_recipe

RECIPES = Path("recipes/tiny")
SMALL = ["data.batch_rows=3", "steps=2", "grad_accumulation=2", 'data.split_dirs=["world/train"]', "preset=tiny"]
FRESH = "init_from={}"


@pytest.fixture(scope="module")
def stage_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stage 2, packed, two batches a step, from random weights."""
    folder = tmp_path_factory.mktemp("run")
    samples = [make_sample(1, "train", i, task, language) for task in TASKS for language in LANGUAGES for i in range(6)]
    write_shard(samples, folder / "world" / "train" / "00000.parquet")
    return run_recipe(RECIPES / "multitask.toml", [*SMALL, FRESH], folder)


def test_rows_are_those_of_the_trainer_s_tensors(stage_dir: Path) -> None:
    recipe = load_recipe(RECIPES / "multitask.toml", [*SMALL, FRESH])
    tokenizer = tokenizer_of(recipe)
    batches = iter(build_loader(recipe, stage_dir.parent, model_config(recipe, tokenizer), tokenizer))
    given = [next(batches)[0] for _ in range(4)][2:]  # of step 1
    view = step_view(stage_dir, 1)
    assert [row.batch for row in view.rows] == [1, 1, 1, 2, 2, 2]
    for number, batch in enumerate(given, 1):
        rows = [row for row in view.rows if row.batch == number]
        assert [row.width for row in rows] == [batch.input_ids.shape[1]] * 3
        assert [row.wasted for row in rows] == (batch.document_ids < 0).sum(1).tolist()
        assert [row.supervised for row in rows] == (batch.labels != IGNORE_INDEX).sum(1).tolist()
        pixels = (batch.input_ids == tokenizer.special.img_pad).sum(1).tolist()
        assert [sum(piece.picture for piece in row.pieces) for row in rows] == pixels
        assert tuple(piece.sample.id for row in rows for piece in row.pieces) == batch.sample_ids
    assert view.loss is not None
    assert sum(n["samples"] for n in view.by_task().values()) == sum(len(row.pieces) for row in view.rows)


def test_the_text_names_every_sample_and_its_source(stage_dir: Path) -> None:
    view = step_view(stage_dir, 0)
    text = step_text(view)
    assert f"loss {view.loss:.4f}" in text
    assert "2 batches of 3 rows, at most 192 tokens; packing isolated, loss_by square_root" in text
    for row in view.rows:
        for piece in row.pieces:
            assert piece.sample.id in text
            assert f"world: {piece.sample.provenance['row']}" in text


def test_the_page_holds_a_bar_for_each_sample_and_leads_to_it(stage_dir: Path, tmp_path: Path) -> None:
    view = step_view(stage_dir, 0)
    write_step_page(view, tmp_path / "step.html")
    written = (tmp_path / "step.html").read_text(encoding="utf-8")
    pieces = [f"{number}-{place}" for number, row in enumerate(view.rows, 1) for place in range(len(row.pieces))]
    for name in pieces:
        assert f"href='#{name}'" in written
        assert f"id='{name}'" in written
    assert written.count("class='piece'") == len(pieces)


def test_the_command_takes_the_newest_step(stage_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert last_step(stage_dir) == 1
    assert main(["explain", "batch", str(stage_dir), "--page", str(tmp_path / "step.html")]) == 0
    assert "step 1 of 0 to 1" in capsys.readouterr().out
    assert main(["explain", "batch", str(stage_dir), "--step", "2"]) == 2
    assert "has steps 0 to 1" in capsys.readouterr().err
    with pytest.raises(UsageError, match="no stage here"):
        last_step(tmp_path)
    shutil.copy(stage_dir / "recipe.json", tmp_path)
    with pytest.raises(UsageError, match="no step in its"):
        last_step(tmp_path)
