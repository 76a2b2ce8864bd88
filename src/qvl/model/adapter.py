"""The position-aware adapter: one cross-attention from learned queries to the patches.

Source: paper section 2.1; Resampler of the published visual.py, with ln_post and proj behind it.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qvl.model.attention import attend
from qvl.model.config import VisionConfig
from qvl.model.init import QUIET, linear_, place_channels, query_attention_
from qvl.model.vision import LAYER_NORM_EPS, resize_positions


def sincos_table(side: int, dim: int) -> Tensor:
    """The fixed table (side * side, dim): first half of the channels for the column, second for the row."""
    # Made on the CPU even within a skeleton, where arange would load torch's compiler.
    places = torch.arange(side, dtype=torch.float64, device="cpu")
    inverse = 1.0 / 10000 ** (torch.arange(dim // 4, dtype=torch.float64, device="cpu") / (dim / 4))
    angles = places[:, None] * inverse
    line = torch.cat((angles.sin(), angles.cos()), dim=1)  # (side, dim / 2)
    columns = line[None].expand(side, -1, -1)
    rows = line[:, None].expand(-1, side, -1)
    return torch.cat((columns, rows), dim=-1).flatten(0, 1).float().to(torch.get_default_device())


class Adapter(nn.Module):
    """features (N, P, width) -> (N, Q, output_dim)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        dim = config.output_dim
        self.heads = dim // config.adapter_head_size
        self.query = nn.Parameter(torch.zeros(config.num_queries, dim))
        table = sincos_table(math.isqrt(config.num_queries), dim)
        self.pos_embed = nn.Parameter(table, requires_grad=False)
        self.kv_proj = nn.Linear(config.width, dim, bias=False) if config.width != dim else nn.Identity()
        self.ln_q = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.ln_kv = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.in_proj = nn.Linear(dim, 3 * dim)  # rows of q, then k, then v
        self.out_proj = nn.Linear(dim, dim)
        self.ln_post = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.proj = nn.Parameter(torch.zeros(dim, dim))

    def forward(self, features: Tensor) -> Tensor:
        attended = attend(*self.project(features)).transpose(1, 2).flatten(2)  # (N, Q, D)
        return self.ln_post(self.out_proj(attended)) @ self.proj

    def project(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What attends, and what to: queries (N, H, Q, K), keys and values (N, H, P, K)."""
        n, patches, _ = features.shape
        x = self.ln_kv(self.kv_proj(features))
        query = self.ln_q(self.query) + self.pos_embed  # (Q, D)
        keys = x + resize_positions(self.pos_embed, math.isqrt(patches))
        weights, biases = self.in_proj.weight.chunk(3), self.in_proj.bias.chunk(3)
        q, k, v = (
            self._split_heads(F.linear(t, w, b))
            for t, w, b in zip((query[None].expand(n, -1, -1), keys, x), weights, biases, strict=True)
        )
        return q, k, v

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (N, H, ., K)

    def initialize(self, generator: torch.Generator) -> None:
        dim = len(self.proj)
        places = place_channels(dim, self.heads)
        if isinstance(self.kv_proj, nn.Linear):
            linear_(self.kv_proj, generator)
        with torch.no_grad():
            self.query.normal_(0, 0.02, generator=generator)
            self.proj.normal_(0, dim**-0.5, generator=generator)
            # Nothing but the position speaks where the heads look, so places decide at first. Means of zero,
            # because the norms behind would spread them over all channels.
            self.query.sub_(self.query.mean(1, keepdim=True))
            self.query[:, places] = 0
            if isinstance(self.kv_proj, nn.Linear):
                self.kv_proj.weight.sub_(self.kv_proj.weight.mean(0))
                self.kv_proj.weight[places] *= QUIET
        query_attention_(self.in_proj, self.out_proj, self.heads, generator)
