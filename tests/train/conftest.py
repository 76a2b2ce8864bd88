"""A run folder small enough to train in seconds, a world of a few dozen samples and their dense labels; recipes that
fine-tune on it."""

from pathlib import Path

import pytest
from lora_recipes import KINDS, recipe_of

from qvl.checkpoint import load_model
from qvl.checkpoint.config_json import config_to_json
from qvl.data.sample import LANGUAGES, TASKS, write_shard
from qvl.data.world.build import write_dense
from qvl.data.world.tasks import make_sample
from qvl.model.config import PRESETS
from qvl.quantize.layout import save_int4, to_int4
from qvl.text.tokenizer import Tokenizer
from qvl.train.recipe import Recipe

RECIPES = Path(__file__).parents[2] / "recipes" / "tiny"


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    samples = [make_sample(1, "train", i, task, language) for task in TASKS for language in LANGUAGES for i in range(6)]
    write_shard(samples, folder / "world" / "train" / "00000.parquet")
    write_dense(folder / "world" / "dense", seed=1, count=16, grid=PRESETS["tiny"].vision.grid, workers=1)
    return folder


@pytest.fixture(scope="session")
def recipes(checkpoint_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Recipe]:
    """Of every kind, on the small checkpoint, "gptq" on the same in Int4."""
    int4 = tmp_path_factory.mktemp("int4")
    model = load_model(checkpoint_dir)
    to_int4(model)
    save_int4(model, config_to_json(model.config), int4, Tokenizer.tiny())
    return {kind: recipe_of(kind, int4 if kind == "gptq" else checkpoint_dir) for kind in KINDS}
