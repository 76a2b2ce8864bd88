"""Int4 matrices in GPTQ's layout, and a linear layer that keeps its matrix so.

Source: Qwen-VL-Chat-Int4 (quantization_config of its config.json) and AutoGPTQ's layout: for groups of 128 columns a
scale and a zero point per row; eight values of four bits to an int32, the lowest first; zero points are stored less
one. `quantize` rounds each value to the nearest; qvl.quantize.calibrate chooses them as GPTQ does.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

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
    in_features = weight.shape[1]
    columns = torch.arange(in_features, device=weight.device) // group_size
    parts = [ranges(part) for part in weight.float().split(group_size, dim=1)]
    scales, zeros = (torch.stack(values, 1) for values in zip(*parts, strict=True))  # (out, groups)
    return stored(rounded(weight.float(), scales[:, columns], zeros[:, columns]), scales, zeros, columns)


def ranges(group: Tensor) -> tuple[Tensor, Tensor]:
    """The columns of a group, (out, n) float32 -> scale and zero point of each row, (out,)."""
    high = group.amax(-1).clamp(min=0)
    low = torch.minimum(group.amin(-1), -high / (LEVELS - 2))  # a zero point of 0 can't be stored less one
    scales = ((high - low) / (LEVELS - 1)).half().clamp(min=torch.finfo(torch.float16).tiny)
    return scales.float(), (-low / scales.float()).round().clamp(1, LEVELS)


def rounded(weight: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """The nearest of the 16 values, as numbers in [0, 16)."""
    return (weight / scales + zeros).round().clamp(0, LEVELS - 1)


def stored(values: Tensor, scales: Tensor, zeros: Tensor, columns: Tensor) -> dict[str, Tensor]:
    """values (out, in) in [0, 16), scales and zeros (out, groups), columns (in,): the group of each -> the layout.

    ValueError for a matrix that can't be packed.
    """
    out_features, in_features = values.shape
    if out_features % PER_INT or in_features % PER_INT:
        raise ValueError(f"a matrix of {out_features} x {in_features}: both must be multiples of {PER_INT}")
    return {
        "qweight": pack(values).t().contiguous(),  # (in / 8, out)
        "qzeros": pack((zeros - 1).t()),  # (groups, out / 8)
        "scales": scales.half().t().contiguous(),  # (groups, out)
        "g_idx": columns.int(),  # (in,)
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
    def from_linear(
        cls, layer: nn.Linear, group_size: int = GROUP_SIZE, state: dict[str, Tensor] | None = None
    ) -> "GPTQLinear":
        """The same layer with its matrix as `state` has it, else rounded to the nearest."""
        made = cls(layer.in_features, layer.out_features, layer.bias is not None, group_size)
        state = dict(state or quantize(layer.weight.detach(), group_size))
        if layer.bias is not None:
            state["bias"] = layer.bias.detach()
        made.load_state_dict(state, assign=True)
        return made

    @classmethod
    def joined(cls, first: "GPTQLinear", second: "GPTQLinear") -> "GPTQLinear":
        """Two layers of one input, with their columns in the same groups, as one: their outputs side by side."""
        out_features, biased = first.out_features + second.out_features, first.bias is not None
        both = cls(first.in_features, out_features, biased, first.group_size)
        state = {"g_idx": first.g_idx}
        for name in ("qweight", "qzeros", "scales", "bias")[: 4 if biased else 3]:
            state[name] = torch.cat([getattr(one, name).detach() for one in (first, second)], dim=-1)
        both.load_state_dict(state, assign=True)
        return both

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


class Grouped(NamedTuple):
    """values (out, in) in [0, 16), scales and zero points (groups, out), and the order of the input's columns that
    brings a group's together, None where they are."""

    values: Tensor
    scales: Tensor
    zeros: Tensor
    order: Tensor | None


def by_group(layer: GPTQLinear) -> Grouped:
    """A layer's matrix as kernels take it, float32 scales and zero points."""
    qweight, qzeros, scales, g_idx = layer.stored()
    values, zeros = unpack(qweight.t()), (unpack(qzeros) + 1).float()
    order = torch.argsort(g_idx.long(), stable=True)
    if bool((order[1:] > order[:-1]).all()):
        return Grouped(values, scales.float(), zeros, None)
    return Grouped(values[:, order], scales.float(), zeros, order)


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
