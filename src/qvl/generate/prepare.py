"""A loaded model -> one that answers as fast as this machine can, in place; it can't be trained any more."""

import ctypes
import sys

import torch
from torch import Tensor, nn

from qvl.model.language import LanguageBlock
from qvl.model.narrow import NarrowLinear, fits
from qvl.model.packed import PackedLinear, joined
from qvl.model.precision import multiplies_bf16
from qvl.model.qwen_vl import QwenVL
from qvl.model.widened import WidenedEmbedding, WidenedLinear
from qvl.quantize.gptq import GPTQLinear
from qvl.quantize.kernels import fast_linear, kernel_for

NO_KERNEL = "unpacking at every product, which is SLOW: no kernel is made for it"


def prepare(model: QwenVL) -> str:
    """Lay the matrices out for the kernels that are here. Which ones these are, in words: slow ones don't stay unknown.

    The matrices of a low-rank adapter stay as they are; merge it for speed.
    """
    weight = model.language.embedding.weight
    said = {f"{str(weight.dtype).removeprefix('torch.')} on {weight.device.type}": None}
    for part in (model.vision, *model.language.blocks, model.language):
        if isinstance(part, LanguageBlock):
            _merge(part)
        for name in [name for name, _ in part.named_modules()]:
            layer = part.get_submodule(name)
            if isinstance(layer, GPTQLinear):
                kernel = kernel_for(layer)
                said[f"Int4 by {kernel or NO_KERNEL}"] = None
                if kernel is not None:
                    part.set_submodule(name, fast_linear(layer))
                    del layer
                    _give_back_memory()
            elif type(layer) is nn.Linear and "lora_" not in name and (faster := _linear_for(layer.weight)):
                part.set_submodule(name, faster(layer))
                said[faster.kernel] = None
    if weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and not multiplies_bf16("cpu"):
        _compute_in_float32(model)
    return ", ".join(said)


def _linear_for(weight: Tensor) -> type[NarrowLinear] | type[PackedLinear] | type[WidenedLinear] | None:
    """What takes the place of an nn.Linear with such a weight, on this machine and with this torch."""
    if weight.device.type != "cpu":
        return None
    in_bf16 = weight.dtype == torch.bfloat16 and multiplies_bf16("cpu")
    if not in_bf16 and fits(weight):
        return NarrowLinear
    if weight.dtype == torch.bfloat16 and not in_bf16:
        return WidenedLinear
    known = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.backends.mkldnn.is_available()
    return PackedLinear if known and weight.dtype in (torch.float32, torch.bfloat16) else None


def _compute_in_float32(model: QwenVL) -> None:
    """All that is no large matrix becomes float32: little memory, and no products in bf16."""
    language = model.language
    language.set_submodule("embedding", WidenedEmbedding(language.embedding))
    for module in (model.vision, model.adapter, language.blocks, language.ln_f):
        module.float()


def _give_back_memory() -> None:
    """What laying a matrix out has freed, to the system: glibc keeps four times as much as such a matrix takes."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def _merge(block: LanguageBlock) -> None:
    """w1 and w2 in one product, where it will be one of a fast kernel's: fewer calls, the same numbers."""
    first, second = block.w1, block.w2
    if type(first) is type(second) is nn.Linear and _linear_for(first.weight) in (NarrowLinear, PackedLinear):
        block.merged = joined(first, second)
    elif isinstance(first, GPTQLinear) and isinstance(second, GPTQLinear) and kernel_for(first):
        if (first.bias is None) != (second.bias is None) or not torch.equal(first.g_idx, second.g_idx):  # type: ignore[arg-type]
            return
        block.merged = GPTQLinear.joined(first, second)
    if block.merged is not None:
        del block.w1, block.w2
