"""Which metric scores which task, and what the best constant answer would get.

Metric names are the field's: cider (x100, as papers print it), vqa_accuracy, accuracy_iou50, exact_match.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any

from qvl.errors import DataError
from qvl.evaluate.metrics.cider import cider, tokenise
from qvl.evaluate.metrics.grounding import accuracy_iou50, iou
from qvl.evaluate.metrics.text import exact_match, mean_edit_distance, vqa_accuracy
from qvl.text.markup import Box, Content, Ref, Text

LOWER_IS_BETTER = frozenset({"edit_distance", "unparsed"})
CONSTANTS_TRIED = 10
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


def _true_box(reference: Content) -> Box:
    if (box := first_box(reference)) is None:
        raise DataError("a sample that asks for a box has none in its answer; see `qvl data lint`")
    return box


def _texts(pairs: Pairs, read: Callable[[Content], str] = plain_text) -> tuple[list[str], list[str]]:
    return [read(p) for p in pairs[0]], [read(r) for r in pairs[1]]


def caption_scores(predictions: Sequence[Content], references: Sequence[Content]) -> list[float]:
    """CIDEr-D of each caption, about 0 to 10; of Chinese, each character is a word."""
    said, wanted = _texts((predictions, references))
    return cider(list(map(tokenise, said)), [[tokenise(text)] for text in wanted])


def _score_caption(pairs: Pairs) -> dict[str, float]:
    return {"cider": 100 * mean(caption_scores(*pairs)), "exact_match": exact_match(*_texts(pairs))}


def _score_vqa(pairs: Pairs) -> dict[str, float]:
    return {"vqa_accuracy": vqa_accuracy(*_texts(pairs))}


def _score_dialogue(pairs: Pairs) -> dict[str, float]:
    right = sum(same_answer(p, r) for p, r in zip(*pairs, strict=True))
    return {"last_answer_accuracy": right / len(pairs[1])}


def same_answer(prediction: Content, reference: Content) -> bool:
    """The same words, and where the reference has a box one that overlaps it: its phrase only repeats the question."""
    if not vqa_accuracy([plain_text(prediction)], [plain_text(reference)]):
        return False
    return (true := first_box(reference)) is None or bool(accuracy_iou50([first_box(prediction)], [true]))


def _score_box(pairs: Pairs) -> dict[str, float]:
    predictions = [first_box(p) for p in pairs[0]]
    references = [_true_box(r) for r in pairs[1]]
    return {
        "accuracy_iou50": accuracy_iou50(predictions, references),
        "unparsed": predictions.count(None) / len(references),
    }


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
    "dialogue": _score_dialogue,
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
    "dialogue": "last_answer_accuracy",
    "referring": "accuracy_iou50",
    "grounding": "accuracy_iou50",
    "ocr": "exact_match",
}


def score(task: str, predictions: Sequence[Content], references: Sequence[Content]) -> dict[str, float]:
    """All metrics of a task over its samples."""
    return _SCORERS[task]((predictions, references))


def summary_lines(scores: dict[str, Any]) -> list[str]:
    """For the terminal: each task's main metric by language, and what guessing gets."""
    lines = []
    for task in TASKS:
        groups = {language: scores[language][task] for language in scores if task in scores[language]}
        if groups:
            metric = MAIN_METRIC[task]
            shown = "  ".join(f"{language} {group['scores'][metric]:.3f}" for language, group in groups.items())
            guess = groups["all"]["best_constant"][metric]
            lines.append(f"{task:17} {metric:15} {shown}  (constant answer {guess:.3f})")
    return lines


def best_constant(task: str, references: Sequence[Content]) -> dict[str, float]:
    """What one fixed answer to everything gets, chosen with the references in sight: the score of guessing.

    Each metric has the best of the most frequent texts, or of the box that overlaps most others.
    """
    tried = [score(task, [constant] * len(references), references) for constant in _constants(task, references)]
    return {
        metric: (min if metric in LOWER_IS_BETTER else max)(scores[metric] for scores in tried) for metric in tried[0]
    }


def _constants(task: str, references: Sequence[Content]) -> list[Content]:
    """The answers worth repeating: boxes and quads differ everywhere, so texts are counted without them."""
    if task in ("referring", "grounding"):
        boxes = [_true_box(r) for r in references]
        return [(max(boxes, key=lambda box: sum(iou(box, other) >= 0.5 for other in boxes)),)]
    if task == "ocr":
        read = Counter(ocr_text(r) for r in references).most_common(CONSTANTS_TRIED)
        return [(Ref(text),) for text, _ in read]
    said = Counter(plain_text(r) for r in references).most_common(CONSTANTS_TRIED)
    return [(Text(text),) for text, _ in said]
