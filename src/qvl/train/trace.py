"""A training step -> the samples it saw. Nothing is logged for it: the order follows from the recipe and the shards."""

import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from qvl.data.loader import Loader
from qvl.data.sample import Sample
from qvl.data.stream import Row
from qvl.errors import UsageError
from qvl.text.tokenizer import Tokenizer
from qvl.train.recipe import Recipe, recipe_from_dict
from qvl.train.stage import build_loader, model_config, tokenizer_of
from qvl.train.trainer import RECIPE_NAME, check_shards


@dataclass(frozen=True)
class TracedStep:
    """batches: the rows of each batch of the step, in the order in which they are read."""

    recipe: Recipe
    tokenizer: Tokenizer
    batches: list[list[Row]]


def recipe_of(stage_dir: Path) -> Recipe:
    """With which the stage trained. UsageError for a folder without one."""
    path = stage_dir / RECIPE_NAME
    if not path.exists():
        raise UsageError(f"{stage_dir}: no stage here ({RECIPE_NAME} is missing); give a folder such as runs/tiny/sft")
    return recipe_from_dict(json.loads(path.read_text(encoding="utf-8")))


def traced_step(stage_dir: Path, step: int) -> TracedStep:
    """The rows of step `step` (from 0) of a stage.

    UsageError for a folder without a stage, a step that it does not have, or the vision warm-up, which sees pictures
    without samples; DataError when the shards are not those that the stage trained on.
    """
    recipe = recipe_of(stage_dir)
    if not 0 <= step < recipe.steps:
        raise UsageError(f"step {step}: {stage_dir} has steps 0 to {recipe.steps - 1}")
    tokenizer = tokenizer_of(recipe)
    loader = build_loader(recipe, stage_dir.resolve().parent, model_config(recipe, tokenizer), tokenizer)
    if not isinstance(loader, Loader):
        raise UsageError(f"{stage_dir}: its pictures are drawn for it and belong to no sample")
    check_shards(stage_dir, loader)
    first = step * recipe.batches_per_step
    batches = [rows for rows, _ in islice(loader.rows(), first, first + recipe.batches_per_step)]
    return TracedStep(recipe, tokenizer, batches)


def trace_step(stage_dir: Path, step: int) -> list[Sample]:
    """The samples of a step in the order in which the batch holds them; errors of traced_step."""
    return [drawn.sample for rows in traced_step(stage_dir, step).batches for row in rows for drawn in row]
