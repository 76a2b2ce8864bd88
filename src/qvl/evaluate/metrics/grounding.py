"""IoU of boxes. Source: evaluate_grounding.py of the published repository (RefCOCO, IoU at 0.5)."""

from collections.abc import Sequence

from qvl.text.markup import Box


def iou(a: Box, b: Box) -> float:
    """Intersection over union; 0 where both are empty."""
    width = max(0, min(a.x2, b.x2) - max(a.x1, b.x1))
    height = max(0, min(a.y2, b.y2) - max(a.y1, b.y1))
    shared = width * height
    union = (a.x2 - a.x1) * (a.y2 - a.y1) + (b.x2 - b.x1) * (b.y2 - b.y1) - shared
    return shared / union if union else 0.0


def accuracy_iou50(predictions: Sequence[Box | None], references: Sequence[Box]) -> float:
    """Share of boxes with an IoU of at least 0.5; None, an answer without a box, counts as wrong."""
    right = sum(p is not None and iou(p, r) >= 0.5 for p, r in zip(predictions, references, strict=True))
    return right / len(references)
