"""What several folders of tests share: a small untrained model on disk, and a small held-out split."""

from dataclasses import replace
from pathlib import Path

import pytest

from qvl.checkpoint import save_model
from qvl.data.sample import LANGUAGES, write_shard
from qvl.data.world.tasks import make_sample
from qvl.evaluate.scoring import TASKS
from qvl.model.config import PRESETS
from qvl.model.qwen_vl import QwenVL
from qvl.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def checkpoint_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder: the tiny preset with fewer layers, untrained."""
    tokenizer, preset = Tokenizer.tiny(), PRESETS["tiny"]
    model = QwenVL(
        replace(
            preset,
            vision=replace(preset.vision, layers=1),
            language=replace(preset.language, num_layers=2),
            image_start_id=tokenizer.special.img_start,
        )
    )
    model.initialize(seed=1)
    folder = tmp_path_factory.mktemp("checkpoint")
    save_model(model, folder, tokenizer)
    return folder


@pytest.fixture(scope="session")
def split_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two samples of every scored task in each language."""
    folder = tmp_path_factory.mktemp("split")
    samples = [make_sample(3, "test", i, task, lang) for task in TASKS for lang in LANGUAGES for i in range(2)]
    write_shard(samples, folder / "00000.parquet")
    return folder
