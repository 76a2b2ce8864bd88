"""Low-rank adapters: what trains, the file that peft reads elsewhere, and that merging changes nothing."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from qvl.checkpoint import load_model, save_model
from qvl.checkpoint.config_json import config_to_json
from qvl.errors import CheckpointError, RecipeError
from qvl.images import normalize
from qvl.model.config import PRESETS
from qvl.model.qwen_vl import QwenVL
from qvl.quantize.layout import load_any, save_int4, to_int4, to_whole
from qvl.quantize.nf4 import nf4_matrix, quantize_nf4
from qvl.text.tokenizer import Tokenizer
from qvl.train import lora
from qvl.train.chat_tokens import chat_tokens_look_trained
from qvl.train.measure import token_measure
from qvl.train.optim import build_optimizers
from qvl.train.recipe import Recipe, load_recipe
from qvl.train.stage import add_adapters, build_loader, initial_model
from qvl.train.trained import table, what_trains

RECIPE = Path(__file__).parents[2] / "recipes" / "tiny" / "multitask.toml"
PARTS = ("vision", "adapter", "language")


def recipe_on(base: Path, *values: str, parts: tuple[str, ...] = ("language",)) -> Recipe:
    """LoRA of rank 4 on a checkpoint folder."""
    return load_recipe(
        RECIPE,
        [
            f"preset={base}",
            *(f"init_from.{part}={base}" for part in PARTS),
            f"trains={list(parts)}",
            "data.batch_rows=2",
            'data.split_dirs=["world/train"]',
            "optim.optimizer=adamw",
            "lora={r=4, alpha=8}",
            *values,
        ],
    )


def adapted(recipe: Recipe, run_dir: Path) -> QwenVL:
    tokenizer = Tokenizer.tiny()
    model = initial_model(recipe, run_dir, tokenizer)
    add_adapters(model, recipe, tokenizer, "cpu")
    return model


def trained_a_little(recipe: Recipe, run_dir: Path, steps: int = 2) -> QwenVL:
    """After a few steps: both matrices of each adapter have a gradient."""
    model = adapted(recipe, run_dir)
    batches = iter(build_loader(recipe, run_dir, model.config, Tokenizer.tiny()))
    measure = token_measure(model, recipe, "cpu")
    [optimizer] = build_optimizers(model, replace(recipe.optim, peak_lr=1e-2))
    for step in range(steps):
        optimizer.zero_grad()
        for _ in range(3):
            measure(next(batches)[0])[0].backward()
        if step + 1 < steps:
            optimizer.step()
    return model


def logits_of(model: QwenVL, run_dir: Path, recipe: Recipe) -> Tensor:
    batch, _ = next(iter(build_loader(recipe, run_dir, model.config, Tokenizer.tiny())))
    with torch.no_grad():
        pixels = normalize(batch.pixels).to(model.language.head.weight.dtype)
        return model.eval()(batch.input_ids, pixels, document_ids=batch.document_ids)


@pytest.mark.parametrize("parts", [("language",), ("vision", "adapter"), PARTS], ids="+".join)
@pytest.mark.parametrize("quantize", ["no", "nf4"])
def test_everything_that_trains_has_a_gradient(
    parts: tuple[str, ...], quantize: str, checkpoint_dir: Path, run_dir: Path
) -> None:
    recipe = recipe_on(checkpoint_dir, f"lora.quantize={quantize}", "lora.train_embeddings=no", parts=parts)
    model = trained_a_little(recipe, run_dir)
    trains = {name for name, p in model.named_parameters() if p.requires_grad}
    moved = {name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)}
    assert trains == moved
    wanted = {f"{name}.lora_{side}.default.weight" for name in lora._lora_layers(model) for side in "AB"}
    assert trains == wanted
    assert {name.split(".")[0] for name in trains} == set(parts)


def test_targets_are_the_published_ones(checkpoint_dir: Path) -> None:
    names = lora.targets(load_model(checkpoint_dir), ("language",))
    assert {name.rpartition(".")[2] for name in names} == {"c_attn", "attn_c_proj", "w1", "w2"}
    assert len(names) == 4 * 2


def test_table_says_what_trains(checkpoint_dir: Path, run_dir: Path) -> None:
    recipe = recipe_on(checkpoint_dir, "lora.train_embeddings=yes", "lora.quantize=nf4", parts=("vision", "language"))
    model = adapted(recipe, run_dir)
    groups = {group.name: group for group in what_trains(model)}
    assert {name: group.how for name, group in groups.items()} == {
        "vision": "LoRA",
        "adapter": "frozen",
        "language.embedding": "full",
        "language.blocks": "LoRA",
        "language.head": "full",
    }
    hidden, inner, layers = 256, 704, 2
    per_layer = 4 * (hidden + 3 * hidden) + 4 * (hidden + hidden) + 2 * 4 * (hidden + inner)
    assert groups["language.blocks"].trained == layers * per_layer
    assert groups["language.head"].trained == 1024 * hidden  # its norm does not train
    plain = load_model(checkpoint_dir)
    fixed = plain.adapter.pos_embed.numel()
    assert sum(group.total for group in groups.values()) == sum(p.numel() for p in plain.parameters()) - fixed
    assert f"{layers * per_layer:,}" in table(list(groups.values()))


def published_tree(model: QwenVL) -> nn.Module:
    """Plain torch modules under the published names, with the model's matrices."""
    tree = nn.Module()
    for ours, theirs in lora._published_modules(model.config).items():
        *parents, last = theirs.split(".")
        place = tree
        for parent in parents:
            if not hasattr(place, parent):
                place.add_module(parent, nn.Module())
            place = place.get_submodule(parent)
        place.add_module(last, model.get_submodule(ours))
    tree.prepare_inputs_for_generation = None  # type: ignore[assignment]
    return tree


def test_peft_loads_the_file_on_published_names(checkpoint_dir: Path, run_dir: Path, tmp_path: Path) -> None:
    """peft finds every module of the file and gives it the weights that we saved."""
    recipe = recipe_on(checkpoint_dir, "lora.train_embeddings=yes", parts=PARTS)
    model = trained_a_little(recipe, run_dir)
    assert recipe.lora
    lora.save_adapter(model, tmp_path, recipe.lora, str(checkpoint_dir))
    loaded = peft.PeftModel.from_pretrained(published_tree(load_model(checkpoint_dir)), str(tmp_path))
    theirs = {name for name, module in loaded.base_model.model.named_modules() if hasattr(module, "lora_A")}
    assert "transformer.h.0.attn.c_attn" in theirs
    assert "transformer.visual.transformer.resblocks.0.attn.in_proj" in theirs
    modules = lora._published_modules(model.config)
    assert theirs == {modules[name] for name in lora._lora_layers(model)}
    for ours, layer in lora._lora_layers(model).items():
        their = loaded.base_model.model.get_submodule(modules[ours])
        assert torch.equal(their.get_delta_weight("default"), layer.get_delta_weight("default"))
    head = loaded.base_model.model.lm_head.modules_to_save["default"]
    assert torch.equal(head.weight, model.language.head.weight)


@pytest.mark.parametrize("quantize", ["no", "nf4", "gptq"])
def test_a_loaded_and_a_merged_adapter_give_the_same_logits(
    quantize: str, checkpoint_dir: Path, run_dir: Path, tmp_path: Path
) -> None:
    base = checkpoint_dir
    if quantize == "gptq":
        base = tmp_path / "int4"
        model = load_model(checkpoint_dir)
        to_int4(model)
        save_int4(model, config_to_json(model.config), base, Tokenizer.tiny())
    values = [f"lora.quantize={'nf4' if quantize == 'nf4' else 'no'}", "lora.train_embeddings=yes"]
    recipe = recipe_on(base, *values, parts=PARTS)
    model = trained_a_little(recipe, run_dir)
    assert recipe.lora
    lora.save_adapter(model, tmp_path / "adapter", recipe.lora, str(base))
    expected = logits_of(model, run_dir, recipe)

    loaded = load_any(base)
    assert float((logits_of(loaded, run_dir, recipe) - expected).abs().max()) > 0.01  # the adapter matters
    lora.load_adapter(loaded, tmp_path / "adapter")
    assert torch.equal(logits_of(loaded, run_dir, recipe), expected)
    to_whole(loaded)
    assert float((logits_of(loaded, run_dir, recipe) - expected).abs().max()) < 1e-4
    exact = logits_of(loaded.double(), run_dir, recipe)  # float32's own rounding of a pass is about 1e-5
    lora.merge_lora(loaded.float())
    assert set(loaded.state_dict()) == set(load_model(checkpoint_dir).state_dict())
    assert float((logits_of(loaded.double(), run_dir, recipe) - exact).abs().max()) < 1e-5


def test_a_base_is_read_as_it_is_stored_and_trains_in_float32(
    checkpoint_dir: Path, run_dir: Path, tmp_path: Path
) -> None:
    """And NF4 stands for the same matrices as where the base is read as float32, as in chat and merge."""
    save_model(load_model(checkpoint_dir).bfloat16(), tmp_path, Tokenizer.tiny())
    recipe = recipe_on(tmp_path, "lora.quantize=nf4")
    assert recipe.lora is not None
    model = initial_model(recipe, run_dir, Tokenizer.tiny())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    lora.add_lora(model, recipe.lora, PARTS, Tokenizer.tiny().special, torch.bfloat16, "cpu")
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert model.vision.conv1.weight.dtype == torch.bfloat16
    whole = load_model(tmp_path)
    quantize_nf4(whole, torch.float32, "cpu")
    for ours, theirs in zip(model.language.blocks, whole.language.blocks, strict=True):
        assert torch.equal(nf4_matrix(ours.w1.base_layer), nf4_matrix(theirs.w1))


def break_config(folder: Path, **values: Any) -> None:
    path = folder / lora.CONFIG_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_adapters_that_do_not_fit_are_named(checkpoint_dir: Path, run_dir: Path, tmp_path: Path) -> None:
    recipe = recipe_on(checkpoint_dir)
    assert recipe.lora
    lora.save_adapter(adapted(recipe, run_dir), tmp_path, recipe.lora, str(checkpoint_dir))
    smaller = PRESETS["tiny"]
    other = QwenVL(replace(smaller, language=replace(smaller.language, num_layers=1)))
    with pytest.raises(CheckpointError, match=r"h\.1\.attn\.c_attn.* belongs to no matrix of this model"):
        lora.load_adapter(other, tmp_path)
    break_config(tmp_path, r=8)
    with pytest.raises(CheckpointError, match=r"has shape \(4, 256\), the model's is \(8, 256\)"):
        lora.load_adapter(load_model(checkpoint_dir), tmp_path)
    break_config(tmp_path, use_dora=True)
    with pytest.raises(CheckpointError, match="use_dora is not supported"):
        lora.load_adapter(load_model(checkpoint_dir), tmp_path)
    with pytest.raises(CheckpointError, match="no adapter of the peft library"):
        lora.load_adapter(load_model(checkpoint_dir), tmp_path / "none")


def test_chat_tokens_are_judged_by_weights(checkpoint_dir: Path, run_dir: Path) -> None:
    """Trained on captions alone a model never met them; trained on dialogues it did, whatever its folder is called."""

    def after(task: str) -> bool:
        values = [f"data.mixture={{{task} = 1}}", "optim.peak_lr=3e-3"]
        recipe = replace(recipe_on(checkpoint_dir, *values), lora=None)
        model = initial_model(recipe, run_dir, Tokenizer.tiny())
        batches = iter(build_loader(recipe, run_dir, model.config, Tokenizer.tiny()))
        measure = token_measure(model, recipe, "cpu")
        [optimizer] = build_optimizers(model, recipe.optim)
        for _ in range(12):
            optimizer.zero_grad()
            measure(next(batches)[0])[0].backward()
            optimizer.step()
        embedding, head = model.language.embedding.weight.detach(), model.language.head.weight.detach()
        return chat_tokens_look_trained(embedding, head, Tokenizer.tiny().special)

    assert not after("caption")
    assert after("dialogue")


def test_auto_trains_embeddings_where_the_tokens_are_new(checkpoint_dir: Path, run_dir: Path) -> None:
    fresh = adapted(recipe_on(checkpoint_dir), run_dir)
    assert fresh.language.embedding.weight.requires_grad
    assert fresh.language.head.weight.requires_grad
    shipped = Path(lora.__file__).parents[1] / "assets" / "tiny"
    trained = adapted(recipe_on(shipped), run_dir)
    assert not trained.language.embedding.weight.requires_grad
    assert not trained.language.head.weight.requires_grad
    forced = adapted(recipe_on(shipped, "lora.train_embeddings=yes"), run_dir)
    assert forced.language.embedding.weight.requires_grad


def test_lora_needs_one_base() -> None:
    with pytest.raises(RecipeError, match="all three parts come from one checkpoint"):
        load_recipe(RECIPE, ["lora={}", "init_from={}"])
    with pytest.raises(RecipeError, match=r"lora\.quantize = 'int8': expected one of no, nf4"):
        load_recipe(RECIPE, ["lora={quantize='int8'}"])
