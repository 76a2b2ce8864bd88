"""Attention by whatever computes it fastest."""

import torch
import torch.nn.functional as F
from torch import Tensor

PRODUCTS_UP_TO = 1024  # keys
ROWS = 256  # of a causal square at once: what lies above the diagonal is left out


def by_products(kind: str, dtype: torch.dtype, keys: int) -> bool:
    """Whether attention to so many keys goes as products of matrices on such a device.

    On CPUs in bf16 these take half of the fused kernel's time up to 512 keys, three quarters at 1,024 and more beyond.
    """
    return kind == "cpu" and dtype == torch.bfloat16 and keys <= PRODUCTS_UP_TO


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """q (N, H, Q, K), k and v (N, H, P, K) -> (N, H, Q, K).

    mask (N or 1, 1, Q, P): True where attended; no row may be all False. causal: Q = P, and each sees those up to
    itself. N may be 0, which the fused kernels of GPUs don't know.
    """
    if len(q) and not by_products(q.device.type, q.dtype, k.shape[2]):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    q, k, v = (q * q.shape[-1] ** -0.5).contiguous(), k.contiguous(), v.contiguous()
    if not causal:
        return _products(q, k, v, None if mask is None else ~mask)
    rows = [slice(start, start + ROWS) for start in range(0, q.shape[2], ROWS)]
    later = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).triu(1)
    parts = [_products(q[:, :, r], k[:, :, : r.stop], v[:, :, : r.stop], later[r, : r.stop]) for r in rows]
    return torch.cat(parts, 2) if len(parts) > 1 else parts[0]


def _products(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None) -> Tensor:
    """The softmax is float32. hidden: True where not attended."""
    scores = q @ k.transpose(-2, -1)
    if hidden is not None:
        scores = scores + torch.zeros_like(hidden, dtype=scores.dtype).masked_fill_(hidden, -torch.inf)
    return scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v
