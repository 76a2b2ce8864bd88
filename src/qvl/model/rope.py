"""Rotary positions with dynamic NTK, and log-n attention scaling. Source: modeling_qwen.py."""

import math
from functools import lru_cache

import torch
from torch import Tensor


def ntk_alpha(num_tokens: int, seq_length: int) -> float:
    """Factor on the rotary base: 1 up to seq_length, 3 up to twice of it, then 7, 15, ..."""
    return max(2.0 ** math.ceil(math.log2(num_tokens / seq_length) + 1) - 1.0, 1.0)


def rotary_tables(
    position_ids: Tensor, head_size: int, base: float, alpha: float | tuple[float, ...]
) -> tuple[Tensor, Tensor]:
    """position_ids (B, T) -> cos, and sin with its first half negated, as `rotate` takes them, (B, 1, T, K) float32.

    alpha: of all rows, or of each.
    """
    if isinstance(alpha, tuple):
        each = {one: _inverse_frequencies(head_size, base, one, position_ids.device) for one in set(alpha)}
        inverse = torch.stack([each[one] for one in alpha])[:, None]  # (B, 1, K / 2)
    else:
        inverse = _inverse_frequencies(head_size, base, alpha, position_ids.device)
    angles = position_ids[..., None].float() * inverse  # (B, T, K / 2)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


@lru_cache(64)
def _inverse_frequencies(head_size: int, base: float, alpha: float, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # training may take it too
        base = base * alpha ** (head_size / (head_size - 2))
        steps = torch.arange(0, head_size, 2, dtype=torch.float32, device=device)
        return 1.0 / (base ** (steps / head_size))


def rotate(x: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """x (B, H, T, K) turned by its position, in float32, then cast to dtype (x's own)."""
    full = x.float()
    turned = full * cos + full.roll(full.shape[-1] // 2, dims=-1) * sin  # [second, first] by [-sin, sin]
    return turned.to(dtype or x.dtype)


def logn_scale(position_ids: Tensor, seq_length: int) -> Tensor:
    """log_seq_length(position + 1) beyond seq_length, else 1: (B, 1, T, 1) float32."""
    places = (position_ids + 1).clamp(min=seq_length).double()
    return (places.log() / math.log(seq_length)).float()[:, None, :, None]
