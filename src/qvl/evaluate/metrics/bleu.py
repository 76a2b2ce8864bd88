"""BLEU of captions, smoothed as their scorers have it. Source: Papineni et al. 2002; pycocoevalcap's bleu_scorer."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_N = 4
_TINY, _SMALL = 1e-15, 1e-9  # added to what is right and to what was said

Words = Sequence[str]


@dataclass(frozen=True)
class BleuCounts:
    """What a caption gives to the score of a set: its words, those of the nearest reference (the shorter of two), and
    of its n-grams how many there are and how many are right."""

    length: int
    reference_length: int
    said: tuple[int, ...]
    right: tuple[int, ...]


def bleu_counts(prediction: Words, references: Sequence[Words]) -> BleuCounts:
    """Of one caption."""
    most: Counter[tuple[str, ...]] = Counter()
    for reference in references:
        most |= _ngrams(reference)
    right = [0] * MAX_N
    for ngram, count in _ngrams(prediction).items():
        right[len(ngram) - 1] += min(count, most[ngram])
    length = len(prediction)
    nearest = min((abs(len(reference) - length), len(reference)) for reference in references)[1]
    said = tuple(max(0, length - n) for n in range(MAX_N))
    return BleuCounts(length, nearest, said, tuple(right))


def bleu(counts: Iterable[BleuCounts]) -> list[float]:
    """BLEU-1 to BLEU-4 of a set, or of the one caption in it."""
    counts = list(counts)
    product, scores = 1.0, []
    for n in range(MAX_N):
        right, said = sum(c.right[n] for c in counts), sum(c.said[n] for c in counts)
        product *= (right + _TINY) / (said + _SMALL)
        scores.append(product ** (1 / (n + 1)))
    ratio = (sum(c.length for c in counts) + _TINY) / (sum(c.reference_length for c in counts) + _SMALL)
    penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    return [score * penalty for score in scores]


def _ngrams(words: Words) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for n in range(1, MAX_N + 1) for i in range(len(words) - n + 1))
