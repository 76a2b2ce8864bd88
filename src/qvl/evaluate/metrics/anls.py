"""ANLS: how near an answer is to the nearest of the right ones, in characters. DocVQA, InfoVQA.

Source: Biten et al. 2019 (arXiv 1907.00490) and infographicsvqa_eval.py of the published code. Its distance is of
texts without case and needless spaces, its length that of the texts as they came: needless spaces raise the score.
"""

from collections.abc import Sequence

from qvl.evaluate.metrics.text import edit_distance

THRESHOLD = 0.5  # of the similarity: what is below counts nothing


def anls(prediction: str, answers: Sequence[str], threshold: float = THRESHOLD) -> float:
    """0, or from threshold to 1."""
    similarity = 1.0 - min(_distance(prediction, answer) for answer in answers)
    return similarity if similarity >= threshold else 0.0


def _distance(prediction: str, answer: str) -> float:
    length = max(len(prediction.upper()), len(answer.upper()))  # upper, as there: "ß" counts twice
    return edit_distance(_folded(answer), _folded(prediction)) / length if length else 0.0


def _folded(text: str) -> str:
    return " ".join(text.strip().lower().split())
