"""Folders with Int4 matrices, and models that become whole again."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from qvl.checkpoint import load_model
from qvl.checkpoint.config_json import config_to_json
from qvl.errors import CheckpointError
from qvl.model.qwen_vl import QwenVL
from qvl.quantize.gptq import GPTQLinear
from qvl.quantize.layout import load_any, save_int4, to_int4, to_whole
from qvl.quantize.nf4 import quantize_nf4
from qvl.text.tokenizer import Tokenizer

IDS = torch.tensor([[5, 17, 300, 42, 7]])


@pytest.fixture
def int4_dir(checkpoint_dir: Path, tmp_path: Path) -> Path:
    model = load_model(checkpoint_dir)
    to_int4(model)
    save_int4(model, config_to_json(model.config), tmp_path / "int4", Tokenizer.tiny())
    return tmp_path / "int4"


def logits(model: QwenVL) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS)


def test_a_folder_reads_as_it_was_written(int4_dir: Path, checkpoint_dir: Path) -> None:
    model = load_model(checkpoint_dir)
    to_int4(model)
    loaded = load_any(int4_dir)
    layers = [name for name, module in loaded.named_modules() if isinstance(module, GPTQLinear)]
    assert len(layers) == 5 * 2
    assert all(name.startswith("language.blocks.") for name in layers)
    for name in layers:
        ours, theirs = model.get_submodule(name), loaded.get_submodule(name)
        assert torch.equal(ours.matrix(torch.float32), theirs.matrix(torch.float32))  # type: ignore[operator]
    assert float((logits(loaded) - logits(model)).abs().max()) < 0.05  # the rest went through float16
    assert load_any(int4_dir, torch.bfloat16).language.embedding.weight.dtype == torch.bfloat16


def test_names_and_types_are_the_published_ones(int4_dir: Path) -> None:
    tensors = load_file(int4_dir / "model.safetensors")
    kinds = {name: tensors[f"transformer.h.1.attn.c_attn.{name}"].dtype for name in ("qweight", "qzeros", "g_idx")}
    assert set(kinds.values()) == {torch.int32}
    assert tensors["transformer.h.0.mlp.c_proj.scales"].dtype == torch.float16
    assert "transformer.h.0.attn.c_attn.bias" in tensors
    assert "transformer.h.0.attn.c_attn.weight" not in tensors
    settings = json.loads((int4_dir / "config.json").read_text())["quantization_config"]
    assert (settings["quant_method"], settings["bits"], settings["group_size"]) == ("gptq", 4, 128)


def test_biases_of_zeros_are_read_where_the_model_has_none(int4_dir: Path) -> None:
    """AutoGPTQ writes one for every matrix."""
    path = int4_dir / "model.safetensors"
    tensors = load_file(path)
    before = logits(load_any(int4_dir))
    for name in ("attn.c_proj", "mlp.w1", "mlp.w2", "mlp.c_proj"):
        for layer in range(2):
            columns = tensors[f"transformer.h.{layer}.{name}.qweight"].shape[1]
            tensors[f"transformer.h.{layer}.{name}.bias"] = torch.zeros(columns, dtype=torch.float16)
    save_file(tensors, path)
    assert torch.equal(logits(load_any(int4_dir)), before)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"bits": 8}, "gptq of 8 bits in groups of 128; gptq of 4 bits"),
        ({"quant_method": "awq"}, "awq of 4 bits"),
        ({"group_size": -1}, "in groups of -1"),
    ],
    ids=str,
)
def test_other_ways_are_refused_by_name(changed: dict[str, Any], said: str, int4_dir: Path) -> None:
    path = int4_dir / "config.json"
    values = json.loads(path.read_text())
    values["quantization_config"] |= changed
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=said):
        load_any(int4_dir)


def test_what_is_missing_is_named(int4_dir: Path) -> None:
    path = int4_dir / "model.safetensors"
    tensors = load_file(path)
    del tensors["transformer.h.0.mlp.w1.scales"]
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"missing transformer\.h\.0\.mlp\.w1\.scales"):
        load_any(int4_dir)


def test_a_reader_of_whole_models_says_who_reads_it(int4_dir: Path) -> None:
    with pytest.raises(CheckpointError, match="has Int4 matrices"):
        load_model(int4_dir)


@pytest.mark.parametrize("kind", ["gptq", "nf4"])
def test_whole_again_gives_the_same_logits(kind: str, checkpoint_dir: Path) -> None:
    plain = load_model(checkpoint_dir)
    model = load_model(checkpoint_dir)
    if kind == "gptq":
        to_int4(model)
    else:
        quantize_nf4(model, torch.float32, "cpu")
    expected = logits(model)
    assert float((expected - logits(plain)).abs().max()) > 1e-3  # rounding did something
    to_whole(model)
    assert {name: t.shape for name, t in model.state_dict().items()} == {
        n: t.shape for n, t in plain.state_dict().items()
    }
    assert float((logits(model) - expected).abs().max()) < 1e-5
