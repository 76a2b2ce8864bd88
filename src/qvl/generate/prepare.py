"""A loaded model -> one that answers as fast as this machine can, in place; it can't be trained any more."""

from torch import nn

from qvl.model.packed import PackedLinear, can_pack
from qvl.model.qwen_vl import QwenVL
from qvl.quantize.gptq import GPTQLinear
from qvl.quantize.kernels import Int4Linear, kernel_for

NO_KERNEL = "unpacking its matrices at every product, which is SLOW: there is no kernel for this device or group size"


def prepare(model: QwenVL) -> str:
    """Lay the matrices out for the kernels that are here. Which ones these are, in words: slow ones don't stay unknown.

    The matrices of a low-rank adapter stay as they are; merge it for speed.
    """
    weight = model.language.embedding.weight
    said = {f"{str(weight.dtype).removeprefix('torch.')} on {weight.device.type}": None}
    pack = can_pack(model)
    for part in (model.vision, model.language):
        for name, layer in list(part.named_modules()):
            if isinstance(layer, GPTQLinear):
                kernel = kernel_for(layer)
                said[f"Int4 by {kernel or 'unpacking at every product, which is SLOW: no kernel is made for it'}"] = (
                    None
                )
                if kernel is not None:
                    part.set_submodule(name, Int4Linear(layer))
            elif type(layer) is nn.Linear and pack and "lora_" not in name:
                part.set_submodule(name, PackedLinear(layer))
                said["matrices laid out for oneDNN"] = None
    return ", ".join(said)
