"""Multiple choice by likelihood: the option whose tokens the model finds the likeliest. ScienceQA, SEED-Bench.

Source: evaluate_multiple_choice.py and seed_bench/eval.py of the published code.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LETTERS = "ABCDE"
SEED_IMAGE_TYPES, SEED_VIDEO_TYPES = range(1, 10), range(10, 13)


def option_loss(logits: Tensor, target_ids: Tensor) -> float:
    """logits (T, V), which predict target_ids (T,) -> their mean cross-entropy."""
    return float(F.cross_entropy(logits.float(), target_ids))


def likeliest(losses: Sequence[float]) -> int:
    """The option with the lowest loss; the first of equals."""
    return int(torch.tensor(losses).argmin())


@dataclass(frozen=True)
class SeedScores:
    """Per cent right, by type of question, of pictures (types 1 to 9), of videos (10 to 12) and of all."""

    per_type: dict[int, float]
    image: float
    video: float
    overall: float


def seed_scores(answers: Iterable[tuple[int, bool]]) -> SeedScores:
    """(type of the question, whether it was answered right) of each question."""
    right: dict[int, list[bool]] = {}
    for kind, is_right in answers:
        right.setdefault(kind, []).append(is_right)

    def share(kinds: Iterable[int]) -> float:
        chosen = [is_right for kind in kinds for is_right in right.get(kind, [])]
        return 100 * sum(chosen) / len(chosen) if chosen else float("nan")

    kinds = sorted(right)
    return SeedScores({k: share([k]) for k in kinds}, share(SEED_IMAGE_TYPES), share(SEED_VIDEO_TYPES), share(kinds))
