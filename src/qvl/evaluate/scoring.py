"""Which metric scores which task, and what the best constant answer would get.

Metric names are the field's: cider (x100, as papers print it), vqa_accuracy, accuracy_iou50, exact_match.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from qvl.evaluate.metrics.cider import cider
from qvl.evaluate.metrics.grounding import accuracy_iou50, iou
from qvl.evaluate.metrics.text import exact_match, mean_edit_distance, vqa_accuracy
from qvl.text.markup import Box, Content, Ref, Text

Pairs = tuple[Sequence[Content], Sequence[Content]]  # predictions, references
SHORT_WORD = 6  # characters


def plain_text(content: Content) -> str:
    """The words of an answer, boxes left out."""
    return "".join(s.text for s in content if isinstance(s, Text | Ref)).strip()


def ocr_text(content: Content) -> str:
    """The words that were read, one space between them."""
    return " ".join(s.text for s in content if isinstance(s, Ref))


def first_box(content: Content) -> Box | None:
    return next((s for s in content if isinstance(s, Box)), None)


def _texts(pairs: Pairs, read: Callable[[Content], str] = plain_text) -> tuple[list[str], list[str]]:
    return [read(p) for p in pairs[0]], [read(r) for r in pairs[1]]


def _score_caption(pairs: Pairs) -> dict[str, float]:
    predictions, references = _texts(pairs)
    return {
        "cider": 100 * cider(predictions, [[r] for r in references]),
        "exact_match": exact_match(predictions, references),
    }


def _score_vqa(pairs: Pairs) -> dict[str, float]:
    return {"vqa_accuracy": vqa_accuracy(*_texts(pairs))}


def _score_box(pairs: Pairs) -> dict[str, float]:
    references = [first_box(r) for r in pairs[1]]
    kept = [(first_box(p), r) for p, r in zip(pairs[0], references, strict=True) if r is not None]
    predictions, boxes = [p for p, _ in kept], [r for _, r in kept]
    return {"accuracy_iou50": accuracy_iou50(predictions, boxes), "unparsed": predictions.count(None) / len(boxes)}


def _score_ocr(pairs: Pairs) -> dict[str, float]:
    predictions, references = _texts(pairs, ocr_text)
    scores = {
        "exact_match": exact_match(predictions, references),
        "edit_distance": mean_edit_distance(predictions, references),
    }
    short = [(p, r) for p, r in zip(predictions, references, strict=True) if " " not in r and len(r) <= SHORT_WORD]
    if short:
        scores["short_word_exact_match"] = exact_match([p for p, _ in short], [r for _, r in short])
    return scores


_SCORERS: dict[str, Callable[[Pairs], dict[str, float]]] = {
    "caption": _score_caption,
    "grounded_caption": _score_caption,
    "region_caption": _score_caption,
    "vqa": _score_vqa,
    "dialogue": _score_vqa,
    "referring": _score_box,
    "grounding": _score_box,
    "ocr": _score_ocr,
}
TASKS = tuple(_SCORERS)
MAIN_METRIC = {
    "caption": "cider",
    "grounded_caption": "cider",
    "region_caption": "cider",
    "vqa": "vqa_accuracy",
    "dialogue": "vqa_accuracy",
    "referring": "accuracy_iou50",
    "grounding": "accuracy_iou50",
    "ocr": "exact_match",
}


def score(task: str, predictions: Sequence[Content], references: Sequence[Content]) -> dict[str, float]:
    """All metrics of a task over its samples."""
    return _SCORERS[task]((predictions, references))


def best_constant(task: str, references: Sequence[Content]) -> dict[str, float]:
    """What one fixed answer to everything gets, chosen with the references in sight: the score of guessing.

    The most frequent text (for captions the best of the ten most frequent), or the reference box that
    overlaps most others.
    """
    if task in ("referring", "grounding"):
        boxes = [box for r in references if (box := first_box(r)) is not None]
        best = max(boxes, key=lambda box: sum(iou(box, other) >= 0.5 for other in boxes))
        return score(task, [(best,)] * len(references), references)
    metric = MAIN_METRIC[task]
    candidates = [content for content, _ in Counter(references).most_common(10)]
    tried = [score(task, [candidate] * len(references), references) for candidate in candidates]
    return max(tried, key=lambda scores: scores[metric])
