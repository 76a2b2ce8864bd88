"""Keys and values of what a model has read. Source: layer_past of modeling_qwen.py."""

import torch
from torch import Tensor


class KVCache:
    """One per generation. Holds the rotary alpha of the prefill too, so that the model has no state.

    attention_mask (B, T) bool: which of the places read so far are real; None when all are.
    """

    def __init__(self) -> None:
        self.keys: list[Tensor] = []  # per layer (B, H, T, K)
        self.values: list[Tensor] = []
        self.attention_mask: Tensor | None = None
        self.alpha = 1.0

    @property
    def num_tokens(self) -> int:
        return self.keys[0].shape[2] if self.keys else 0

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add the new places of a layer; all keys and values so far."""
        if layer == len(self.keys):
            self.keys.append(keys)
            self.values.append(values)
        else:
            self.keys[layer] = torch.cat((self.keys[layer], keys), dim=2)
            self.values[layer] = torch.cat((self.values[layer], values), dim=2)
        return self.keys[layer], self.values[layer]

    def keep_rows(self, rows: Tensor) -> None:
        """Keep only these rows of the batch, in this order."""
        self.keys = [k[rows] for k in self.keys]
        self.values = [v[rows] for v in self.values]
        if self.attention_mask is not None:
            self.attention_mask = self.attention_mask[rows]
