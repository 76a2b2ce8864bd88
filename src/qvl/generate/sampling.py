"""Logits -> the next token: pure functions. Source: generation_config.json of the published chat model.

Repetition penalty, then the filters in the order temperature, top_k, top_p, as the library behind the
published code applies them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qvl.errors import UsageError


@dataclass(frozen=True)
class SamplingConfig:
    """temperature 0 is greedy. top_k 0, top_p 1 and repetition_penalty 1 switch their part off."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1 or self.repetition_penalty <= 0:
            raise UsageError(
                f"temperature = {self.temperature}, top_k = {self.top_k}, top_p = {self.top_p}, "
                f"repetition_penalty = {self.repetition_penalty}: "
                "expected at least 0, at least 0, in (0, 1], and more than 0"
            )


def seen_tokens(prompts: Sequence[Sequence[int]], vocab_size: int) -> Tensor:
    """(B, V) bool: which tokens each prompt holds; what the repetition penalty is about."""
    seen = torch.zeros(len(prompts), vocab_size, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        seen[row, torch.tensor(list(prompt), dtype=torch.long)] = True
    return seen


def penalise_seen(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make seen tokens less likely: positive logits are divided by the penalty, negative ones multiplied."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def filter_logits(logits: Tensor, config: SamplingConfig) -> Tensor:
    """(B, V) logits -> the same over the temperature, with everything that may not be drawn at -inf."""
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


def sample(
    logits: Tensor, config: SamplingConfig, generator: torch.Generator | None = None, seen: Tensor | None = None
) -> Tensor:
    """(B, V) logits -> (B,) token ids. seen (B, V) bool: tokens that the repetition penalty applies to."""
    if seen is not None:
        logits = penalise_seen(logits.float(), seen, config.repetition_penalty)
    if config.temperature == 0:
        return logits.argmax(-1)
    probabilities = filter_logits(logits, config).softmax(-1)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]
