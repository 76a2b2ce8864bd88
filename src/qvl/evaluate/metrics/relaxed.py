"""Relaxed accuracy: numbers may be 5% off. ChartQA.

Source: Methani et al. 2020 (arXiv 1909.00997) and evaluate_vqa.py of the published code, which swaps its arguments: the
5% are of the prediction, and a prediction of 0 is right only as the same text. Published numbers have it so.
"""

from collections.abc import Sequence

MAX_CHANGE = 0.05


def relaxed_match(prediction: str, answers: str | Sequence[str]) -> bool:
    """Whether one of the answers is matched, as the published code has it."""
    return any(within(prediction.strip(), answer) for answer in ([answers] if isinstance(answers, str) else answers))


def within(target: str, other: str) -> bool:
    """Whether a number is within 5% of the target, which is not 0; else whether the texts are equal but for case.
    "50%" is 0.5."""
    wanted, found = _number(target), _number(other)
    if wanted and found is not None:
        return abs(found - wanted) / abs(wanted) <= MAX_CHANGE
    return other.lower() == target.lower()


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        return None
