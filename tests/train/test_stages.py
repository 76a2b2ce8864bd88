"""Each stage trains exactly the parts that its recipe declares."""

from pathlib import Path

import pytest
import torch

from qvl.images import normalize
from qvl.model.qwen_vl import QwenVL
from qvl.text.tokenizer import Tokenizer
from qvl.train.measure import dense_measure, token_measure
from qvl.train.optim import build_optimizers, freeze
from qvl.train.recipe import Recipe, load_recipe
from qvl.train.stage import build_head, build_loader, model_config

RECIPES = Path(__file__).parents[2] / "recipes" / "tiny"
DECLARED = {
    "warmup_vision": {"vision", "adapter"},
    "warmup_text": {"language"},
    "pretrain": {"vision", "adapter"},
    "multitask": {"vision", "adapter", "language"},
    "sft": {"adapter", "language"},
}
SMALL = ["data.batch_rows=2", 'data.split_dirs=["world/train"]']


def small_recipe(stage: str) -> Recipe:
    dense = stage == "warmup_vision"
    return load_recipe(RECIPES / f"{stage}.toml", SMALL[:1] if dense else SMALL)


def gradients_after_one_batch(recipe: Recipe, run_dir: Path) -> tuple[QwenVL, set[str]]:
    """The model, and the names of its parameters with a gradient that is not zero everywhere."""
    tokenizer = Tokenizer.tiny()
    model = QwenVL(model_config(recipe, tokenizer))
    model.initialize(recipe.seed)
    freeze(model, recipe.trains)
    loader = build_loader(recipe, run_dir, model.config, tokenizer)
    head = build_head(recipe, model, tokenizer)
    measure = dense_measure(model, head, recipe, "cpu") if head is not None else token_measure(model, recipe, "cpu")
    batches = iter(loader)
    for _ in range(3):
        measure(next(batches)[0])[0].backward()
    return model, {n for n, p in model.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)}


@pytest.mark.parametrize("stage", DECLARED)
def test_parameters_with_a_gradient_are_the_declared_ones(stage: str, run_dir: Path) -> None:
    recipe = small_recipe(stage)
    assert set(recipe.trains) == DECLARED[stage]
    model, with_gradient = gradients_after_one_batch(recipe, run_dir)
    declared = {n for n, _ in model.named_parameters() if n.split(".")[0] in recipe.trains}
    assert with_gradient == declared - {"adapter.pos_embed"}  # the fixed table never trains


def test_optimizers_hold_each_trained_parameter_once(run_dir: Path) -> None:
    recipe = small_recipe("multitask")
    model = QwenVL(model_config(recipe, Tokenizer.tiny()))
    freeze(model, recipe.trains)
    held = [p for o in build_optimizers(model, recipe.optim) for g in o.param_groups for p in g["params"]]
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(held) == len(trained)
    assert {id(p) for p in held} == {id(p) for p in trained}


def test_vectors_do_not_decay_and_early_layers_learn_slower() -> None:
    recipe = load_recipe(RECIPES / "pretrain.toml", ["optim.optimizer=adamw", "optim.vision_layer_decay=0.5"])
    model = QwenVL(model_config(recipe, Tokenizer.tiny()))
    freeze(model, recipe.trains)
    [optimizer] = build_optimizers(model, recipe.optim)
    scales = {}
    for group in optimizer.param_groups:
        for param in group["params"]:
            assert (group["weight_decay"] > 0) == (param.ndim >= 2)
            scales[id(param)] = group["lr_scale"]
    blocks = model.vision.blocks
    assert scales[id(blocks[-1].c_fc.weight)] == 2 * scales[id(blocks[-2].c_fc.weight)]
    assert scales[id(model.adapter.query)] == recipe.optim.lr_scale.get("adapter", 1.0)


def test_losses_of_micro_batches_add_up(run_dir: Path) -> None:
    """Two micro-batches of one row give the gradient of one batch of two: both divide by all their tokens."""
    tokenizer = Tokenizer.tiny()
    recipe = load_recipe(RECIPES / "multitask.toml", SMALL)
    model = QwenVL(model_config(recipe, tokenizer))
    model.initialize(0)
    batch, _ = next(iter(build_loader(recipe, run_dir, model.config, tokenizer)))
    pixel_values = normalize(batch.pixels)
    whole, weight = model.loss(
        batch.input_ids, batch.labels, pixel_values, None, batch.document_ids, batch.loss_weights
    )
    starts = (batch.input_ids == model.config.image_start_id).sum(1)
    parts = torch.split(pixel_values, starts.tolist())
    total, total_weight = 0.0, 0.0
    for row, pixels in enumerate(parts):
        weights = None if batch.loss_weights is None else batch.loss_weights[row : row + 1]
        loss, count = model.loss(
            batch.input_ids[row : row + 1],
            batch.labels[row : row + 1],
            pixels,
            None,
            batch.document_ids[row : row + 1],
            weights,
        )
        total, total_weight = total + float(loss.detach()), total_weight + float(count)
    assert total == pytest.approx(float(whole.detach()), rel=1e-5)
    assert total_weight == pytest.approx(float(weight))
