"""Exact match of short answers. GQA, OCR-VQA, AI2D. Source: evaluate_vqa.py of the published code."""

from collections.abc import Sequence

_STARTS = ("is ", "are ", "a ", "an ", "the ")


def exact_answer(prediction: str, answers: str | Sequence[str]) -> bool:
    """Whether it is one of the answers, but for case and the space around."""
    said = prediction.strip().lower()
    return said in [answer.strip().lower() for answer in ([answers] if isinstance(answers, str) else answers)]


def gqa_answer(prediction: str) -> str:
    """A sentence cut to its answer, as the published code does it for GQA: by letters, without regard to words, so that
    "tennis racket" becomes "racket"."""
    text = prediction.strip()
    for mark in ".,!":
        text = text.partition(mark)[0]
    text = text.lower()
    for start in _STARTS:
        if start in text:
            text = text.split(start)[1]  # and no further than the next such start
    return text.partition(" of")[0].strip()
