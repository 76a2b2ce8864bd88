"""Checkpoint folders with Int4 matrices: read them, write them, and the whole model that they stand for."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qvl.checkpoint.layout import (
    QUANTIZATION_KEY,
    filled,
    load_config,
    load_model,
    quantization_of,
    read_state,
    write_folder,
)
from qvl.checkpoint.names import published_names
from qvl.checkpoint.weights import tensor_names
from qvl.errors import CheckpointError
from qvl.model.qwen_vl import QwenVL
from qvl.model.skeleton import skeleton
from qvl.quantize.gptq import BITS, GROUP_SIZE, PER_INT, GPTQLinear
from qvl.quantize.nf4 import nf4_matrix
from qvl.text.tokenizer import Tokenizer


def load_any(directory: str | Path, dtype: torch.dtype | None = torch.float32, device: str = "cpu") -> QwenVL:
    """The model of a folder, whole or with Int4 matrices, in eval mode. dtype and errors as of `load_model`;
    CheckpointError also for matrices quantised in another way."""
    directory = Path(directory)
    config = load_config(directory)
    settings = quantization_of(directory)
    if settings is None:
        return load_model(directory, dtype, device)
    group_size = _group_size(settings, directory)
    found = tensor_names(directory)
    with skeleton():
        model = QwenVL(config)
        names = published_names(config)
        for name, layer in list(model.named_modules()):
            prefix = names.get(f"{name}.weight", "").removesuffix("weight")
            if isinstance(layer, nn.Linear) and f"{prefix}qweight" in found:
                biased = f"{prefix}bias" in found  # AutoGPTQ writes zeros where the layer has none
                model.set_submodule(name, GPTQLinear(layer.in_features, layer.out_features, biased, group_size))
    state = read_state(model, directory, _names(model), lambda name, tensor: _as(tensor, name, dtype).to(device))
    return filled(model, state)


def save_int4(model: QwenVL, config: dict[str, Any], directory: Path, tokenizer: Tokenizer) -> None:
    """Write a model with Int4 matrices in AutoGPTQ's format, which load_any reads. config: of the whole one."""
    settings = {"quant_method": "gptq", "bits": BITS, "group_size": GROUP_SIZE, "sym": False, "desc_act": False}
    write_folder(any_tensors(model, torch.float16), {**config, QUANTIZATION_KEY: settings}, directory, tokenizer)


def any_tensors(model: QwenVL, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The tensors of a model that may have Int4 matrices, by their published names; None: as they are."""
    state = model.state_dict()
    return {theirs: _as(state[ours], ours, dtype) for ours, theirs in _names(model).items()}


def to_int4(model: QwenVL) -> None:
    """Round the matrices of the language model's blocks to four bits, in place, as in the published Int4 checkpoint.

    CheckpointError where a matrix can't be packed.
    """
    for name, layer in list(model.language.blocks.named_modules()):
        if isinstance(layer, nn.Linear) and not isinstance(layer, GPTQLinear):
            if layer.in_features % PER_INT or layer.out_features % PER_INT:
                raise CheckpointError(
                    f"language.blocks.{name}: {layer.out_features} x {layer.in_features} can't be packed by {PER_INT}"
                )
            model.language.blocks.set_submodule(name, GPTQLinear.from_linear(layer))


def to_whole(model: QwenVL) -> None:
    """Every quantised matrix as the float32 one that it stands for, in place."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, GPTQLinear):
            matrix = layer.matrix(torch.float32)
        elif type(layer).__name__ == "Linear4bit":
            matrix = nf4_matrix(layer)
        else:
            continue
        with skeleton():
            whole = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
        state = {"weight": matrix} if layer.bias is None else {"weight": matrix, "bias": layer.bias.detach()}
        whole.load_state_dict(state, assign=True)
        model.set_submodule(name, whole)


def _names(model: QwenVL) -> dict[str, str]:
    """Our name -> published name, for every tensor of a model that may have Int4 matrices."""
    published = published_names(model.config)

    def theirs(ours: str) -> str:
        module, _, kind = ours.rpartition(".")
        return published.get(ours) or published[f"{module}.weight"].removesuffix("weight") + kind

    return {ours: theirs(ours) for ours in model.state_dict()}


def _as(tensor: Tensor, name: str, dtype: torch.dtype | None) -> Tensor:
    """Weights change their type, packed integers and their scales don't."""
    return tensor.to(dtype) if dtype and tensor.is_floating_point() and not name.endswith(".scales") else tensor


def _group_size(settings: dict[str, Any], directory: Path) -> int:
    method, bits, group_size = (settings.get(key) for key in ("quant_method", "bits", "group_size"))
    if method != "gptq" or bits != BITS or not isinstance(group_size, int) or group_size < 1:
        raise CheckpointError(
            f"{directory}: quantization_config has {method} of {bits} bits in groups of {group_size}; "
            f"gptq of {BITS} bits in groups of a fixed size can be read"
        )
    return group_size
