"""Beam search: the likeliest whole answer among the few best at every step.

Source: the library behind the published code, with length_penalty 0, the setting of its evaluation scripts:
answers are compared by their summed log-probability.
"""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from qvl.generate.decoding import decode, new_cache, prefill
from qvl.model.qwen_vl import QwenVL

Hypothesis = tuple[float, list[int]]  # summed log-probability, new tokens


@torch.inference_mode()
def beam_search(
    model: QwenVL,
    prompt: Sequence[int],
    pixel_values: Tensor | None = None,
    *,
    num_beams: int,
    max_new_tokens: int,
    stop_ids: Collection[int],
) -> list[int]:
    """New tokens of one prompt, without the stop token that ended it."""
    device = model.language.embedding.weight.device
    cache = new_cache(model, num_beams, len(prompt) + max_new_tokens)
    cache.alphas[0] = model.rotary_alpha(len(prompt))
    features = None if pixel_values is None else model.encode_images(pixel_values)
    logits = prefill(model, [model.embed(torch.tensor([list(prompt)], device=device), features)[0]], cache)
    going: list[Hypothesis] = [(0.0, [])]
    ended: list[Hypothesis] = []
    for step in range(max_new_tokens):
        rows, going, newly_ended = _expand(logits, going, num_beams, stop_ids)
        ended = sorted(ended + newly_ended, key=lambda hypothesis: -hypothesis[0])[:num_beams]
        if len(ended) == num_beams and ended[-1][0] >= going[0][0]:
            return ended[0][1]  # log-probabilities only fall: nothing that goes on can win
        if step + 1 < max_new_tokens:
            cache.arrange(rows)
            logits = decode(model, [tokens[-1] for _, tokens in going], cache)
    return max(ended + going, key=lambda hypothesis: hypothesis[0])[1]


def _expand(
    logits: Tensor, going: list[Hypothesis], num_beams: int, stop_ids: Collection[int]
) -> tuple[list[int], list[Hypothesis], list[Hypothesis]]:
    """One token more: for each beam that goes on the row it came from, these beams best first, and what ended.

    Twice as many candidates as beams are looked at, so that enough go on when some end.
    """
    totals = torch.tensor([total for total, _ in going], device=logits.device)
    scores = logits.float().log_softmax(-1) + totals[:, None]  # (beams, V)
    best, places = scores.flatten().topk(2 * num_beams)
    rows: list[int] = []
    beams: list[Hypothesis] = []
    ended: list[Hypothesis] = []
    for rank, (total, place) in enumerate(zip(best.tolist(), places.tolist(), strict=True)):
        row, token = divmod(place, logits.shape[-1])
        if token not in stop_ids and len(beams) < num_beams:
            rows.append(row)
            beams.append((total, [*going[row][1], token]))
        elif token in stop_ids and rank < num_beams:
            ended.append((total, going[row][1]))
    return rows, beams, ended
