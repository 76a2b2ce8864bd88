"""How a fresh model starts. The published one starts from trained parts; only the tiny recipe starts here.

Four ideas, each measured to pay within minutes of training: patch filters that are already a cosine
transform, two-dimensional sine positions strong enough that attention is local at first, attention whose
query and key maps agree (mimetic initialisation, Trockman and Kolter 2023, arXiv 2305.09828), and a first
language layer that sees the token before (what induction needs, Olsson et al. 2022, arXiv 2209.11895).
"""

import math

import torch
from torch import Tensor, nn

FOCUS = 6.0  # how sharply the adapter's heads look at their patch at first
SHARP, HUSHED = 4.7, 0.3  # what a previous-token head hears of the place, and of the content
QUIET = 0.02  # what a patch holds is this loud in the channels that tell its place


def linear_(layer: nn.Linear, generator: torch.Generator, scale: float = 1.0) -> None:
    """Normal weights that keep the variance, times scale; no bias."""
    with torch.no_grad():
        layer.weight.normal_(0, scale / math.sqrt(layer.in_features), generator=generator)
        if layer.bias is not None:
            layer.bias.zero_()


def _orthogonal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """A (rows, columns) matrix with orthonormal columns."""
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator))[0]


def local_attention_(
    in_proj: nn.Linear, out_proj: nn.Linear, heads: int, generator: torch.Generator, strength: float = 0.5
) -> None:
    """Each head's q and k maps equal; out_proj about minus the v map: patches look around themselves."""
    width = in_proj.in_features
    size = width // heads
    values = _orthogonal(width, width, generator)
    rows = []
    for head in range(heads):
        agree = _orthogonal(width, size, generator).T  # (K, width)
        rows += [agree, agree, values[head * size : (head + 1) * size]]
    with torch.no_grad():
        in_proj.weight.copy_(torch.cat(rows))
        in_proj.bias.zero_()
        noise = torch.randn(width, width, generator=generator) / math.sqrt(width)
        out_proj.weight.copy_(strength * (noise - values.T))
        out_proj.bias.zero_()


def previous_token_heads_(c_attn: nn.Linear, heads: int, rotary_base: float, number: int = 2) -> None:
    """Let head i of the first `number` look i + 1 tokens back, whatever stands there.

    Rotary positions turn q and k by their places, so biases that differ by the turn of a distance meet there;
    the bias would take a thousand steps to grow on its own.
    """
    dim = c_attn.in_features
    size = dim // heads
    turns = rotary_base ** (-torch.arange(0, size, 2) / size)
    with torch.no_grad():
        for head in range(number):
            q, k = (slice(part * dim + head * size, part * dim + (head + 1) * size) for part in (0, 1))
            back = (head + 1) * turns
            c_attn.weight[q] *= HUSHED
            c_attn.weight[k] *= HUSHED
            c_attn.bias[q] = SHARP * torch.cat((back.cos(), -back.sin()))
            c_attn.bias[k] = SHARP * torch.cat((torch.ones_like(turns), torch.zeros_like(turns)))


def query_attention_(in_proj: nn.Linear, out_proj: nn.Linear, heads: int, generator: torch.Generator) -> None:
    """The adapter's: each head of a query looks at one of the four patches around the query's own place.

    A shift of place turns each sine and cosine pair of the position table by a known angle, so q and k maps
    that pick the fastest waves and differ by that turn find the shifted place.
    """
    dim = in_proj.in_features
    size, quarter = dim // heads, dim // 4
    waves = place_waves(dim, heads)
    shift = 0.25  # of the distance between two queries: the middle of a patch when there are 2 x 2 to a query
    queries, keys = torch.zeros(heads, size, dim), torch.zeros(heads, size, dim)
    for head in range(heads):
        offsets = (shift if head % 2 else -shift, shift if head // 2 % 2 else -shift)  # column, row
        for axis, offset in enumerate(offsets):
            for wave in range(waves):
                sine, row = axis * dim // 2 + wave, 2 * (axis * waves + wave)
                cosine = sine + quarter
                angle = offset / 10000 ** (wave / quarter)
                keys[head, row, sine] = keys[head, row + 1, cosine] = FOCUS
                queries[head, row, sine] = queries[head, row + 1, cosine] = FOCUS * math.cos(angle)
                queries[head, row, cosine] = FOCUS * math.sin(angle)
                queries[head, row + 1, sine] = -FOCUS * math.sin(angle)
    with torch.no_grad():
        in_proj.weight.copy_(torch.cat([queries.flatten(0, 1), keys.flatten(0, 1), _orthogonal(dim, dim, generator)]))
        in_proj.bias.zero_()
        out_proj.weight.copy_(_orthogonal(dim, dim, generator))
        out_proj.bias.zero_()


def place_waves(dim: int, heads: int) -> int:
    """How many of the position table's fastest waves along each axis the heads look at."""
    return min(8, dim // heads // 4, dim // 4)


def place_channels(dim: int, heads: int) -> list[int]:
    """The channels of those waves, sines and cosines, along both axes."""
    starts = (0, dim // 4, dim // 2, 3 * dim // 4)
    return [start + wave for start in starts for wave in range(place_waves(dim, heads))]


def sincos_2d(side: int, dim: int) -> Tensor:
    """(side * side, dim): waves of 4 to 130 patches along each axis, of amplitude 1."""
    places = torch.arange(side, dtype=torch.float32)
    waves = 1.5 * 10 ** (-1.5 * torch.arange(dim // 4) / (dim // 4))
    angles = places[:, None] * waves
    line = torch.cat((angles.sin(), angles.cos()), dim=1)  # (side, dim / 2)
    return torch.cat((line[None].expand(side, -1, -1), line[:, None].expand(-1, side, -1)), dim=-1).flatten(0, 1)


def dct_filters(count: int, patch: int) -> Tensor:
    """(count, 3, patch, patch): the lowest cosine waves of brightness (two thirds) and of two colour axes.

    Finer waves, which natural pictures hold less of, are made stronger.
    """
    places = torch.arange(patch) + 0.5
    waves = torch.stack([torch.cos(math.pi * places * k / patch) for k in range(patch)])
    waves = waves / waves.norm(dim=1, keepdim=True)
    by_frequency = sorted((u * u + v * v, u, v) for u in range(patch) for v in range(patch))
    axes = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-0.5, 1.0, -0.5]])
    chroma = count // 6
    filters = []
    for axis, number in zip(axes / axes.norm(dim=1, keepdim=True), (count - 2 * chroma, chroma, chroma), strict=True):
        for place in range(number):
            square, u, v = by_frequency[place % len(by_frequency)]
            wave = axis[:, None, None] * waves[u][:, None] * waves[v]
            filters.append(0.25 * (1 + math.sqrt(square)) * wave)
    return torch.stack(filters)
