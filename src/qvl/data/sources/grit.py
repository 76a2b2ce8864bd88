"""GRIT's captions with phrases and boxes: parsing, and the selection of phrases of which none lies inside another.

Source: paper appendix A.2 (a greedy pass keeps, per image, the set with the most boxes without recursive ones);
kosmos-2's README for the format: each of noun_chunks and ref_exps is a list of
[start, end, x_min, y_min, x_max, y_max, score], offsets into the caption, corners as shares of the image.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from qvl.errors import DataError

Corners = tuple[float, float, float, float]  # shares of width and height, 0..1


@dataclass(frozen=True)
class Phrase:
    """Caption characters [start, end) and the boxes that they name, from left to right."""

    start: int
    end: int
    boxes: tuple[Corners, ...]


def parse_phrases(row: dict[str, Any], columns: Iterable[str] = ("noun_chunks", "ref_exps")) -> list[Phrase]:
    """Phrases of a GRIT row, each span once with all of its boxes. DataError names an entry that does not fit."""
    caption = row.get("caption")
    if not isinstance(caption, str):
        raise DataError("no caption")
    spans: dict[tuple[int, int], dict[Corners, None]] = {}
    for column in columns:
        for entry in row.get(column) or ():
            start, end, corners = _parse_entry(entry, caption, column)
            spans.setdefault((start, end), {})[corners] = None
    return [Phrase(start, end, tuple(sorted(boxes))) for (start, end), boxes in sorted(spans.items())]


def _parse_entry(entry: Any, caption: str, column: str) -> tuple[int, int, Corners]:
    try:
        start, end, x1, y1, x2, y2 = (float(value) for value in entry[:6])
    except (TypeError, ValueError) as error:
        raise DataError(f"{column} entry {entry!r} is not [start, end, x1, y1, x2, y2, score]") from error
    if not (start.is_integer() and end.is_integer() and 0 <= start < end <= len(caption)):
        raise DataError(f"{column} entry {entry!r}: no characters of the caption")
    if not (-0.01 <= x1 < x2 <= 1.01 and -0.01 <= y1 < y2 <= 1.01):
        raise DataError(f"{column} entry {entry!r}: corners are not shares of the image, or inverted")
    return int(start), int(end), (max(x1, 0.0), max(y1, 0.0), min(x2, 1.0), min(y2, 1.0))


def select_phrases(phrases: Sequence[Phrase]) -> list[Phrase]:
    """The phrases to keep: none overlaps another, and together they have the most boxes.

    Of sets with equally many boxes the one whose phrases cover the most characters is taken: "a hat with a feather"
    says more than "a hat". A pass over the ends, each phrase placed behind the best set that ends before it
    begins (weighted interval scheduling), is exact, where taking the next best phrase is not: of one phrase with
    two boxes around three phrases with one box each, the three are kept. O(n log n).
    """
    ordered = sorted(phrases, key=lambda phrase: (phrase.end, phrase.start))
    ends = [phrase.end for phrase in ordered]
    best: list[tuple[int, int]] = [(0, 0)]  # (boxes, characters) of the best set among the first n phrases
    took: list[bool] = []
    for n, phrase in enumerate(ordered):
        before = bisect_right(ends, phrase.start, hi=n)
        boxes, characters = best[before]
        taken = (boxes + len(phrase.boxes), characters + phrase.end - phrase.start)
        took.append(taken > best[n])
        best.append(max(taken, best[n]))
    kept: list[Phrase] = []
    n = len(ordered)
    while n:
        if took[n - 1]:
            kept.append(ordered[n - 1])
            n = bisect_right(ends, ordered[n - 1].start, hi=n - 1)
        else:
            n -= 1
    return kept[::-1]


def nesting_depth(phrases: Sequence[Phrase]) -> int:
    """How many phrases lie one in (or over) another where most do: 1 where none overlaps another, 0 without any."""
    ends = sorted([(p.start, 1) for p in phrases] + [(p.end, -1) for p in phrases])  # an end comes before a start
    return max(accumulate((step for _, step in ends)), default=0)


def selection_counts(found: Sequence[Phrase], kept: Sequence[Phrase]) -> Counter[str]:
    """Statistics of one caption, to be added up over all."""
    counts = Counter({"captions": 1, f"captions with phrases nested {_some(nesting_depth(found), 4)} deep": 1})
    for state, phrases in (("found", found), ("kept", kept)):
        counts[f"phrases {state}"] = len(phrases)
        counts[f"boxes {state}"] = sum(len(phrase.boxes) for phrase in phrases)
    counts.update(f"kept phrases with boxes: {_some(len(phrase.boxes), 4)}" for phrase in kept)
    return counts


def _some(number: int, most: int) -> str:
    return f"{most} or more" if number >= most else str(number)
