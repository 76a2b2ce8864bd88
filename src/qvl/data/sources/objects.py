"""ms-swift's grounding dialogues: texts with <ref-object> and <bbox>, and what belongs there in `objects`.

Source: ms-swift's documentation of custom data sets. objects holds ref (phrases) and bbox (corners x, y, x, y), each in
the order of its marks; bbox_type is real (pixels) or norm1 (shares of the side); image_id says for each real box which
image it is on, the first if it says nothing.
"""

import re
from collections.abc import Callable
from itertools import chain, repeat
from typing import Any

from qvl.data.sources.common import Frame
from qvl.errors import DataError
from qvl.text.markup import Box, Ref, to_string

MARKS = {"<ref-object>": "ref", "<bbox>": "bbox"}
_MARK = re.compile("|".join(MARKS))


def fill_marks(texts: list[str], objects: Any, size_of: Callable[[int], tuple[int, int]]) -> tuple[list[str], int]:
    """The texts of a dialogue with every mark replaced by its tags, boxes in [0, 1000); how many boxes were cut.

    size_of: index of an image -> its (width, height) in pixels. DataError for objects that don't fit their marks.
    """
    phrases, boxes = _lists(objects)
    kind = objects.get("bbox_type") or "real"
    if kind not in ("real", "norm1"):
        raise DataError("bbox_type in `objects` is neither real nor norm1")
    image_ids = objects.get("image_id") or []
    if not isinstance(image_ids, list) or not all(isinstance(index, int) for index in image_ids):
        raise DataError("image_id in `objects` is not a list of whole numbers")
    found, clipped = [], 0
    for corners, image in zip(boxes, chain(image_ids, repeat(0)), strict=False):
        frame = Frame(1, 1) if kind == "norm1" else Frame(*size_of(image))
        found.append(to_string((_box(corners, frame),)))
        clipped += frame.clipped
    left = {"ref": iter([to_string((Ref(phrase),)) for phrase in phrases]), "bbox": iter(found)}

    def tags(mark: re.Match[str]) -> str:
        if (tag := next(left[MARKS[mark[0]]], None)) is None:
            raise DataError(f"more {mark[0]} marks than `objects` has")
        return tag

    filled = [_MARK.sub(tags, text) for text in texts]
    if rest := [mark for mark, name in MARKS.items() if next(left[name], None) is not None]:
        raise DataError(f"`objects` has more than the {rest[0]} marks")
    return filled, clipped


def _lists(objects: Any) -> tuple[list[str], list[Any]]:
    phrases, boxes = ((objects.get(name) or [] if isinstance(objects, dict) else None) for name in ("ref", "bbox"))
    if not isinstance(boxes, list) or not isinstance(phrases, list) or not all(isinstance(p, str) for p in phrases):
        raise DataError("`objects` is not of the form ref: phrases, bbox: boxes")
    return phrases, boxes


def _box(corners: Any, frame: Frame) -> Box:
    """Any two opposite corners."""
    if not isinstance(corners, list) or not all(isinstance(n, int | float) for n in corners):
        raise DataError("a bbox in `objects` is not a list of numbers")
    if len(corners) != 4:
        raise DataError("a bbox in `objects` is not x, y, x, y: points can't be told in Qwen-VL's tags")
    x1, y1, x2, y2 = corners
    return frame.box((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)))
