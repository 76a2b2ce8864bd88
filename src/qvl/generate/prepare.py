"""A loaded model -> one that answers as fast as this machine can, in place; it can't be trained any more."""

import ctypes
import sys

import torch
from torch import nn

from qvl.model.language import LanguageBlock
from qvl.model.packed import PackedLinear, WidenedLinear, joined, linear_for, widen_the_rest
from qvl.model.qwen_vl import QwenVL
from qvl.quantize.gptq import GPTQLinear
from qvl.quantize.kernels import fast_linear, kernel_for

NO_KERNEL = "unpacking at every product, which is SLOW: no kernel is made for it"


def prepare(model: QwenVL) -> str:
    """Lay the matrices out for the kernels that are here. Which ones these are, in words: slow ones don't stay unknown.

    The matrices of a low-rank adapter stay as they are; merge it for speed.
    """
    weight = model.language.embedding.weight
    said = {f"{str(weight.dtype).removeprefix('torch.')} on {weight.device.type}": None}
    faster = linear_for(model)
    for part in (model.vision, *model.language.blocks, model.language):
        if isinstance(part, LanguageBlock):
            _merge(part, faster is PackedLinear)
        for name in [name for name, _ in part.named_modules()]:
            layer = part.get_submodule(name)
            if isinstance(layer, GPTQLinear):
                kernel = kernel_for(layer)
                said[f"Int4 by {kernel or NO_KERNEL}"] = None
                if kernel is not None:
                    part.set_submodule(name, fast_linear(layer))
                    del layer
                    _give_back_memory()
            elif faster is not None and type(layer) is nn.Linear and "lora_" not in name:
                part.set_submodule(name, faster(layer))
                said[faster.kernel] = None
    if faster is WidenedLinear:
        widen_the_rest(model)
    return ", ".join(said)


def _give_back_memory() -> None:
    """What laying a matrix out has freed, to the system: glibc keeps four times as much as such a matrix takes."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def _merge(block: LanguageBlock, pack: bool) -> None:
    """w1 and w2 in one product, where it will be one of a fast kernel's: fewer calls, the same numbers."""
    first, second = block.w1, block.w2
    if type(first) is type(second) is nn.Linear and pack:
        block.merged = joined(first, second)
    elif isinstance(first, GPTQLinear) and isinstance(second, GPTQLinear) and kernel_for(first):
        if (first.bias is None) != (second.bias is None) or not torch.equal(first.g_idx, second.g_idx):  # type: ignore[arg-type]
            return
        block.merged = GPTQLinear.joined(first, second)
    if block.merged is not None:
        del block.w1, block.w2
