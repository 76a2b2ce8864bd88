"""Matrices as the CPU's kernels read them, for inference.

A product with a plain matrix lays it out anew every time, or reads it with strides: for a few rows of input that takes
up to three times as long as reading the matrix from memory. oneDNN's own layout is written once here.

A processor without bf16 products takes some seventy times as long for one of theirs as for one in float32, but not
where the input is one row. There matrices stay bf16, half as much to read, and are widened for more rows, part by part.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qvl.model.precision import multiplies_bf16
from qvl.model.qwen_vl import QwenVL
from qvl.model.skeleton import skeleton

# Fewer take oneDNN's AVX-512 kernels longer than four, where the matrix comes from memory; its AVX2 ones do not.
LEAST_ROWS = 4 if torch.backends.cpu.get_cpu_capability().startswith("AVX512") else 1
LEAST_BYTES = 2**23  # smaller ones are taken to stay in the caches
EXPECTED_ROWS = 16  # for which it chooses the layout
ONE_BY_ONE = 4  # rows up to which so many products with one row are faster than one with the widened matrix
WIDENED_BYTES = 2**21  # of a matrix in float32 at once: they stay in the caches
LEAST_COLUMNS = 16  # with which a part is multiplied: fewer take twice as long


class PackedLinear(nn.Module):
    """An nn.Linear that can't be trained any more; `weight` gives its plain matrix back."""

    kernel = "matrices laid out for oneDNN"

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight = layer.weight.detach().contiguous()
        self.dtype, self.is_large = weight.dtype, weight.nbytes > LEAST_BYTES
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, EXPECTED_ROWS)
        self.bias = None if layer.bias is None else layer.bias.detach()

    @property
    def weight(self) -> Tensor:
        """(out, in), made again."""
        return self.packed.to_dense()

    def forward(self, x: Tensor) -> Tensor:  # (..., in) -> (..., out)
        rows = x.reshape(-1, self.in_features).to(self.dtype)
        count = len(rows)
        if count < LEAST_ROWS and self.is_large:
            rows = F.pad(rows, (0, 0, 0, LEAST_ROWS - count))
        product = torch.ops.mkldnn._linear_pointwise(rows, self.packed, self.bias, "none", [], "")
        return product[:count].view(*x.shape[:-1], self.out_features)


class WidenedLinear(nn.Module):
    """An nn.Linear in bf16 for processors without bf16 products, for inference. x of any type."""

    kernel = "products of several rows in float32"

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.narrow = layer.weight.detach()  # no parameter: it stays as it is where the rest becomes float32
        self.bias = None if layer.bias is None else layer.bias.detach().float()

    @property
    def weight(self) -> Tensor:
        """(out, in) float32, made anew."""
        return self.narrow.float()

    def forward(self, x: Tensor) -> Tensor:  # (..., in) -> (..., out)
        rows = x.reshape(-1, self.in_features)
        product = self._one_by_one(rows) if len(rows) <= ONE_BY_ONE else self._by_parts(rows.float())
        if self.bias is not None:
            product = product + self.bias
        return product.to(x.dtype).view(*x.shape[:-1], self.out_features)

    def _one_by_one(self, rows: Tensor) -> Tensor:
        return torch.cat([F.linear(row, self.narrow) for row in rows.to(self.narrow.dtype).split(1)])

    def _by_parts(self, rows: Tensor) -> Tensor:
        size = max(1, WIDENED_BYTES // (4 * self.in_features))
        count = len(rows)
        columns = F.pad(rows, (0, 0, 0, max(0, LEAST_COLUMNS - count))).t().contiguous()
        product = rows.new_empty(count, self.out_features)
        memory = rows.new_empty(size, self.in_features)
        for start in range(0, self.out_features, size):
            part = self.narrow[start : start + size]
            product[:, start : start + size] = (memory[: len(part)].copy_(part) @ columns).t()[:count]
        return product


def joined(first: nn.Linear, second: nn.Linear) -> nn.Linear:
    """Two layers of one input as one, whose output is theirs side by side."""
    with skeleton():
        both = nn.Linear(first.in_features, first.out_features + second.out_features, first.bias is not None)
    parts = {"weight": (first.weight, second.weight)}
    if first.bias is not None and second.bias is not None:
        parts["bias"] = (first.bias, second.bias)
    both.load_state_dict({name: torch.cat([t.detach() for t in pair]) for name, pair in parts.items()}, assign=True)
    return both


def linear_for(model: QwenVL) -> type[PackedLinear] | type[WidenedLinear] | None:
    """What takes the place of nn.Linear for the model's weights, on this CPU and with this torch."""
    weight = model.language.embedding.weight
    if weight.device.type != "cpu":
        return None
    if weight.dtype == torch.bfloat16 and not multiplies_bf16("cpu"):
        return WidenedLinear
    known = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.backends.mkldnn.is_available()
    return PackedLinear if known and weight.dtype in (torch.float32, torch.bfloat16) else None


def widen_the_rest(model: QwenVL) -> None:
    """Everything but the WidenedLinear and the embedding becomes float32: little memory, and no products in bf16."""
    language = model.language
    for module in (model.vision, model.adapter, language.blocks, language.ln_f):
        module.float()
