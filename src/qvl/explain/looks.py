"""Where a model looks: the shares of its attention in a forward pass, taken from the queries and keys of that pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from qvl.model.qwen_vl import QwenVL


@dataclass
class Looks:
    """Filled by a forward pass under `looking`. Shares are means over heads; along the last dimension they sum to 1."""

    patches: Tensor = field(default_factory=lambda: torch.empty(0))  # (N, Q, P): each adapter query's on each patch
    layers: list[Tensor] = field(default_factory=list)  # of the language model: (rows, T) each


@contextmanager
def looking(model: QwenVL, rows: slice) -> Iterator[Looks]:
    """What a forward pass of one row of tokens, without a cache, attends to; rows: of which tokens."""
    looks = Looks()

    def adapter(module: Any, inputs: tuple[Tensor]) -> None:
        q, k, _ = module.project(*inputs)
        looks.patches = _shares(q, k)

    def block(module: Any, inputs: tuple[Any, ...]) -> None:
        x, positions, _ = inputs
        q, k, _ = module.project(module.ln_1(x), positions)
        places = torch.arange(q.shape[2], device=q.device)
        looks.layers.append(_shares(q[:, :, rows], k, places > places[rows, None])[0])

    hooks = [model.adapter.register_forward_pre_hook(adapter)]
    hooks += [layer.register_forward_pre_hook(block) for layer in model.language.blocks]
    try:
        yield looks
    finally:
        for hook in hooks:
            hook.remove()


def _shares(q: Tensor, k: Tensor, hidden: Tensor | None = None) -> Tensor:
    """q (N, H, Q, K), k (N, H, P, K) -> (N, Q, P) float32; hidden (Q, P): True where not attended."""
    scores = (q.float() * q.shape[-1] ** -0.5) @ k.float().transpose(-2, -1)
    if hidden is not None:
        scores = scores.masked_fill(hidden, -torch.inf)
    return scores.softmax(-1).mean(1).cpu()
