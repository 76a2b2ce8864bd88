"""Prompts -> new tokens: prefill once, then decode one token at a time from the KV cache."""

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from qvl.generate.sampling import SamplingConfig, sample, seen_tokens
from qvl.model.cache import KVCache
from qvl.model.qwen_vl import QwenVL


def pad_left(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Prompts of any length -> input_ids and attention_mask, both (B, T), padded on the left."""
    longest = max(map(len, prompts))
    input_ids = torch.full((len(prompts), longest), pad_id)
    attention_mask = torch.zeros(len(prompts), longest, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        input_ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        attention_mask[row, longest - len(prompt) :] = True
    return input_ids, attention_mask


def prefill(
    model: QwenVL, input_ids: Tensor, pixel_values: Tensor | None, attention_mask: Tensor | None, cache: KVCache
) -> Tensor:
    """Read the prompts (B, T) into the cache; logits of what follows, (B, V)."""
    hidden = model.hidden_states(input_ids, pixel_values, attention_mask, cache=cache)
    return model.language.head(hidden[:, -1])


def decode(model: QwenVL, token_ids: Tensor, cache: KVCache) -> Tensor:
    """Read one more token per row, (B,); logits of what follows, (B, V)."""
    return model(token_ids[:, None], cache=cache)[:, -1]


@torch.inference_mode()
def generate(
    model: QwenVL,
    prompts: Sequence[Sequence[int]],
    pixel_values: Tensor | None = None,
    *,
    max_new_tokens: int,
    min_new_tokens: int = 0,
    stop_ids: Collection[int],
    sampling: SamplingConfig | None = None,
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """New tokens of each prompt, without the stop token that ended it, which none of the first min_new_tokens is.

    pixel_values (N, 3, S, S): the images of all prompts, in reading order. Rows that ended leave the batch.
    """
    sampling = sampling or SamplingConfig()
    device = model.language.embedding.weight.device
    input_ids, mask = pad_left(prompts, pad_id=0)
    attention_mask = None if bool(mask.all()) else mask.to(device)
    cache = KVCache()
    logits = prefill(model, input_ids.to(device), pixel_values, attention_mask, cache)
    seen = _seen(prompts, logits, sampling)
    answers: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))  # which prompt each row of the batch is
    stops = torch.tensor(sorted(stop_ids), dtype=torch.long, device=device)
    for step in range(max_new_tokens):
        if step < min_new_tokens:
            logits = logits.index_fill(1, stops, float("-inf"))
        tokens = sample(logits, sampling, generator, seen)
        going = []
        for place, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
            if token not in stop_ids:
                answers[row].append(token)
                going.append(place)
        if not going or step + 1 == max_new_tokens:
            break
        if len(going) < len(rows):
            keep = torch.tensor(going, device=device)
            cache.keep_rows(keep)
            tokens, rows = tokens[keep], [rows[place] for place in going]
            seen = None if seen is None else seen[keep]
        if seen is not None:
            seen.scatter_(1, tokens[:, None], True)
        logits = decode(model, tokens, cache)
    return answers


@torch.inference_mode()
def stream(
    model: QwenVL,
    prompt: Sequence[int],
    pixel_values: Tensor | None = None,
    *,
    max_new_tokens: int,
    stop_ids: Collection[int],
    sampling: SamplingConfig | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[int]:
    """New tokens of one prompt as they come; what `generate` would give for it."""
    sampling = sampling or SamplingConfig()
    device = model.language.embedding.weight.device
    cache = KVCache()
    logits = prefill(model, torch.tensor([list(prompt)], device=device), pixel_values, None, cache)
    seen = _seen([prompt], logits, sampling)
    for step in range(max_new_tokens):
        token = sample(logits, sampling, generator, seen)
        if int(token) in stop_ids:
            return
        yield int(token)
        if step + 1 == max_new_tokens:
            return
        if seen is not None:
            seen.scatter_(1, token[:, None], True)
        logits = decode(model, token, cache)


def _seen(prompts: Sequence[Sequence[int]], logits: Tensor, sampling: SamplingConfig) -> Tensor | None:
    if sampling.repetition_penalty == 1:
        return None
    return seen_tokens(prompts, logits.shape[-1]).to(logits.device)
