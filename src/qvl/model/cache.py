"""Keys and values of what a model has read. Source: layer_past of modeling_qwen.py."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from qvl.model.config import LanguageConfig


class KVCache:
    """Room for `rows` sequences of up to `capacity` tokens each, taken once; on the CPU only what is used costs memory.

    num_heads: of this rank, where the model is shared out. lengths: how many tokens each row holds, kept by whoever
    reads with it. alphas: the rotary alpha that each row began with and keeps (see qvl.model.rope), so that the model
    has no state.
    """

    def __init__(
        self,
        config: LanguageConfig,
        rows: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        num_heads: int | None = None,
    ) -> None:
        shape = (config.num_layers, rows, num_heads or config.num_heads, capacity, config.head_size)
        # Places that hold no token are hidden, but a hidden NaN would spread: zeros.
        self.keys = torch.zeros(shape, dtype=cache_dtype(dtype, str(device)), device=device)
        self.values = torch.zeros_like(self.keys)
        self.capacity = capacity
        self.lengths = [0] * rows
        self.alphas = [1.0] * rows

    def window(self, start: int, stop: int, tokens: int) -> "Window":
        """The rows from start to stop, about to read `tokens` more each."""
        lengths, alphas = self.lengths[start:stop], self.alphas[start:stop]
        alike = len(set(lengths)) == 1
        past = lengths[0] if alike else torch.tensor(lengths, device=self.keys.device)
        alpha = alphas[0] if len(set(alphas)) == 1 else tuple(alphas)
        rows = slice(start, stop)
        return Window(self.keys[:, rows], self.values[:, rows], past, max(lengths) + tokens, alpha)

    def copy_row(self, source: int, target: int, tokens: int) -> None:
        """The first tokens of a row into another one, which then holds just these."""
        for stored in (self.keys, self.values):
            stored[:, target, :, :tokens] = stored[:, source, :, :tokens]
        self.lengths[target], self.alphas[target] = tokens, self.alphas[source]

    def swap_rows(self, one: int, other: int) -> None:
        """Each where the other was."""
        pair, turned = [one, other], [other, one]
        longest = max(self.lengths[one], self.lengths[other])
        for stored in (self.keys, self.values):
            stored[:, pair, :, :longest] = stored[:, turned, :, :longest]
        self.lengths[one], self.lengths[other] = self.lengths[other], self.lengths[one]
        self.alphas[one], self.alphas[other] = self.alphas[other], self.alphas[one]

    def arrange(self, sources: list[int]) -> None:
        """Row i becomes what row sources[i] was; rows beyond len(sources) stay."""
        count, longest = len(sources), max(self.lengths[source] for source in sources)
        if sources != list(range(count)):
            for stored in (self.keys, self.values):
                stored[:, :count, :, :longest] = stored[:, sources, :, :longest]
        self.lengths[:count] = [self.lengths[source] for source in sources]
        self.alphas[:count] = [self.alphas[source] for source in sources]


@dataclass(frozen=True)
class Window:
    """The rows of a cache (B of them) that a call reads with, and where their new tokens go.

    past: tokens that are there already, the same in all rows or (B,). extent: places to look at, the new ones
    included; where past is (B,) there may be more of them. alpha: rotary alpha, the same in all rows or of each.
    """

    keys: Tensor  # (L, B, H, C, K), part of the cache's memory
    values: Tensor
    past: int | Tensor
    extent: int
    alpha: float | tuple[float, ...]
    _rows: Tensor = field(init=False)  # (B, 1)

    def __post_init__(self) -> None:
        rows = torch.arange(self.keys.shape[1], device=self.keys.device)[:, None]
        object.__setattr__(self, "_rows", rows)

    @property
    def dtype(self) -> torch.dtype:
        """Of keys and values; queries take it too."""
        return self.keys.dtype

    def places(self, tokens: int) -> Tensor:
        """Of that many new tokens, (1 or B, T)."""
        new = torch.arange(tokens, device=self.keys.device)[None]
        return new + (self.past if isinstance(self.past, int) else self.past[:, None])

    def append(self, layer: int, keys: Tensor, values: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Put a layer's new keys and values, (B, H, T, K), at their places; all up to the extent, (B, H, extent, K)."""
        stored = self.keys[layer], self.values[layer]
        for whole, new in zip(stored, (keys, values), strict=True):
            if isinstance(self.past, int):
                whole[:, :, self.past : self.past + new.shape[2]] = new
            else:
                whole.transpose(1, 2)[self._rows, places] = new.transpose(1, 2).to(whole.dtype)
        return stored[0][:, :, : self.extent], stored[1][:, :, : self.extent]


def cache_dtype(dtype: torch.dtype, device: str) -> torch.dtype:
    """In which type keys and values lie for a model that computes in `dtype`.

    The CPU's attention in 16 bits takes two to five times as long as in float32, for one query a row.
    """
    return torch.float32 if device.startswith("cpu") else dtype
