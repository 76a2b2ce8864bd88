"""The language model, Qwen-7B's design. Source: modeling_qwen.py of the published checkpoints."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qvl.model.attention import attend
from qvl.model.cache import Window
from qvl.model.config import LanguageConfig
from qvl.model.init import linear_, previous_token_heads_
from qvl.model.rope import rotate


class RMSNorm(nn.Module):
    """x / rms(x) in float32, cast back, then scaled."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        normed = F.rms_norm(x.float(), self.weight.shape, eps=self.eps)
        return normed.to(x.dtype) * self.weight


@dataclass(frozen=True)
class Positions:
    """What every layer needs to know about where the tokens stand."""

    cos: Tensor  # (B, 1, T, K) float32
    sin: Tensor
    logn: Tensor | None  # (B, 1, T, 1), only beyond seq_length in eval
    mask: Tensor | None  # (B, 1, T, past + T) bool, True where attended; None: plain causal
    places: Tensor  # (1 or B, T): where the tokens stand in the cache


class LanguageBlock(nn.Module):
    """RMSNorm, attention with fused qkv (biased), RMSNorm, SwiGLU."""

    def __init__(self, config: LanguageConfig, layer: int) -> None:
        super().__init__()
        hidden, inner, bias = config.hidden_size, config.intermediate_size // 2, not config.no_bias
        self.layer, self.heads, self.head_size = layer, config.num_heads, config.head_size
        self.ln_1 = RMSNorm(hidden, config.layer_norm_epsilon)
        self.c_attn = nn.Linear(hidden, 3 * hidden)
        self.attn_c_proj = nn.Linear(hidden, hidden, bias=bias)
        self.ln_2 = RMSNorm(hidden, config.layer_norm_epsilon)
        self.w1 = nn.Linear(hidden, inner, bias=bias)
        self.w2 = nn.Linear(hidden, inner, bias=bias)
        self.merged: nn.Module | None = None  # w1 and w2 in one product, for inference (see qvl.generate.prepare)
        self.mlp_c_proj = nn.Linear(inner, hidden, bias=bias)

    def forward(self, x: Tensor, positions: Positions, cache: Window | None) -> Tensor:  # (B, T, D)
        x = x + self.attn_c_proj(self._attend(self.ln_1(x), positions, cache))
        normed = self.ln_2(x)
        up, gate = (self.w1(normed), self.w2(normed)) if self.merged is None else self.merged(normed).chunk(2, dim=-1)
        return x + self.mlp_c_proj(up * F.silu(gate))

    def project(
        self, x: Tensor, positions: Positions, wide: torch.dtype | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Normed x (B, T, D) -> rotated queries and keys, and values, of these tokens: (B, H, T, K) each.

        wide: the type of queries and keys, that of the products where none is given.
        """
        qkv = self.c_attn(x).unflatten(-1, (-1, self.head_size)).transpose(1, 2)  # (B, 3 H, T, K)
        heads = qkv.shape[1] // 3  # some of them, where the model is shared out
        wide = wide or qkv.dtype
        q, k = rotate(qkv[:, : 2 * heads], positions.cos, positions.sin, wide).chunk(2, dim=1)
        if positions.logn is not None:
            q = (q * positions.logn).to(wide)
        return q, k, qkv[:, 2 * heads :]

    def _attend(self, x: Tensor, positions: Positions, cache: Window | None) -> Tensor:
        q, k, v = self.project(x, positions, None if cache is None else cache.dtype)
        narrow = v.dtype
        if cache is not None:
            k, v = cache.append(self.layer, k, v, positions.places)
        causal = positions.mask is None and q.shape[2] > 1
        attended = attend(q, k, v, positions.mask, causal)
        return attended.transpose(1, 2).flatten(2).to(narrow)  # the cache may be wider

    def initialize(self, generator: torch.Generator, config: LanguageConfig) -> None:
        for layer in (self.c_attn, self.w1, self.w2):
            linear_(layer, generator)
        for layer in (self.attn_c_proj, self.mlp_c_proj):
            linear_(layer, generator, scale=1 / math.sqrt(2 * config.num_layers))
        if self.layer == 0:
            previous_token_heads_(self.c_attn, self.heads, config.rotary_base)


class LanguageModel(nn.Module):
    """Embeddings (B, T, D) -> hidden states (B, T, D); `head` turns them into logits (B, T, V)."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(LanguageBlock(config, i) for i in range(config.num_layers))
        self.ln_f = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, embeddings: Tensor, positions: Positions, cache: Window | None = None) -> Tensor:
        x = embeddings
        for block in self.blocks:
            x = block(x, positions, cache)
        return self.ln_f(x)

    def initialize(self, generator: torch.Generator) -> None:
        with torch.no_grad():
            self.embedding.weight.normal_(0, 0.5, generator=generator)
        linear_(self.head, generator, scale=0.3)
        for block in self.blocks:
            block.initialize(generator, self.config)  # type: ignore[operator]
