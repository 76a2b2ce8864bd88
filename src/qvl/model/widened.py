"""Matrices in bf16 on processors that multiply it neither in hardware nor by FBGEMM, for inference.

A bf16 product of several rows takes some seventy times as long there as one in float32, but not one of a single row.
Matrices stay bf16, half as much to read, and are widened for more rows, part by part.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ONE_BY_ONE = 4  # rows up to which so many products with one row are faster than one with the widened matrix
WIDENED_BYTES = 2**21  # of a matrix in float32 at once: they stay in the caches
LEAST_COLUMNS = 16  # with which a part is multiplied: fewer take twice as long


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


class WidenedEmbedding(nn.Module):
    """A bf16 nn.Embedding whose rows come out in float32."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.weight = embedding.weight

    def forward(self, input_ids: Tensor) -> Tensor:  # (...) -> (..., D)
        return F.embedding(input_ids, self.weight).float()
