from pathlib import Path

import pytest

from qvl.errors import RecipeError
from qvl.train.recipe import load_recipe

RECIPES = sorted(Path("recipes").rglob("*.toml"))
MULTITASK = Path("recipes/tiny/multitask.toml")


@pytest.mark.parametrize("path", [p for p in RECIPES if p.name != "world.toml"], ids=str)
def test_every_recipe_is_valid_and_named_after_its_file(path: Path) -> None:
    assert load_recipe(path).name == path.stem


def test_override_reaches_nested_keys_with_their_type() -> None:
    recipe = load_recipe(MULTITASK, ["steps=7", "optim.peak_lr=1", "data.mixture={vqa = 2}"])
    assert (recipe.steps, recipe.optim.peak_lr, recipe.data.mixture) == (7, 1.0, {"vqa": 2.0})


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("stepz=7", "did you mean 'steps'"),
        ("optim.peek_lr=1", "did you mean 'peak_lr'"),
        ("steps=many", "steps = 'many': expected int"),
        ("steps=0", "at least 1"),
        ("steps=true", "expected int"),
        ("trains=['vison']", "did you mean 'vision'"),
        ("data.mixture={vqaa = 1}", "did you mean 'vqa'"),
        ("optim.min_lr=9", "between 0 and peak_lr"),
        ("data.batch_rows", "write key=value"),
        ("data.split_dirs=[]", "data.split_dirs = (): expected at least one folder"),
        ("data.mixture={}", "data.mixture = {}: expected weights > 0"),
        ("objective='dense'", "expected empty for dense labels"),
        ("objective='gan'", "one of dense, next_token"),
        ("seed=-1", "seed = -1: expected at least 0"),
        ("name='../x'", "expected the name of a folder"),
        ("data.mixture={vqa = inf}", "data.mixture.vqa = inf: expected a finite number"),
        ("data.mixture={vqa = 1, caption = -0.5}", "data.mixture.caption = -0.5: expected at least 0"),
        ("optim.grad_clip=0", "optim.grad_clip = 0.0: expected more than 0"),
        ("optim.eps=-1", "optim.eps = -1.0: expected more than 0"),
        ("optim.betas=[0.9, 1]", "expected in [0, 1)"),
        ("optim.skip_above=1", "optim.skip_above = 1.0: expected more than 1"),
        ("image_size=0", "image_size = 0: expected at least 1"),
        ("num_queries=0", "num_queries = 0: expected at least 1"),
        ("attention_window=-1", "attention_window = -1: expected at least 0"),
        ("precision='fp8'", "precision = 'fp8': expected one of bf16, float32"),
        ("parallel.shard='weights'", "one of optimizer, gradients, parameters"),
        ("parallel.tensor=0", "parallel.tensor = 0: expected at least 1"),
    ],
)
def test_wrong_values_are_named(override: str, said: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(MULTITASK, [override])
    assert said in str(error.value)


def test_the_stages_have_the_paper_s_values() -> None:
    """Table 8; stage 2's batch of 4,096 samples is some 1,024 packed rows."""
    pretrain, multitask, sft = (
        load_recipe(Path(f"recipes/{stage}.toml")) for stage in ("pretrain", "multitask", "sft")
    )
    stages = (pretrain, multitask, sft)
    assert [r.data.batch_rows * r.batches_per_step for r in stages] == [30720, 1024, 128]
    assert [r.steps for r in stages] == [50000, 19000, 8000]
    assert [(r.optim.peak_lr, r.optim.min_lr, r.optim.warmup_steps) for r in stages] == [
        (2e-4, 1e-6, 500),
        (5e-5, 1e-5, 400),
        (1e-5, 1e-6, 3000),
    ]
    assert [(r.image_size, r.data.row_length) for r in stages] == [(224, 512), (448, 2048), (448, 2048)]
    assert [r.trains for r in stages] == [
        ("vision", "adapter"),
        ("vision", "adapter", "language"),
        ("adapter", "language"),
    ]
    for recipe in stages:
        optim = recipe.optim
        assert (optim.optimizer, optim.betas, optim.eps, optim.weight_decay) == ("adamw", (0.9, 0.98), 1e-6, 0.05)
        assert (optim.grad_clip, optim.vision_layer_decay) == (1.0, 0.95)


def test_a_recipe_is_complete(tmp_path: Path) -> None:
    text = MULTITASK.read_text(encoding="utf-8").replace("grad_accumulation = 1\n", "")
    (tmp_path / "r.toml").write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match="missing key 'grad_accumulation'"):
        load_recipe(tmp_path / "r.toml")


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such recipe"):
        load_recipe(tmp_path / "none.toml")
    (tmp_path / "r.toml").write_text("steps = = 3")
    with pytest.raises(RecipeError, match=r"r\.toml: not valid TOML"):
        load_recipe(tmp_path / "r.toml")
