"""Our forward, cache and gradients against the published implementation's outputs (float32, CPU).

Tolerances: encoder and adapter 1e-4, logits 5e-4 (1e-3 beyond 2048 tokens), loss 1e-5, gradient norms 1e-3.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from qvl import images
from qvl.checkpoint import load_model
from qvl.checkpoint.names import published_names
from qvl.generate.decoding import decode, new_cache, prefill
from qvl.model.qwen_vl import QwenVL

FOLDER = Path("tests/data/model-tiny")
FORWARDS = [
    "forward_text",
    "forward_one_image",
    "forward_two_images",
    "forward_batch_left_pad",
    "forward_batch_right_pad",
]
LONG = ["long_2048", "long_2049", "long_text", "long_alpha7"]
DECODES = ["decode_text", "decode_image", "decode_long", "decode_long_images", "decode_cross_2048"]


@pytest.fixture(scope="module")
def model() -> QwenVL:
    return load_model(FOLDER)


def case(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    folder = FOLDER / name
    return json.loads((folder / "inputs.json").read_text()), load_file(folder / "golden.safetensors")


def pixels(inputs: dict[str, Any]) -> Tensor | None:
    names = inputs.get("images") or []
    return torch.stack([images.preprocess(FOLDER / "images" / n, 448) for n in names]) if names else None


def difference(ours: Tensor, golden: Tensor) -> float:
    assert ours.shape == golden.shape
    return float((ours - golden).detach().abs().max())


@pytest.mark.parametrize("name", FORWARDS)
def test_forward(model: QwenVL, name: str) -> None:
    inputs, golden = case(name)
    mask = torch.tensor(inputs["attention_mask"]) if "attention_mask" in inputs else None
    with torch.inference_mode():
        logits = model(torch.tensor(inputs["input_ids"]), pixels(inputs), mask)
    real = torch.ones(logits.shape[:2]) if mask is None else mask  # what stands at padding is nobody's concern
    assert difference(logits * real[..., None], golden["logits"] * real[..., None]) < 5e-4


def test_encoder_and_adapter(model: QwenVL) -> None:
    inputs, golden = case("forward_one_image")
    picture = pixels(inputs)
    with torch.inference_mode():
        features = model.vision(picture)
        adapted = model.adapter(features)
    assert difference(features[0], golden["vit_out"]) < 1e-4
    assert difference(adapted[0], golden["visual_out"]) < 1e-4


def test_encoder_at_224_pixels_needs_no_interpolation(model: QwenVL) -> None:
    _, golden = case("visual_224")
    picture = images.normalize(golden["pixels_u8"][None].permute(0, 3, 1, 2))
    with torch.inference_mode():
        features = model.vision(picture)
        adapted = model.adapter(features)
    assert difference(features, golden["vit_out"]) < 1e-4
    assert difference(adapted, golden["visual_out"][:1]) < 1e-4


@pytest.mark.parametrize("name", LONG)
def test_beyond_2048_tokens(model: QwenVL, name: str) -> None:
    """Dynamic NTK and log-n scaling, and each of them switched off."""
    inputs, golden = case(name)
    rows = golden["rows"].long() if "rows" in golden else torch.tensor(inputs["rows"])
    switches = {"": {}, "ntk_off.": {"use_dynamic_ntk": False}, "logn_off.": {"use_logn_attn": False}}
    switches["both_off."] = {"use_dynamic_ntk": False, "use_logn_attn": False}
    for prefix, changed in switches.items():
        if f"{prefix}logits" not in golden:
            continue
        other = load_model(FOLDER)
        other.config = replace(model.config, language=replace(model.config.language, **changed))
        with torch.inference_mode():
            hidden = other.hidden_states(torch.tensor(inputs["input_ids"]))
            logits = other.language.head(hidden[:, rows])
        assert difference(logits, golden[f"{prefix}logits"]) < 1e-3, prefix or "both on"


@pytest.mark.parametrize("name", DECODES)
def test_decoding_from_the_cache(model: QwenVL, name: str) -> None:
    """Step by step the published logits; a prompt that crosses 2048 keeps the rotary base it began with."""
    inputs, golden = case(name)
    ids, picture = torch.tensor(inputs["input_ids"]), pixels(inputs)
    cache = new_cache(model, 1, ids.shape[1] + len(inputs["new_tokens"]))
    cache.alphas = [model.rotary_alpha(ids.shape[1])]
    with torch.inference_mode():
        features = None if picture is None else model.encode_images(picture)
        steps = [prefill(model, [model.embed(ids, features)[0]], cache)[0]]
        steps += [decode(model, [token], cache)[0] for token in inputs["new_tokens"]]
    assert difference(torch.stack(steps), golden["step_logits"]) < 1e-3


def test_cached_logits_equal_recomputed_ones(model: QwenVL) -> None:
    inputs, golden = case("decode_image")
    whole = torch.tensor([[*inputs["input_ids"][0], *inputs["new_tokens"]]])
    with torch.inference_mode():
        logits = model(whole, pixels(inputs))[0, len(inputs["input_ids"][0]) - 1 :]
    assert difference(logits, golden["step_logits"]) < 5e-4


def test_several_tokens_at_once_continue_a_cache(model: QwenVL) -> None:
    """Prefill in two pieces, which the published code can't do."""
    inputs, _ = case("decode_text")
    ids = torch.tensor(inputs["input_ids"])
    cache = new_cache(model, 1, ids.shape[1])
    with torch.inference_mode():
        prefill(model, [model.embed(ids[:, :4])[0]], cache)
        second = prefill(model, [model.embed(ids[:, 4:])[0]], cache)
        assert difference(second, model(ids)[:, -1]) < 1e-4


def training_model() -> QwenVL:
    model = load_model(FOLDER).train()
    model.adapter.pos_embed.requires_grad_(False)
    return model


def test_loss_gradients_and_steps() -> None:
    inputs, _ = case("train")
    expected = json.loads((FOLDER / "train" / "golden.json").read_text())
    model = training_model()
    names = published_names(model.config)
    ids, labels = torch.tensor(inputs["input_ids"]), torch.tensor(inputs["labels"])
    mask, picture = torch.tensor(inputs["attention_mask"]), pixels(inputs)

    loss, count = model.loss(ids, labels, picture, mask)
    (loss / count).backward()
    assert float((loss / count).detach()) == pytest.approx(expected["loss"], abs=1e-5)
    norms = {names[n]: float(p.grad.norm()) for n, p in model.named_parameters() if p.grad is not None}
    published = {n: norm for n, norm in expected["grad_norms"].items() if norm is not None and norm > 0}
    assert norms.keys() == published.keys()
    for name, norm in published.items():
        assert norms[name] == pytest.approx(norm, rel=1e-3, abs=1e-6), name


def test_optimizer_steps() -> None:
    """Four steps of clipped AdamW, recorded as finetune.py trains with fix_vit: see docs/fidelity.md."""
    inputs, golden = case("train")
    expected = json.loads((FOLDER / "train" / "golden.json").read_text())
    settings = expected["adamw_steps"]
    model = training_model()
    names = published_names(model.config)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(names[name] in expected["fix_vit_trainable"])
    ids, labels = torch.tensor(inputs["input_ids"]), torch.tensor(inputs["labels"])
    mask, picture = torch.tensor(inputs["attention_mask"]), pixels(inputs)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, settings["lr"], tuple(settings["betas"]), settings["eps"], settings["weight_decay"]
    )
    losses, norms = [], []
    for _ in settings["losses"]:
        optimizer.zero_grad()
        loss, count = model.loss(ids, labels, picture, mask)
        (loss / count).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, settings["clip_grad_norm"])))
        optimizer.step()
        losses.append(float((loss / count).detach()))
    np.testing.assert_allclose(losses, settings["losses"], rtol=1e-4)
    np.testing.assert_allclose(norms, settings["grad_norms"], rtol=1e-3)
    assert difference(model.language.ln_f.weight, golden["after4.transformer.ln_f.weight"]) < 1e-5


def test_text_only_loss_and_long_rows_in_training() -> None:
    inputs, _ = case("train")
    expected = json.loads((FOLDER / "train" / "golden.json").read_text())
    model = training_model()
    text = inputs["text_only"]
    loss, count = model.loss(torch.tensor(text["input_ids"]), torch.tensor(text["labels"]))
    assert float((loss / count).detach()) == pytest.approx(expected["text_only_loss"], abs=1e-5)
    long, labels = torch.tensor(inputs["long"]["input_ids"]), torch.tensor(inputs["long"]["labels"])
    for mode, key in ((True, "long_train_mode_loss"), (False, "long_eval_mode_loss")):
        with torch.inference_mode():
            loss, count = model.train(mode).loss(long, labels)
        assert float(loss / count) == pytest.approx(expected[key], abs=1e-4), key
