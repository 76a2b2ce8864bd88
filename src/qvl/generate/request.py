"""What is asked of the engine, and what it answers with."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from qvl.errors import UsageError
from qvl.generate.sampling import SamplingConfig

MAX_TOP_LOGPROBS = 20  # as of OpenAI's API


@dataclass(frozen=True, eq=False)
class Request:
    """A rendered prompt with its image spans, and how it is to be answered.

    images: pixel_values (3, S, S) of each span, in order. seed: of the draws; None takes a new one. top_logprobs: how
    many of the likeliest tokens come with each token; None: no log-probabilities at all. min_new_tokens: none of the
    first so many is a stop token.
    """

    input_ids: Sequence[int]
    images: Sequence[Tensor] = ()
    max_new_tokens: int = 256
    min_new_tokens: int = 0
    stop_ids: Collection[int] = ()
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    seed: int | None = None
    top_logprobs: int | None = None

    def __post_init__(self) -> None:
        if not self.input_ids:
            raise UsageError("a prompt without tokens can't be answered")
        if self.max_new_tokens < 1:
            raise UsageError(f"max_new_tokens = {self.max_new_tokens}: at least 1")
        if self.top_logprobs is not None and not 0 <= self.top_logprobs <= MAX_TOP_LOGPROBS:
            raise UsageError(f"top_logprobs = {self.top_logprobs}: from 0 to {MAX_TOP_LOGPROBS}")


@dataclass(frozen=True)
class Step:
    """One more token of a request, or its end, or both.

    token_id: None where it ended at a stop token, which is not part of the answer. logprob: natural logarithm of the
    token's probability before temperature and filters. top: the likeliest tokens with theirs. finish: "stop" at a stop
    token, "length" when max_new_tokens are there, None before.
    """

    request_id: int
    token_id: int | None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    finish: str | None = None
