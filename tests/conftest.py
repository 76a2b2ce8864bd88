"""What several folders of tests share: a small untrained model on disk, a small held-out split, a Ray cluster."""

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from qvl.checkpoint import save_model
from qvl.data.sample import LANGUAGES, write_shard
from qvl.data.world.tasks import make_sample
from qvl.evaluate.scoring import TASKS
from qvl.model.config import PRESETS
from qvl.model.qwen_vl import QwenVL
from qvl.text.tokenizer import Tokenizer

hypothesis.settings.register_profile("untimed", deadline=None)  # other tests run beside: a time limit fails by chance
hypothesis.settings.load_profile("untimed")


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


RAY_ENVIRONMENT = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    """A real Ray cluster of two nodes on this machine, with one core each; drivers find it by RAY_ADDRESS."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in RAY_ENVIRONMENT.items():
            patch.setenv(name, value)
        import ray
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        cluster.add_node(num_cpus=1)
        patch.setenv("RAY_ADDRESS", cluster.address)
        paths = os.pathsep.join(filter(None, sys.path))  # so that workers find the functions of tests
        ray.init(log_to_driver=False, logging_level="error", runtime_env={"env_vars": {"PYTHONPATH": paths}})
        yield cluster
        ray.shutdown()
        cluster.shutdown()
