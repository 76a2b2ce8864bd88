"""Int4 matrices in GPTQ's layout, and a linear layer that keeps its matrix so.

Source: Qwen-VL-Chat-Int4 (quantization_config of its config.json) and AutoGPTQ's layout: for groups of 128 columns a
scale and a zero point per row; eight values of four bits to an int32, the lowest first; zero points are stored less
one. Int4 (GPTQ, arXiv 2210.17323) chooses the values by calibration; here a matrix is rounded to the nearest.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BITS = 4
GROUP_SIZE = 128
PER_INT = 32 // BITS
LEVELS = 2**BITS


def pack(values: Tensor) -> Tensor:
    """(..., n) integers in [0, 16), n a multiple of 8 -> (..., n / 8) int32."""
    shifts = torch.arange(0, 32, BITS, device=values.device)
    packed = (values.long().unflatten(-1, (-1, PER_INT)) << shifts).sum(-1)
    return packed.where(packed < 2**31, packed - 2**32).to(torch.int32)


def unpack(packed: Tensor) -> Tensor:
    """(..., n / 8) int32 -> (..., n) int8 in [0, 16)."""
    pairs = packed.contiguous().view(torch.uint8)  # the lowest byte first
    return torch.stack((pairs & (LEVELS - 1), pairs >> BITS), -1).flatten(-2).view(torch.int8)


def quantize(weight: Tensor, group_size: int = GROUP_SIZE) -> dict[str, Tensor]:
    """A matrix (out, in), both multiples of 8 -> its tensors in GPTQ's layout, each value rounded to the nearest of
    its group's 16. The last group may be shorter."""
    out_features, in_features = weight.shape
    if out_features % PER_INT or in_features % PER_INT:
        raise ValueError(f"a matrix of {out_features} x {in_features}: both must be multiples of {PER_INT}")
    groups = math.ceil(in_features / group_size)
    # Values repeated from the last column leave the last group's range as it is.
    full = F.pad(weight.float()[None], (0, groups * group_size - in_features), mode="replicate")[0]
    grouped = full.unflatten(1, (groups, group_size))  # (out, groups, group_size)
    high = grouped.amax(-1).clamp(min=0)
    low = torch.minimum(grouped.amin(-1), -high / (LEVELS - 2))  # a zero point of 0 can't be stored less one
    scales = ((high - low) / (LEVELS - 1)).half().clamp(min=torch.finfo(torch.float16).tiny)
    zeros = (-low / scales.float()).round().clamp(1, LEVELS)
    g_idx = torch.arange(in_features, dtype=torch.int32, device=weight.device) // group_size
    columns = g_idx.long()
    values = (weight.float() / scales.float()[:, columns] + zeros[:, columns]).round().clamp(0, LEVELS - 1)
    return {
        "qweight": pack(values).t().contiguous(),  # (in / 8, out)
        "qzeros": pack((zeros - 1).t()),  # (groups, out / 8)
        "scales": scales.t().contiguous(),  # (groups, out)
        "g_idx": g_idx,  # (in,)
    }


def dequantize(stored: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """The tensors of `quantize` in their order -> the matrix (out, in)."""
    qweight, qzeros, scales, g_idx = stored
    columns = g_idx.long()
    steps = unpack(qweight.t()) - (unpack(qzeros) + 1).t()[:, columns]  # int8 (out, in): few bytes to move
    weight = torch.empty(steps.shape, dtype=dtype, device=steps.device)
    return torch.mul(steps, scales.float().t()[:, columns], out=weight)  # bfloat16 would round the scales


class GPTQLinear(nn.Linear):
    """A linear layer with its matrix in GPTQ's layout: frozen, in a quarter of bfloat16's memory.

    A subclass of nn.Linear, so that whatever adapts linear layers takes it.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool, group_size: int = GROUP_SIZE) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.group_size = in_features, out_features, group_size
        groups = math.ceil(in_features / group_size)
        self.register_buffer("qweight", torch.zeros(in_features // PER_INT, out_features, dtype=torch.int32))
        self.register_buffer("qzeros", torch.zeros(groups, out_features // PER_INT, dtype=torch.int32))
        self.register_buffer("scales", torch.zeros(groups, out_features, dtype=torch.float16))
        self.register_buffer("g_idx", torch.zeros(in_features, dtype=torch.int32))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None  # type: ignore[assignment]

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The packed integers: they say on which device the layer is, and that no gradient goes there."""
        return self.qweight  # type: ignore[return-value]

    @classmethod
    def from_linear(cls, layer: nn.Linear, group_size: int = GROUP_SIZE) -> "GPTQLinear":
        """The same layer with its matrix rounded."""
        made = cls(layer.in_features, layer.out_features, layer.bias is not None, group_size)
        state = quantize(layer.weight.detach(), group_size)
        if layer.bias is not None:
            state["bias"] = layer.bias.detach()
        made.load_state_dict(state, assign=True)
        return made

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """(out, in)."""
        return dequantize(self.stored(), dtype)

    def forward(self, input: Tensor) -> Tensor:
        if torch.is_autocast_enabled(input.device.type):
            input = input.to(torch.get_autocast_dtype(input.device.type))
        product = _Product.apply(input, *self.stored())
        return product if self.bias is None else product + self.bias.to(product.dtype)

    def stored(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """qweight, qzeros, scales and g_idx."""
        return self.qweight, self.qzeros, self.scales, self.g_idx  # type: ignore[return-value]


class _Product(torch.autograd.Function):
    """x @ W.T that keeps no W for the backward pass but makes it again: else all matrices would lie there unpacked."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *stored: Tensor) -> Tensor:
        ctx.save_for_backward(*stored)
        return F.linear(x, dequantize(stored, x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        [grad] = grads
        return grad @ dequantize(ctx.saved_tensors, grad.dtype), None, None, None, None
