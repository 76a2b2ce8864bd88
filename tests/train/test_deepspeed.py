"""DeepSpeed's engine on two ranks, real processes that talk over gloo: it learns what one process learns without it."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from qvl.errors import RecipeError
from qvl.model.config import PRESETS
from qvl.train.deepspeed_json import deepspeed_settings
from qvl.train.recipe import Recipe, load_recipe, recipe_to_toml
from qvl.train.trainer import run_recipe

WORKER = Path(__file__).with_name("recipe_worker.py")
STEPS = 28
VALUES = [f"steps={STEPS}", "save_every=10", "optim.grad_clip=0.1", "held_out.every=14"]
# As the published code's files are, for either stage.
GIVEN: dict[str, Any] = {
    "fp16": {"enabled": "auto", "loss_scale": 0},
    "bf16": {"enabled": "auto"},
    "optimizer": {
        "type": "AdamW",
        "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"},
    },
    "scheduler": {"type": "WarmupLR", "params": {"warmup_min_lr": "auto", "warmup_num_steps": "auto"}},
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "steps_per_print": 1000,
    "wall_clock_breakdown": False,
}
ZERO: dict[str, Any] = {
    "zero2": {"stage": 2, "overlap_comm": True, "reduce_bucket_size": "auto", "contiguous_gradients": True},
    "zero3": {"stage": 3, "stage3_prefetch_bucket_size": "auto", "stage3_param_persistence_threshold": 100},
}


def written(folder: Path, recipe: Recipe, kind: str, *values: str) -> Path:
    """The recipe with DeepSpeed of a kind, in a file."""
    settings = folder / f"{kind}.json"
    settings.write_text(json.dumps({**GIVEN, "zero_optimization": ZERO[kind]}))
    path = folder / f"{kind}.toml"
    path.write_text(recipe_to_toml(replace(recipe, name=kind)))
    path.write_text(recipe_to_toml(load_recipe(path, [*VALUES, f"parallel.deepspeed={settings}", *values])))
    return path


def train_on_two(out: Path, *paths: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(WORKER), str(out), *map(str, paths)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, env=environment, check=False)
    assert done.returncode == 0, done.stderr


def log_of(stage: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (stage / "log.jsonl").read_text().splitlines()]


def losses_of(stage: Path) -> list[float]:
    return [line["loss"] for line in log_of(stage)]


@pytest.fixture(scope="module")
def out(recipes: dict[str, Recipe], run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run of one process in `full`, and with both kinds."""
    folder = tmp_path_factory.mktemp("deepspeed")
    (folder / "world").symlink_to(run_dir / "world")
    plain = folder / "full.toml"
    plain.write_text(recipe_to_toml(recipes["full"]))
    run_recipe(plain, VALUES, out=folder)
    train_on_two(folder, *(written(folder, recipes["full"], kind) for kind in ZERO))
    return folder


@pytest.mark.parametrize("kind", ZERO)
def test_two_ranks_learn_what_one_process_learns(kind: str, out: Path) -> None:
    expected, found = log_of(out / "full"), log_of(out / kind)
    assert len(found) == STEPS
    for line, other in zip(expected, found, strict=True):
        assert other["loss"] == pytest.approx(line["loss"], abs=1e-4), line["step"]
        assert other["grad_norm"] == pytest.approx(line["grad_norm"], rel=1e-2)
        for key in ("lr", "samples", "images", "tokens"):
            assert other[key] == line[key]
    held_out = [(out / name / "held_out.jsonl").read_text().splitlines() for name in ("full", kind)]
    for line, other in zip(*(map(json.loads, lines) for lines in held_out), strict=True):
        assert other["loss"] == pytest.approx(line["loss"], abs=1e-4)
    weights, own = (load_file(out / name / "checkpoint" / "model.safetensors") for name in ("full", kind))
    assert max(float((own[name] - tensor).abs().max()) for name, tensor in weights.items()) < 1e-3


@pytest.fixture(scope="module")
def resumed(out: Path, recipes: dict[str, Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs gone on from their states of step 20, and such whose gradients were much smaller till then."""
    folder = tmp_path_factory.mktemp("resumed")
    (folder / "world").symlink_to(out / "world")
    paths = [written(folder, recipes["full"], kind, f"name={kind}") for kind in ZERO]
    for kind in ZERO:
        shutil.copytree(out / kind, folder / kind)
        shutil.rmtree(folder / kind / "checkpoint")
        skips = shutil.copytree(folder / kind, folder / f"{kind}-skips")
        (skips / "recipe.json").write_text((skips / "recipe.json").read_text().replace(f'"{kind}"', f'"{kind}-skips"'))
        state = skips / "deepspeed" / "step-00000020" / "values.json"
        values = json.loads(state.read_text())
        values["values"]["norms"] = [1e-3] * 20
        state.write_text(json.dumps(values))
        path = folder / f"{kind}-skips.toml"
        path.write_text((folder / f"{kind}.toml").read_text().replace(f'name = "{kind}"', f'name = "{kind}-skips"'))
        paths.append(path)
    with pytest.raises(RecipeError, match="state of 2 ranks can't be read by 1; go on with 2"):
        run_recipe(paths[0], out=folder)
    with pytest.raises(RecipeError, match=r"began with parallel\.deepspeed"):
        run_recipe(paths[0], ["parallel.deepspeed="], out=folder)
    train_on_two(folder, *paths)
    return folder


@pytest.mark.parametrize("kind", ZERO)
def test_a_run_goes_on_from_its_state(kind: str, out: Path, resumed: Path) -> None:
    assert losses_of(resumed / kind) == pytest.approx(losses_of(out / kind), abs=1e-5)


@pytest.mark.parametrize("kind", ZERO)
def test_a_skipped_step_moves_nothing(kind: str, out: Path, resumed: Path) -> None:
    lines, losses = log_of(resumed / f"{kind}-skips"), losses_of(out / kind)
    assert [line["step"] for line in lines if "skipped" in line] == list(range(20, STEPS))
    assert lines[20]["loss"] == pytest.approx(losses[20], abs=1e-5)
    assert abs(lines[21]["loss"] - losses[21]) > 1e-3
    records = [json.loads(line) for line in (resumed / f"{kind}-skips" / "skipped.jsonl").read_text().splitlines()]
    assert all(record["samples"] for record in records)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gradient_clipping": 0.5}, r"gradient_clipping = 0.5, but by the recipe it is 1.0"),
        ({"bf16": {"enabled": False}}, r"bf16.enabled = false, but by the recipe it is True"),
        ({"fp16": {"enabled": True}}, r"fp16.enabled = true"),
        ({"optimizer": {"params": {"lr": 1.0}}}, r"optimizer.params.lr = 1.0, but by the recipe it is 5e-05"),
        ({"optimizer": {"type": "Lamb"}}, r'optimizer.type = "Lamb"'),
        ({"scheduler": {"params": {"warmup_num_steps": 7}}}, "scheduler: the recipe's"),
        ({"train_batch_size": 7}, "train_batch_size = 7, but by the recipe it is 1024"),
        ({"curriculum_learning": {}}, "curriculum_learning is not known here"),
        ({"zero_optimization": {"stage": 1}}, "zero_optimization.stage = 1: 2 or 3"),
        ({"zero_optimization": {"stage": 3, "offload_param": {"device": "auto"}}}, 'offload_param.device = "auto"'),
    ],
)
def test_what_contradicts_the_recipe_is_named(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    recipe = load_recipe(Path("recipes/multitask.toml"), ["parallel.tensor=1"])
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({**GIVEN, "zero_optimization": ZERO["zero3"], **change}))
    with pytest.raises(RecipeError, match=said):
        deepspeed_settings(path, recipe, PRESETS["qwen-vl"], 8)


def test_auto_is_the_recipes_value(tmp_path: Path) -> None:
    recipe = load_recipe(Path("recipes/multitask.toml"), ["parallel.tensor=1"])
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({**GIVEN, "zero_optimization": ZERO["zero2"]}))
    settings = deepspeed_settings(path, recipe, PRESETS["qwen-vl"], 8)
    assert settings["gradient_accumulation_steps"] == 128  # 8 batches of each of 128 streams, on 8 ranks
    assert settings["bf16"] == {"enabled": True}
    assert settings["zero_optimization"]["reduce_bucket_size"] == 4096**2
    assert "optimizer" not in settings  # ours, with its groups
    assert "auto" not in json.dumps(settings)


def test_what_deepspeed_leaves_to_pytorch_is_refused() -> None:
    for value, key in (("parallel.tensor=2", "parallel.tensor"), ("optim.optimizer=muon", "optim.optimizer")):
        with pytest.raises(RecipeError, match=key):
            load_recipe(Path("recipes/sft.toml"), ["parallel.tensor=1", "parallel.deepspeed=a.json", value])
