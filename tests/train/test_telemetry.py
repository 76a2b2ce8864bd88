"""What a run says of itself."""

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from qvl.errors import MissingDependencyError
from qvl.train import sinks
from qvl.train.recipe import load_recipe
from qvl.train.trainer import run_recipe

RECIPE = Path(__file__).parents[2] / "recipes" / "tiny" / "multitask.toml"
VALUES = ["init_from={}", "data.split_dirs=['world/train']", "data.batch_rows=1", "steps=3"]


def test_each_step_is_told_whole_in_the_log_and_to_tensorboard(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "world").symlink_to(run_dir / "world")
    run_recipe(RECIPE, VALUES, tmp_path, log_to=["tensorboard"])
    stage = tmp_path / "multitask"
    log = [json.loads(line) for line in (stage / "log.jsonl").read_text().splitlines()]
    for line in log:
        parts = line["grad_norms"]
        assert set(parts) == {"vision", "adapter", "language"}
        assert sum(norm**2 for norm in parts.values()) ** 0.5 == pytest.approx(line["grad_norm"], abs=1e-3)
        assert line["images"] > 0
        assert line["tflop_per_s"] > 0
        assert "mfu" not in line  # of a CPU nobody knows the peak
        assert line["data_wait_s"] < line["elapsed_s"]
        assert 0.1 < line["peak_memory_gb"] < 100
    events = EventAccumulator(str(stage / "tensorboard"))
    events.Reload()
    assert [event.value for event in events.Scalars("loss")] == pytest.approx([line["loss"] for line in log])
    assert "grad_norms/vision" in events.Tags()["scalars"]


def test_a_sink_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'qvl\[wandb\]'"):
        sinks.open_sink("wandb", tmp_path, load_recipe(RECIPE), 0)
