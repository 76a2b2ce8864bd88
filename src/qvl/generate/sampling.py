"""Logits -> the next token: a pure function. Source: generation_config.json of the published chat model.

Filters in the order temperature, top_k, top_p, as the library behind the published code applies them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from qvl.errors import UsageError


@dataclass(frozen=True)
class SamplingConfig:
    """temperature 0 is greedy. top_k 0 and top_p 1 switch their filter off."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise UsageError(
                f"temperature = {self.temperature}, top_k = {self.top_k}, top_p = {self.top_p}: "
                "expected at least 0, at least 0, and in (0, 1]"
            )


def filter_logits(logits: Tensor, config: SamplingConfig) -> Tensor:
    """(B, V) logits -> the same with everything that may not be drawn at -inf."""
    scores = logits.float() / config.temperature
    if config.top_k:
        least = scores.topk(min(config.top_k, scores.shape[-1]))[0][:, -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if config.top_p < 1:
        ordered, order = scores.sort(dim=-1)  # ascending: the tail that sums to 1 - top_p goes
        tail = ordered.softmax(-1).cumsum(-1) <= 1 - config.top_p
        tail[:, -1] = False
        scores = scores.masked_fill(torch.zeros_like(tail).scatter(-1, order, tail), -torch.inf)
    return scores


def sample(logits: Tensor, config: SamplingConfig, generator: torch.Generator | None = None) -> Tensor:
    """(B, V) logits -> (B,) token ids."""
    if config.temperature == 0:
        return logits.argmax(-1)
    probabilities = filter_logits(logits, config).softmax(-1)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]
