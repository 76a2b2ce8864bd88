"""Exact match, VQA accuracy and edit distance of short strings."""

import re
import unicodedata
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = re.compile(r"[.,!?;:\"'“”‘’。，！？；：、]+")


def normalise_answer(text: str) -> str:
    """Width and case folded, articles and punctuation dropped, spaces joined: what two answers share."""
    folded = unicodedata.normalize("NFKC", text).lower()
    return " ".join(_ARTICLES.sub(" ", _PUNCTUATION.sub(" ", folded)).split())


def vqa_accuracy(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Share of answers that equal their one reference after normalisation."""
    pairs = zip(predictions, references, strict=True)
    return sum(normalise_answer(p) == normalise_answer(r) for p, r in pairs) / len(references)


def exact_match(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Share of strings that are equal, character by character."""
    return sum(p == r for p, r in zip(predictions, references, strict=True)) / len(references)


def edit_distance(a: str, b: str) -> int:
    """Levenshtein distance in characters."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        corner, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (x != y))
    return row[-1]


def mean_edit_distance(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Mean over pairs of the distance over the longer string's length: 0 is right, 1 shares nothing."""
    pairs = list(zip(predictions, references, strict=True))
    return sum(edit_distance(p, r) / max(len(p), len(r), 1) for p, r in pairs) / len(pairs)
