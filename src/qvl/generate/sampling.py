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


def seen_tokens(ids: Sequence[int], vocab_size: int) -> Tensor:
    """(V,) bool: which tokens are among the ids; what the repetition penalty is about."""
    seen = torch.zeros(vocab_size, dtype=torch.bool)
    seen[torch.tensor(list(ids), dtype=torch.long)] = True
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


@dataclass(frozen=True, eq=False)
class Draw:
    """How one row's next token is drawn.

    seen (V,) bool: tokens that the repetition penalty applies to. banned: ids that may not come. top_logprobs: as of
    Request.
    """

    sampling: SamplingConfig
    generator: torch.Generator | None = None
    seen: Tensor | None = None
    banned: Sequence[int] = ()
    top_logprobs: int | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the likeliest token is all that is wanted."""
        greedy = self.sampling.temperature == 0 and self.seen is None
        return greedy and not self.banned and self.top_logprobs is None


Chosen = tuple[int, float | None, tuple[tuple[int, float], ...]]  # token, its log-probability, the likeliest ones


def choose(logits: Tensor, draws: Sequence[Draw]) -> list[Chosen]:
    """The next token of each row of logits (B, V), by itself: what other rows do has no part in it."""
    if all(draw.is_plain for draw in draws):
        return [(token, None, ()) for token in logits.argmax(-1).tolist()]
    return [_choose_one(row, draw) for row, draw in zip(logits, draws, strict=True)]


def _choose_one(logits: Tensor, draw: Draw) -> Chosen:
    scores = logits.float()
    if draw.seen is not None:
        scores = penalise_seen(scores, draw.seen, draw.sampling.repetition_penalty)
    if draw.banned:
        scores = scores.index_fill(0, torch.tensor(draw.banned, device=scores.device), -torch.inf)
    token = sample(scores[None], draw.sampling, draw.generator)
    if draw.top_logprobs is None:
        return int(token), None, ()
    logprobs = logits.float().log_softmax(-1)
    best = logprobs.topk(draw.top_logprobs)
    return int(token), float(logprobs[token]), tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def sample(logits: Tensor, config: SamplingConfig, generator: torch.Generator | None = None) -> Tensor:
    """(B, V) logits -> (B,) token ids."""
    if config.temperature == 0:
        return logits.argmax(-1)
    probabilities = filter_logits(logits, config).softmax(-1)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]
