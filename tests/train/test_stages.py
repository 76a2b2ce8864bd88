"""Each stage trains exactly the parts that its recipe declares."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from qvl.checkpoint.layout import load_model
from qvl.errors import RecipeError
from qvl.images import normalize
from qvl.model.qwen_vl import QwenVL
from qvl.text.tokenizer import Tokenizer
from qvl.train.measure import dense_measure, token_measure
from qvl.train.optim import Muon, build_optimizers, freeze
from qvl.train.recipe import Recipe, load_recipe
from qvl.train.stage import build_head, build_loader, initial_model, model_config, tokenizer_of

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


class Products(TorchDispatchMode):
    """The types of the matrix products that run within."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            self.dtypes.add(made.dtype)
        return made


@pytest.mark.parametrize("hardware", [True, False])
def test_muon_multiplies_in_what_the_processor_has(hardware: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is the same but for rounding, and no bf16 product is asked of a CPU without them."""
    monkeypatch.setattr("qvl.train.optim.multiplies_bf16", lambda _: hardware)
    weight = torch.nn.Parameter(torch.eye(8, 12))
    weight.grad = torch.randn(8, 12, generator=torch.Generator().manual_seed(1))
    with Products() as products:
        Muon([{"params": [weight]}], lr=0.1, weight_decay=0.0).step()
    assert products.dtypes == {torch.bfloat16 if hardware else torch.float32}
    plain = torch.nn.Parameter(torch.eye(8, 12))
    plain.grad = weight.grad
    torch.optim.Muon([{"params": [plain]}], lr=0.1, weight_decay=0.0).step()
    torch.testing.assert_close(weight, plain, atol=3e-3, rtol=0)


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


def test_a_checkpoint_folder_serves_as_preset(checkpoint_dir: Path, tmp_path: Path) -> None:
    """Sizes, vocabulary and weights are the folder's."""
    values = [f"preset={checkpoint_dir}", *(f"init_from.{part}={checkpoint_dir}" for part in DECLARED["multitask"])]
    recipe = load_recipe(RECIPES / "multitask.toml", values)
    tokenizer = tokenizer_of(recipe)
    assert tokenizer.ranks == Tokenizer.from_dir(checkpoint_dir).ranks
    saved = load_model(checkpoint_dir)
    assert model_config(recipe, tokenizer) == saved.config
    started = initial_model(recipe, tmp_path, tokenizer)
    assert all(torch.equal(a, b) for a, b in zip(started.parameters(), saved.parameters(), strict=True))


def test_a_preset_that_is_neither_name_nor_folder_is_refused(tmp_path: Path) -> None:
    recipe = load_recipe(RECIPES / "multitask.toml", [f"preset={tmp_path}"])
    with pytest.raises(RecipeError, match=r"neither a checkpoint folder nor a known preset \(qwen-vl, tiny\)"):
        tokenizer_of(recipe)
