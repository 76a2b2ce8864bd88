"""The language model's matrices in four bits of NF4, by bitsandbytes. Source: QLoRA, arXiv 2305.14314."""

import logging
from importlib import import_module
from typing import Any

import torch
from torch import nn

from qvl.errors import MissingDependencyError
from qvl.model.qwen_vl import QwenVL

# As it is imported, by peft too, it remarks on a kernel that nobody needs.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def quantize_nf4(model: QwenVL, dtype: torch.dtype, device: str) -> None:
    """Put the matrices of the language model's blocks into NF4 on a device, in place; the rest stays where it is.

    dtype: of their products.

    MissingDependencyError without bitsandbytes.
    """
    library = bitsandbytes()
    for block in model.language.blocks:
        for name, layer in list(block.named_children()):
            if isinstance(layer, nn.Linear):
                setattr(block, name, _to_nf4(layer, dtype, device, library))


def bitsandbytes() -> Any:
    """The library, or MissingDependencyError."""
    try:
        return import_module("bitsandbytes")
    except ImportError as error:
        raise MissingDependencyError("NF4 needs bitsandbytes: pip install 'qvl[finetune]'") from error


def _to_nf4(layer: nn.Linear, dtype: torch.dtype, device: str, library: Any) -> nn.Module:
    with torch.device("meta"):
        made = library.nn.Linear4bit(
            layer.in_features, layer.out_features, layer.bias is not None, compute_dtype=dtype, quant_type="nf4"
        )
    made.weight = library.nn.Params4bit(
        layer.weight.detach().float(), requires_grad=False, quant_type="nf4", module=made
    )
    made.bias = layer.bias
    # Else it puts the matrix into another order in eval mode on such CPUs, which its backward pass does not know.
    made.support_avx512bf16_for_cpu = False
    quantized: nn.Module = made.to(device)  # rounds
    return quantized


def nf4_matrix(layer: Any) -> torch.Tensor:
    """The float32 matrix (out, in) that such a layer stands for."""
    matrix: torch.Tensor = bitsandbytes().functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return matrix.float()
