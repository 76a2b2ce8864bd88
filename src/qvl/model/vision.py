"""The ViT. Source: paper section 2.1; visual.py of the published checkpoints."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qvl.model.attention import attend
from qvl.model.config import VisionConfig
from qvl.model.init import dct_filters, linear_, local_attention_, sincos_2d

LAYER_NORM_EPS = 1e-6
GLOBAL_EVERY = 4  # with windows, every fourth block still sees the whole picture (paper, appendix E)


def resize_positions(table: Tensor, grid: int) -> Tensor:
    """Square position table (rows, D) -> (grid * grid, D), bicubic where the sizes differ."""
    side = math.isqrt(len(table))
    if side == grid:
        return table
    square = table.float().view(1, side, side, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(square, size=(grid, grid), mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1).flatten(0, 2).to(table.dtype)


def split_windows(x: Tensor, window: int) -> Tensor:
    """Patches row by row (N, P, D) -> those of each window as a row of their own, (N * windows, window ** 2, D)."""
    n, patches, dim = x.shape
    side = math.isqrt(patches)
    if side % window:
        raise ValueError(f"{side} patches along a side can't be shared out among windows of {window}")
    across = side // window
    return x.view(n, across, window, across, window, dim).transpose(2, 3).reshape(-1, window**2, dim)


def join_windows(x: Tensor, patches: int) -> Tensor:
    """What split_windows made of `patches` (P) a picture -> (N, P, D)."""
    window = math.isqrt(x.shape[1])
    across = math.isqrt(patches) // window
    windows = x.view(-1, across, across, window, window, x.shape[-1])
    return windows.transpose(2, 3).reshape(-1, patches, x.shape[-1])


class VisionBlock(nn.Module):
    """Pre-LN transformer block; q, k and v lie side by side within each head, as published."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width, inner = config.width, int(config.width * config.mlp_ratio)
        self.heads, self.head_size = config.heads, width // config.heads
        self.ln_1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)
        self.ln_2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.c_fc = nn.Linear(width, inner)
        self.c_proj = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:  # (N, P, width)
        qkv = self.in_proj(self.ln_1(x)).unflatten(-1, (-1, 3, self.head_size))
        q, k, v = qkv.permute(3, 0, 2, 1, 4)  # each (N, H, P, K)
        attended = attend(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out_proj(attended)
        return x + self.c_proj(F.gelu(self.c_fc(self.ln_2(x))))

    def initialize(self, generator: torch.Generator, depth: int) -> None:
        local_attention_(self.in_proj, self.out_proj, self.heads, generator)
        linear_(self.c_fc, generator)
        linear_(self.c_proj, generator, scale=1 / math.sqrt(2 * depth))


class VisionEncoder(nn.Module):
    """pixel_values (N, 3, S, S) -> features of the patches, (N, P, width). No class token, no final norm."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv2d(3, config.width, config.patch_size, config.patch_size, bias=False)
        self.positional_embedding = nn.Parameter(torch.zeros(config.position_rows, config.width))
        self.ln_pre = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.layers))

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.embed_patches(pixel_values)  # (N, P, width)
        grid = math.isqrt(x.shape[1])
        x = self.ln_pre(x + resize_positions(self.positional_embedding, grid))
        window = self.config.attention_window
        for number, block in enumerate(self.blocks, 1):
            windowed = window and number % GLOBAL_EVERY
            x = join_windows(block(split_windows(x, window)), x.shape[1]) if windowed else block(x)
        return x

    def embed_patches(self, pixel_values: Tensor) -> Tensor:
        """conv1 as one matrix product: the patches don't overlap, and products are fast everywhere."""
        n, c, height, width = pixel_values.shape
        p = self.config.patch_size
        if height != width or height % p:
            raise ValueError(f"pixel_values of {height}x{width}: expected a square whose side is a multiple of {p}")
        g = height // p
        patches = pixel_values.view(n, c, g, p, g, p).permute(0, 2, 4, 1, 3, 5).reshape(n, g * g, c * p * p)
        return F.linear(patches.to(self.conv1.weight.dtype), self.conv1.weight.flatten(1))

    def initialize(self, generator: torch.Generator) -> None:
        c = self.config
        with torch.no_grad():
            self.conv1.weight.copy_(dct_filters(c.width, c.patch_size))
            self.positional_embedding.copy_(sincos_2d(math.isqrt(c.position_rows), c.width))
        for block in self.blocks:
            block.initialize(generator, c.layers)  # type: ignore[operator]
