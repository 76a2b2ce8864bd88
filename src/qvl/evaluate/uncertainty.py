"""How sure a score is: the bootstrap, of one run and of two runs on the same questions.

A score is a weighted sum of means: of one mean, or of a subject's or subtask's each (Scored in scorers.py). Resampling
keeps each mean's number of units. Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapters 13 and 16.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
CONFIDENCE = 0.95
_BLOCK = 1 << 22  # counts drawn at once


@dataclass(frozen=True)
class Interval:
    """The middle 95 % of the scores of resampled sets."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """b minus a on the same units. p: how often a difference as large comes about where there is none (two-sided)."""

    mean: float
    interval: Interval
    p: float


def interval(values: Sequence[float], strata: Sequence[str], weights: dict[str, float], seed: int = 0) -> Interval:
    """Of a score that is the sum over strata of weight times the mean of its values."""
    return _middle(_resampled(values, strata, weights, seed))


def paired(
    a: Sequence[float], b: Sequence[float], strata: Sequence[str], weights: dict[str, float], seed: int = 0
) -> Difference:
    """Of two runs' values on the same units, in the same order."""
    differences = [y - x for x, y in zip(a, b, strict=True)]
    means = _resampled(differences, strata, weights, seed)
    observed = weighted(differences, strata, weights)
    # As many resamples as lie on the other side of zero, both ways; never less than one of them can tell.
    tail = min(float((means <= 0).mean()), float((means >= 0).mean()))
    p = 1.0 if not any(differences) else min(1.0, max(2 * tail, 1 / RESAMPLES))
    return Difference(observed, _middle(means), p)


def weighted(values: Sequence[float], strata: Sequence[str], weights: dict[str, float]) -> float:
    """The score itself."""
    return sum(weights[name] * float(chosen.mean()) for name, chosen in _by_stratum(values, strata).items())


def _by_stratum(values: Sequence[float], strata: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    all_values, names = np.asarray(values, np.float64), np.asarray(strata)
    return {str(name): all_values[names == name] for name in dict.fromkeys(strata)}


def _resampled(
    values: Sequence[float], strata: Sequence[str], weights: dict[str, float], seed: int
) -> NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    totals = np.zeros(RESAMPLES)
    for name, chosen in _by_stratum(values, strata).items():
        # How often each different value is drawn is all that matters: a few counts for hundreds of thousands of units.
        different, counts = np.unique(chosen, return_counts=True)
        block = max(1, _BLOCK // len(different))
        for start in range(0, RESAMPLES, block):
            size = min(block, RESAMPLES - start)
            drawn = generator.multinomial(len(chosen), counts / len(chosen), size=size)
            totals[start : start + size] += weights[name] * (drawn @ different) / len(chosen)
    return totals


def _middle(scores: NDArray[np.float64]) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(scores, [tail, 1 - tail])
    return Interval(float(low), float(high))
