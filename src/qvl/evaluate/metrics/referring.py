"""Referring expressions: the first box of an answer beside the right one. RefCOCO, RefCOCO+, RefCOCOg, GRIT refexp.

Source: evaluate_grounding.py of the published code. A box lies on a grid of 0 to 999 and is divided by 999; corners are
taken as they come; everything is float32, by whose last bit an IoU of 0.5 is decided.
"""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

GRID = 999
ENOUGH = 0.5  # IoU
_CORNERS = re.compile(r"\((.*?)\),\((.*?)\)")


def answered_box(answer: str, width: int, height: int) -> NDArray[np.float32]:
    """The first box of an answer in pixels, (4,): x1, y1, x2, y2; zeros where there is none."""
    found = _CORNERS.search(answer)
    try:
        corners = [[float(number) for number in corner.split(",")] for corner in found.groups()] if found else []
    except ValueError:
        corners = []
    if [len(corner) for corner in corners] != [2, 2]:
        return np.zeros(4, np.float32)
    box = np.array([*corners[0], *corners[1]], np.float32) / np.float32(GRID)
    return box * np.array([width, height, width, height], np.float32)


def iou(box: NDArray[np.float32], right: Sequence[float]) -> float:
    """Intersection over union of two boxes in pixels; NaN where both have no area."""
    a, b = box, np.array(right, np.float32)
    with np.errstate(all="ignore"):  # an answer may hold any numbers
        sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), np.float32(0))
        shared = sides[0] * sides[1]
        areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
        return float(shared / (areas[0] + areas[1] - shared))


def is_right(answer: str, right: Sequence[float], width: int, height: int) -> bool:
    """Whether the box of the answer is near enough. right: x1, y1, x2, y2 in pixels."""
    return iou(answered_box(answer, width, height), right) >= ENOUGH
