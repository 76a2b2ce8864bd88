"""A run folder small enough to train in seconds: a world of a few dozen samples and their dense labels."""

from pathlib import Path

import pytest

from qvl.data.sample import LANGUAGES, TASKS, write_shard
from qvl.data.world.build import write_dense
from qvl.data.world.tasks import make_sample
from qvl.model.config import PRESETS

RECIPES = Path(__file__).parents[2] / "recipes" / "tiny"


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    samples = [make_sample(1, "train", i, task, language) for task in TASKS for language in LANGUAGES for i in range(6)]
    write_shard(samples, folder / "world" / "train" / "00000.parquet")
    write_dense(folder / "world" / "dense", seed=1, count=16, grid=PRESETS["tiny"].vision.grid, workers=1)
    return folder
