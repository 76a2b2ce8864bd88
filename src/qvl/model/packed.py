"""Matrices as the CPU's kernels read them, for inference.

A product with a plain matrix lays it out anew every time, or reads it with strides: for a few rows of input that takes
up to three times as long as reading the matrix from memory. oneDNN's own layout is written once here.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qvl.model.skeleton import skeleton

# Fewer take oneDNN's AVX-512 kernels longer than four, where the matrix comes from memory; its AVX2 ones do not.
LEAST_ROWS = 4 if torch.backends.cpu.get_cpu_capability().startswith("AVX512") else 1
LEAST_BYTES = 2**23  # smaller ones are taken to stay in the caches
EXPECTED_ROWS = 16  # for which it chooses the layout


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


def joined(first: nn.Linear, second: nn.Linear) -> nn.Linear:
    """Two layers of one input as one, whose output is theirs side by side."""
    with skeleton():
        both = nn.Linear(first.in_features, first.out_features + second.out_features, first.bias is not None)
    parts = {"weight": (first.weight, second.weight)}
    if first.bias is not None and second.bias is not None:
        parts["bias"] = (first.bias, second.bias)
    both.load_state_dict({name: torch.cat([t.detach() for t in pair]) for name, pair in parts.items()}, assign=True)
    return both
